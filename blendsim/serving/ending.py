"""Answers that end early: a request whose output turns out to be over before the length it was
given, as when the model ends it.

Whoever drives the core learns of it between steps, when the request decodes, waits to come back
from a preemption or recomputes after one. It leaves as if what it has generated had been its output
from the beginning.
"""

from typing import Any

import numpy as np

from blendsim.arrays import Ints
from blendsim.compiled import kernel, kernel_where, rare_kernel
from blendsim.serving.admission import leave_stack
from blendsim.serving.batcher import finish, stop_decoding
from blendsim.serving.columns import FINISHED
from blendsim.serving.host import forget_hosted, has_host, hosted_blocks
from blendsim.serving.kv import append_node, private_blocks, unlink_node
from blendsim.serving.pacing import note_finished, note_waiting
from blendsim.serving.sides import generated_tokens
from blendsim.serving.state import DECODING, DONE, NONE, PREFILLING, RIGHT, WAITING, State


@kernel
def place_in_stack(state: State, request: int) -> int:
    """Where in `state.queue` a preempted request stands."""
    at = len(state.queue) - state.scalars[0].requeued
    while state.queue[at] != request:
        at += 1
    return int(at)


@kernel
def lose_waiting(state: State, k: int) -> None:
    """Node k has one waiting reader less; idle and without any it is dead, the youngest of those.

    NOTE: whatever hangs from it died before it and is older, so it is still evicted first.
    """
    node = state.nodes[k]
    if node.waiting > 1 or node.readers > 0 or node.cached == 0:
        node.waiting -= 1
        return
    unlink_node(state, k)
    node.waiting = 0
    append_node(state, k)


@kernel
def await_no_more(state: State, request: int) -> None:
    """The request is no waiting reader any more, and will not enter either."""
    own = state.scalars[0].own_nodes
    if own > 0:
        lose_waiting(state, own + request)
    k = state.requests[request].node
    while k > 0:
        lose_waiting(state, k)
        k = state.nodes[k].parent


@kernel
def forget_stored(state: State, request: int) -> None:
    """What the host keeps for the request alone leaves it."""
    s = state.scalars[0]
    r = state.requests[request]
    number = private_blocks(state, request, r.hosted)
    s.host_private -= number
    s.host_free += number
    r.hosted = 0
    if s.own_nodes > 0:
        own = s.own_nodes + request
        forget_hosted(state, own, hosted_blocks(state, own))


@kernel_where("pace", lambda state, request: None)
def count_end(state: State, request: int) -> None:
    """The request, which was a member of its kind until it was preempted, counts among the kind's
    ends.
    """
    r = state.requests[request]
    if r.side == RIGHT and r.kind != NONE:
        k = state.pace[0].kinds[r.kind]
        k.ended += 1.0
        k.served += r.output / r.estimate


@kernel
def finish_waiting(state: State, request: int) -> None:
    """`finish` for a preempted request, which has left but for its place in line."""
    s = state.scalars[0]
    leave_stack(state, place_in_stack(state, request))
    note_waiting(state, request, -1.0)
    if s.knows_plan == 1:
        await_no_more(state, request)
    if has_host(state):
        forget_stored(state, request)
    note_finished(state, request)
    count_end(state, request)
    state.requests[request].status = DONE
    s.done += 1
    state.counts[FINISHED] += 1


@rare_kernel
def end(state: State, requests: Ints) -> int:
    """These requests have their whole output; returns how many of them had not before."""
    s = state.scalars[0]
    number = 0
    for k in requests:
        r = state.requests[k]
        if r.status == DONE:
            continue
        number += 1
        r.output = generated_tokens(state, k)
        if r.status == DECODING:
            stop_decoding(state, k, s.step)
            finish(state, k, r.start_context + s.step - r.start_step - 1)
        elif r.status == PREFILLING:
            s.prefilling = NONE
            finish(state, k, r.computed)
        else:
            finish_waiting(state, k)
    return number


def check_ends(state: State, requests: Ints) -> None:
    """Assert that each of the requests is done or can be."""
    columns: Any = state.requests[requests]
    known = np.isin(columns.status, (WAITING, PREFILLING, DECODING, DONE))
    assert bool(known.all()), "nothing ends while its KV is on its way"
    # NOTE: a decoding request has generated the token that its prompt ended with.
    begun = (columns.status == DONE) | (columns.generated > 0)
    assert bool(begun.all()), "an answer that ends has a token at least"
