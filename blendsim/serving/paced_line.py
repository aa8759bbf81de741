"""The line of a paced plan: who enters from which end, and who is thrown out.

The memory-heavy end enters whenever the forecast has room for it beside what is kept for the
compute-heavy end, the longest expected output first. The compute-heavy end is taken from both its
ends, so that the KV it holds stays about the same throughout the run: long answers while it holds
less than its even share, short ones while it holds more.

Answers of one length that enter together would end together, and the cache be half empty in the
mean: it is full only just before. So the memory-heavy end enters no faster than lets its ends
spread over time.
"""

import numpy as np

from blendsim.arrays import Ints
from blendsim.compiled import kernel, kernel_where, rare_kernel
from blendsim.serving.admission import fits_beside, has_blocks, hit_blocks, next_request
from blendsim.serving.forecast import end_bucket, expected_end, left_peak_fits, peak_fits
from blendsim.serving.remaining import MARGIN
from blendsim.serving.sides import private_tokens, victim
from blendsim.serving.state import BUCKETS, LEFT, NONE, RIGHT, State

#: Ends are counted over the time in which so many requests of one kind end: of fewer one more or
#: less would be too much.
ALIKE = 4.0
TURNS = 2.0  # requests like one that is held up could still follow each other so many times
RETRY_STEPS = 8  # steps from a request of the right end without room to the next try


@kernel
def nearest_waiting(jump: Ints, place: int) -> int:
    """The nearest place at or left of `place` whose request waits, or NONE; shortens the way."""
    root = place
    while root >= 0 and jump[root] != root:
        root = jump[root]
    while place >= 0 and place != root:
        following = jump[place]
        jump[place] = root
        place = following
    return root


@kernel
def take(state: State, place: int) -> int:
    """Take the request at a place out of the line; returns it."""
    s = state.scalars[0]
    p = state.pace[0].record[0]
    jump = state.pace[0].jump
    jump[place] = place - 1
    p.holes += 1
    while s.front <= s.back and jump[s.front] != s.front:
        s.front += 1
        p.holes -= 1
    if s.front <= s.back and jump[s.back] != s.back:
        before = nearest_waiting(jump, s.back)
        p.holes -= s.back - before
        s.back = before
    return state.queue[place]


@kernel
def finds_prefix(state: State, request: int) -> bool:
    """Whether what the cache lacks of the request's shared path is no more than what it will hold
    for itself. Who is out of turn and finds less would bring in a prefix for itself alone, which
    gives way before its other readers come, and others' with it.
    """
    missing = state.requests[request].path_blocks - hit_blocks(state, request)
    return missing * state.scalars[0].block_tokens <= private_tokens(state, request)


@rare_kernel
def longest_fitting(state: State, kept: int) -> int:
    """Place of the request of the memory-heavy end with the longest expected output that may enter,
    or NONE. The last in line if that one may; else by halving, as if who is further left is
    shorter, among those that find their prefix.
    """
    s = state.scalars[0]
    jump = state.pace[0].jump
    last = state.queue[s.back]
    if state.requests[last].side == LEFT:
        return NONE
    if may_enter(state, last, kept):
        return s.back
    low, high, found = s.front, s.back - 1, NONE
    while low <= high:
        middle = (low + high + 1) // 2
        at = nearest_waiting(jump, middle)
        if at < low:
            low = middle + 1
            continue
        k = state.queue[at]
        if state.requests[k].side == LEFT:
            low = middle + 1
        elif may_enter(state, k, kept):
            if finds_prefix(state, k):
                found = at
            low = middle + 1
        else:
            high = at - 1
    return found


@kernel
def retry_steps(state: State) -> int:
    """Steps until the right end is tried again: `RETRY_STEPS`, or fewer if the last in line would
    end in the next bucket of time by then.
    """
    s = state.scalars[0]
    end = expected_end(state, state.queue[s.back])
    return min(RETRY_STEPS, s.bucket_steps - end % s.bucket_steps)


@kernel_where("pace", lambda state: next_request(state))
def next_to_enter(state: State) -> int:
    """`next_request` for a paced plan: preempted requests, the sampled ones in order, then the
    right end while it has room, then the left.
    """
    s = state.scalars[0]
    p = state.pace[0].record[0]
    kept = kept_for_left(state)
    if s.requeued > 0:
        k = state.queue[len(state.queue) - s.requeued]
        if fits(state, k, kept):
            s.requeued -= 1
            return k
        if state.requests[k].side == LEFT:
            return NONE
    if s.front > s.back:
        return NONE
    if s.front < s.first_count:
        return take(state, s.front) if fits(state, state.queue[s.front], kept) else NONE
    is_time = s.step >= p.blocked_until and s.context < p.most_context
    if s.requeued == 0 and (s.running == 0 or is_time):
        place = longest_fitting(state, kept)
        if place != NONE:
            return take(state, place)
        p.blocked_until = s.step + retry_steps(state)
    place = left_place(state)
    k = state.queue[place]
    if state.requests[k].side == RIGHT or not fits_left(state, k):
        return NONE
    return take(state, place)


@kernel
def fits(state: State, request: int, kept: int) -> bool:
    """Whether the request may enter on its side; `kept` as in `fits_right`."""
    if state.requests[request].side == RIGHT:
        return fits_right(state, request, kept)
    return fits_left(state, request)


@kernel
def fits_right(state: State, request: int, kept: int) -> bool:
    """Whether the request may enter on the memory-heavy side; `kept` tokens are left to the other
    side, if anybody waits to fill them.
    """
    s = state.scalars[0]
    return fits_beside(state, request, kept if s.front <= s.back else 0)


@kernel
def may_enter(state: State, request: int, kept: int) -> bool:
    """Whether the request may enter from the right end of the line."""
    room = kept + kept_empty(state, request)
    return ends_apart(state, request) and fits_right(state, request, room)


@kernel
def kept_empty(state: State, request: int) -> int:
    """KV tokens that the request is to leave empty, so that there are reads until the longest
    visible length ends. Who takes about as long as that is not to begin late.
    """
    s, p = state.scalars[0], state.pace[0].record[0]
    ends_late = s.step + (1.0 + MARGIN) * state.requests[request].expected >= p.longest_end
    return 0 if ends_late else int(p.kept_empty)


@kernel
def ends_apart(state: State, request: int) -> bool:
    """Whether the request and those expected to end up to so long before it, or in its bucket of
    time if that is longer, hold no more at their ends than `crowd` times what would leave in that
    time if the cache were full of requests like this one, their ages spread evenly.

    Of requests that stay d steps and hold F tokens at last, C / (F − d/2) fill a cache of C tokens
    so, and F / d tokens of each leave it a step. Lengths that are not known end apart by
    themselves, and who takes long beside the steps left is not to begin late.
    """
    s = state.scalars[0]
    if s.running == 0 or state.requests[request].kind != NONE:
        return True
    end = expected_end(state, request)
    stays = float(end - s.step)
    if TURNS * stays > state.pace[0].record[0].steps_left:
        return True
    final = float(private_tokens(state, request)) + stays
    capacity = float((s.capacity - s.shared_length) * s.block_tokens)
    even = final * capacity / (final - stays / 2.0) / stays * s.bucket_steps  # in a bucket of time
    # Ends are known by bucket only: of a part of one nothing can be said, and those of the last
    # count in full, so that it counts in full.
    wide = max(1.0, min(ALIKE * final / even, BUCKETS / 4.0))
    last = end_bucket(state, end)
    first = last + 1.0 - wide
    together = final / 2.0  # a half: their number is rounded to the nearest, not down
    for b in range(max(s.current_bucket, int(np.floor(first))), last + 1):
        share = min(1.0, b + 1.0 - first)
        together += share * float(state.buckets[b % BUCKETS].final_sum)
    return bool(together <= state.pace[0].record[0].crowd * even * wide)


@kernel
def fits_left(state: State, request: int) -> bool:
    """Whether the request may enter on the compute-heavy side: within what is kept for it, or where
    the forecast leaves more.
    """
    s = state.scalars[0]
    return has_blocks(state, request) and (
        s.running == 0
        or s.predicted_peak == 0
        or left_peak_fits(state, request, kept_for_left(state))
        or peak_fits(state, request, 0)
    )


@kernel_where("pace", lambda state: victim(state))
def who_leaves(state: State) -> int:
    """Who is preempted when blocks run out: the newest of the compute-heavy side, which has least
    to lose; but if the memory-heavy side has outgrown its forecast and leaves that side less than
    half of its room, its request that holds least, so that the run does not stand still.
    """
    s = state.scalars[0]
    is_crowded = 2 * s.left_reserved < kept_for_left(state)
    if s.left_newest != NONE and not (is_crowded and s.right_newest != s.right_oldest):
        return s.left_newest
    found = s.right_newest
    k = found
    while k != NONE:
        if state.requests[k].end_base < state.requests[found].end_base:
            found = k
        k = state.requests[k].older
    return found


@kernel
def kept_for_left(state: State) -> int:
    """KV tokens that the memory-heavy end leaves to the compute-heavy one: that end's even share,
    which in the steps left adds up to all it will hold, and `left_room` standard deviations.

    Who enters at random, stays d steps and holds h tokens adds d·h²/steps to the variance.
    """
    p = state.pace[0].record[0]
    share = max(p.hold_left, 0.0) / max(p.steps_left, 1.0)
    spread = np.sqrt(max(p.square_left, 0.0) / max(p.steps_left, 1.0))
    return int(share + p.left_room * spread)


@kernel
def left_place(state: State) -> int:
    """The place of the next request of the compute-heavy end: its last one while that end holds
    less than its even share, if that one finds its prefix, else its first.
    """
    s = state.scalars[0]
    p = state.pace[0].record[0]
    if s.left_reserved * p.steps_left >= p.hold_left:
        return s.front
    place = max(nearest_waiting(state.pace[0].jump, min(p.middle, s.back)), s.front)
    if finds_prefix(state, state.queue[place]):
        return place
    return s.front if state.requests[state.queue[s.front]].side == LEFT else place


@kernel_where("pace", lambda state: 0)
def holes(state: State) -> int:
    """Places of the line between front and back whose request has gone."""
    return state.pace[0].record[0].holes
