"""Dual scan's two sides: how KV memory is divided between the compute-heavy and the memory-heavy
end, and who holds what.

Engines that admit in order keep all requests on the left side; its list is then simply the order of
admission.
"""

import numpy as np

from blendsim.arrays import Ints
from blendsim.compiled import allocating_kernel, kernel
from blendsim.perf.density import left_fraction
from blendsim.serving.kinds import spread_of
from blendsim.serving.microbatch import upcoming_step
from blendsim.serving.state import DECODING, LEFT, NONE, RIGHT, State


@kernel
def generated_tokens(state: State, request: int) -> int:
    """Output tokens the request has generated before this step."""
    r = state.requests[request]
    if r.status == DECODING:
        return r.generated + upcoming_step(state, request) - r.start_step
    return r.generated


@kernel
def private_tokens(state: State, request: int) -> int:
    """Tokens the request holds for itself once prefilled: all but its shared path, half a block for
    rounding, and its window.
    """
    s = state.scalars[0]
    r = state.requests[request]
    block = s.block_tokens
    return r.target - block * (r.path_blocks - s.window_blocks) + block // 2


@kernel
def reservation(state: State, request: int) -> int:
    """Tokens a request counts for on its side: its unshared prompt and the flavour's share of the
    output still expected, half of it in the paper.
    """
    s = state.scalars[0]
    owed = max(1, state.requests[request].expected - generated_tokens(state, request))
    share = s.output_reserved * spread_of(state, request)
    return private_tokens(state, request) + int(share * owed)


@kernel
def left_share(state: State) -> float:
    """M_L in tokens, for the requests next in line at the two ends: the paper's §5.3, clamped to
    [0, M], and M/2 when at most one is left.

    M is what the shared prefixes in use leave of the capacity. M_L + M_R = M and M_L·ρ_L + M_R·ρ_R
    = M·ρ_root.
    """
    s = state.scalars[0]
    memory = float((s.capacity - s.shared_length) * s.block_tokens)
    front = max(s.front, s.first_count)  # while sampled requests enter, the ends have not moved
    if front >= s.back:
        return memory / 2
    left, right = state.density[state.queue[front]], state.density[state.queue[s.back]]
    return memory * left_fraction(left, right, s.root_density)


@kernel
def first_side(state: State, left: float) -> int:
    """The side that the dual scan tries first: the one whose reserved tokens are the smaller share
    of what it may have, `left` tokens of M for the left (`left_share`).
    """
    s = state.scalars[0]
    memory = float((s.capacity - s.shared_length) * s.block_tokens)
    # left / share ≤ right / (memory − share), without dividing by a share of 0
    return LEFT if s.left_reserved * (memory - left) <= s.right_reserved * left else RIGHT


@kernel
def is_within_side(state: State, request: int, side: int, left: float) -> bool:
    """Whether the request's side has room for it, or nothing yet; `left` tokens are the left's."""
    s = state.scalars[0]
    memory = float((s.capacity - s.shared_length) * s.block_tokens)
    held = s.left_reserved if side == LEFT else s.right_reserved
    limit = left if side == LEFT else memory - left
    return held == 0 or held + reservation(state, request) <= limit


@kernel
def enter_side(state: State, request: int, side: int, as_oldest: bool) -> None:
    """Count the request on `side`, as its newest member or, when it moved over in mid-run, as its
    oldest.
    """
    s = state.scalars[0]
    r = state.requests[request]
    r.side = side
    r.reserved = reservation(state, request)
    newest = s.left_newest if side == LEFT else s.right_newest
    oldest = s.left_oldest if side == LEFT else s.right_oldest
    r.older = NONE
    r.newer = NONE
    if newest == NONE:
        newest = request
        oldest = request
    elif as_oldest:
        r.newer = oldest
        state.requests[oldest].older = request
        oldest = request
    else:
        r.older = newest
        state.requests[newest].newer = request
        newest = request
    if side == LEFT:
        s.left_reserved += r.reserved
        s.left_newest = newest
        s.left_oldest = oldest
    else:
        s.right_reserved += r.reserved
        s.right_newest = newest
        s.right_oldest = oldest


@kernel
def leave_side(state: State, request: int) -> None:
    """Count the request on its side no longer."""
    s = state.scalars[0]
    r = state.requests[request]
    if r.older != NONE:
        state.requests[r.older].newer = r.newer
    elif r.side == LEFT:
        s.left_oldest = r.newer
    else:
        s.right_oldest = r.newer
    if r.newer != NONE:
        state.requests[r.newer].older = r.older
    elif r.side == LEFT:
        s.left_newest = r.older
    else:
        s.right_newest = r.older
    if r.side == LEFT:
        s.left_reserved -= r.reserved
    else:
        s.right_reserved -= r.reserved


@kernel
def victim(state: State) -> int:
    """Who is preempted when blocks run out: the newest of the side further over its share."""
    s = state.scalars[0]
    if s.dual_scan == 0 or s.right_newest == NONE:
        return s.left_newest
    if s.left_newest == NONE:
        return s.right_newest
    memory = (s.capacity - s.shared_length) * s.block_tokens
    share = left_share(state)
    if s.left_reserved - share >= s.right_reserved - (memory - share):
        return s.left_newest
    return s.right_newest


@allocating_kernel
def running_requests(state: State) -> Ints:
    """Who runs: left side first, the newest admission of a side first."""
    s = state.scalars[0]
    found = np.empty(s.running, np.int64)
    at = 0
    for newest in (s.left_newest, s.right_newest):
        k = newest
        while k != NONE:
            found[at] = k
            at += 1
            k = state.requests[k].older
    return found
