"""Admission: who enters next, in order or by dual scan, and whether there is room.

Preempted requests come back first. Then the sampled requests run, in order. The rest enters from
the front, or from both ends: the side that fills less of its memory share goes first, and a side
that holds its share waits.
"""

from blendsim.compiled import kernel
from blendsim.serving.forecast import expect, expected_end, peak_fits
from blendsim.serving.host import fetch, has_host
from blendsim.serving.kinds import joins_kind
from blendsim.serving.kv import (
    cached_blocks,
    hold_path,
    hold_window,
    idle_path_blocks,
    take_blocks,
)
from blendsim.serving.microbatch import first_back
from blendsim.serving.sides import (
    enter_side,
    first_side,
    is_within_side,
    left_share,
    private_tokens,
)
from blendsim.serving.state import LEFT, NONE, PREFILLING, RIGHT, State


@kernel
def hit_blocks(state: State, request: int) -> int:
    """Cached blocks the request starts behind if it enters now.

    The last token is always computed, since its logits give the next one.
    """
    last = state.requests[request].target - 1
    return min(cached_blocks(state, request), last // state.scalars[0].block_tokens)


@kernel
def has_room(state: State, request: int) -> bool:
    """Whether the request may enter: its whole prompt fits in blocks that are free or can be
    evicted, and the flavour's forecast holds.
    """
    return fits_beside(state, request, 0)


@kernel
def fits_beside(state: State, request: int, kept: int) -> bool:
    """`has_room` if the forecast is to keep that many tokens for the compute-heavy end."""
    s = state.scalars[0]
    return has_blocks(state, request) and (
        s.predicted_peak == 0 or s.running == 0 or peak_fits(state, request, kept)
    )


@kernel
def has_blocks(state: State, request: int) -> bool:
    """Whether the request's prompt and window fit in blocks that are free or can be evicted."""
    s = state.scalars[0]
    target = state.requests[request].target
    need = (target + s.block_tokens - 1) // s.block_tokens - hit_blocks(state, request)
    return need + s.window_blocks <= s.free + s.idle - idle_path_blocks(state, request)


@kernel
def leave_stack(state: State, at: int) -> None:
    """Take who stands there in `state.queue` out of the stack of preempted requests."""
    s = state.scalars[0]
    for place in range(at, len(state.queue) - s.requeued, -1):
        state.queue[place] = state.queue[place - 1]
    s.requeued -= 1


@kernel
def next_request(state: State) -> int:
    """The waiting request to admit now, or NONE; its `side` is set. Takes it out of the waiting
    line.
    """
    s = state.scalars[0]
    if s.requeued > 0:
        at = first_back(state)
        if at < len(state.queue):
            k = state.queue[at]
            if not has_room(state, k):
                return NONE
            leave_stack(state, at)
            return k
    if s.front > s.back:
        return NONE
    if s.dual_scan == 0 or s.front < s.first_count:
        k = state.queue[s.front]
        side = LEFT
        if s.dual_scan == 1 and state.density[k] < s.root_density:
            side = RIGHT
        if not has_room(state, k):
            return NONE
        s.front += 1
        state.requests[k].side = side
        return k
    share = left_share(state)
    side = first_side(state, share)
    for _ in range(2):
        k = state.queue[s.front if side == LEFT else s.back]
        if is_within_side(state, k, side, share) and has_room(state, k):
            if side == LEFT:
                s.front += 1
            else:
                s.back -= 1
            state.requests[k].side = side
            return k
        side = RIGHT if side == LEFT else LEFT
    return NONE


@kernel
def load(state: State, request: int) -> None:
    """Bring what the request finds on the host back to the GPU."""
    take_blocks(state, fetch(state, request))


@kernel
def admit(state: State, request: int) -> int:
    """Let the request in: hold its path and start its prefill behind what is cached or on the host.
    Returns the tokens hit.
    """
    s = state.scalars[0]
    r = state.requests[request]
    r.computed = s.block_tokens * hit_blocks(state, request)
    hold_path(state, request)
    hold_window(state)
    if has_host(state):
        load(state, request)
    r.status = PREFILLING
    base = private_tokens(state, request) - s.step
    if not joins_kind(state, request, base):
        expect(state, request, expected_end(state, request), base)
    enter_side(state, request, r.side, False)
    s.running += 1
    return r.computed
