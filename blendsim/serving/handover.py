"""Handing a prompt's KV from a prefill replica to a decode replica.

A finished prompt's blocks, those of its window among them, are *lent* until its KV has been moved:
they count to no account of the prefill replica and are off its capacity, so that its admission sees
less room and waits. A decode replica takes as many before the KV sets out, counts the request in
its forecast from then on, and decodes it from the first step after the KV is there.
"""

import numpy as np

from blendsim.arrays import Bools, Ints
from blendsim.compiled import allocating_kernel, kernel
from blendsim.serving.batcher import start_decoding
from blendsim.serving.forecast import expect, expected_end, peak_fits, renew_estimates
from blendsim.serving.kv import extend, hold_path, hold_window, left_behind, private_blocks, release
from blendsim.serving.sides import enter_side, private_tokens
from blendsim.serving.state import ARRIVING, DONE, LEFT, LENT, State


@kernel
def lend(state: State, request: int) -> None:
    """Keep the blocks and the path of a prompt that ended in the step just committed."""
    s = state.scalars[0]
    r = state.requests[request]
    blocks = private_blocks(state, request, r.target) + s.window_blocks
    left = left_behind(state, request)
    hold_path(state, request)  # NOTE: this takes back what it left behind, as private blocks
    s.private -= left
    s.free -= blocks - left
    s.capacity -= blocks
    s.lent += blocks
    r.status = LENT


@kernel
def take_back(state: State, request: int) -> None:
    """The KV has been moved: the blocks become what those of a leaving request become."""
    s = state.scalars[0]
    r = state.requests[request]
    blocks = private_blocks(state, request, r.target) + s.window_blocks
    s.lent -= blocks
    s.capacity += blocks
    s.private += blocks
    release(state, request, r.target, r.target)
    r.status = DONE


@kernel
def can_receive(state: State, request: int) -> bool:
    """Whether a decode replica between two steps has room for a finished prompt; those that were
    preempted come first.
    """
    s = state.scalars[0]
    inside = s.running + s.arriving
    blocks = private_blocks(state, request, state.requests[request].target) + s.window_blocks
    if s.requeued > 0 or inside >= s.max_running or blocks > s.free + s.idle:
        return False
    if s.predicted_peak == 0 or inside == 0:
        return True
    renew_estimates(state)
    return peak_fits(state, request, 0)


@kernel
def receive(state: State, request: int) -> None:
    """Take the prompt's blocks; its KV sets out now."""
    s = state.scalars[0]
    r = state.requests[request]
    r.status = ARRIVING
    extend(state, request, 0, r.target)
    hold_window(state)
    expect(state, request, expected_end(state, request), private_tokens(state, request) - s.step)
    s.arriving += 1


@kernel
def take_in(state: State, request: int) -> None:
    """The KV is there: the request decodes from the upcoming step on."""
    s = state.scalars[0]
    enter_side(state, request, LEFT, False)
    s.arriving -= 1
    s.running += 1
    s.step -= 1  # as if its prompt had ended here in the step before
    start_decoding(state, request)
    s.step += 1


@allocating_kernel
def lend_ended(state: State, goes_on: Bools) -> Ints:
    """Lend the prompts that ended in the step just committed and whose request `goes_on`; returns
    them, in that order.
    """
    lent = np.empty(state.scalars[0].completed, np.int64)
    number = 0
    for j in range(len(lent)):
        if goes_on[state.ended[j]]:
            lend(state, state.ended[j])
            lent[number] = state.ended[j]
            number += 1
    return lent[:number]


@kernel
def take_back_all(state: State, requests: Ints) -> None:
    """Take them back in this order."""
    for k in requests:
        take_back(state, k)


@kernel
def receive_first(state: State, requests: Ints) -> int:
    """Receive them in this order up to the first that finds no room; returns how many."""
    for j in range(len(requests)):
        if not can_receive(state, requests[j]):
            return j
        receive(state, requests[j])
    return len(requests)


@kernel
def take_in_all(state: State, requests: Ints) -> None:
    """Take them in in this order."""
    for k in requests:
        take_in(state, k)
