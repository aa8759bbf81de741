"""Pacing: how many tokens each step computes.

The KV cache is read as full as it can be (serving/paced_line.py). What is computed beside it is
chosen step by step (serving/price.py): what is worth its price beside the reads that are foreseen,
at batch sizes that GEMMs run well at.
"""

from typing import Any, NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.compiled import allocating_kernel, kernel, kernel_where
from blendsim.perf.hull import lower_hull
from blendsim.serving.columns import CONTEXT_TOKENS, step_tokens
from blendsim.serving.held import reads_per_held
from blendsim.serving.kinds import correction, spread_of
from blendsim.serving.price import (
    Overlap,
    choose_sizes,
    side_by_side,
    times_beside,
    token_price,
    tokens_at,
)
from blendsim.serving.reads import (
    expected_reads_of_one,
    reads_of,
    unfinished_reads,
)
from blendsim.serving.remaining import (
    fill_up,
    foresee,
    hold_back,
    longest_visible,
    spread_reads,
    steps_for_compute,
)
from blendsim.serving.state import LEFT, NONE, State

PACE = np.dtype(
    [
        # rules
        ("left_room", np.float64),  # standard deviations kept free for the compute-heavy end
        ("read_seconds", np.float64),  # of a context token
        ("most_held", np.float64),  # KV tokens when the cache is as full as expected
        ("slack", np.float64),
        ("caution", np.float64),
        ("crowd", np.float64),
        ("longest_fill", np.float64),
        ("most_tokens", np.int64),
        ("look_steps", np.int64),
        ("unit", np.int64),  # context tokens a row of the table
        # where the run is
        ("tokens_left", np.float64),  # prompt and output tokens of waiting requests
        ("reads_left", np.float64),  # context tokens still to be read
        ("credit", np.float64),  # tokens the steps so far are behind what they were to compute
        ("is_full", np.int64),  # whether this step takes all of the budget, whatever was reckoned
        ("next_look", np.int64),  # step
        ("blocked_until", np.int64),  # step before which the right end is not tried again
        ("holes", np.int64),  # places between front and back whose request has gone
        ("middle", np.int64),  # place of the compute-heavy end's last request
        ("hold_left", np.float64),  # KV tokens · steps that its waiting requests will hold
        ("square_left", np.float64),  # Σ of that times the KV tokens each holds
        ("left_longest", np.int64),  # tokens, expected, of that end's longest answer
        # as reckoned last
        ("steps_left", np.float64),
        ("most_context", np.float64),  # read in a step, above which none of the right enters
        ("longest_end", np.float64),  # step in which the longest visible length ends
        ("kept_empty", np.float64),  # KV tokens that the right leaves, to have reads until then
        ("reuse", np.float64),  # context tokens read for each that is held, of who waits
        ("most_reads", np.float64),  # seconds of a step's reads when KV is as full as expected
        # what waiting requests of each end still compute for themselves, preempted ones included,
        # and read: tokens, context tokens
        ("left_tokens", np.float64),
        ("left_reads", np.float64),
        ("left_spared", np.float64),  # of these, those it does not hold
        ("right_tokens", np.float64),
        ("right_reads", np.float64),
        ("right_spared", np.float64),
    ],
    align=True,
)
SLICES = 17  # of the steps left
ROWS = 128  # of the table: so many levels of KV in use
CREDIT = 16_384.0  # tokens of imbalance remembered at most


class Pace(NamedTuple):
    """What pacing knows, beside the State it is part of."""

    record: Any  # (1,) PACE
    table: Ints  # (ROWS, 3), by context in use: two sizes to alternate between, tokens to compute
    sizes: Ints
    seconds: Floats
    efficient: int  # of `sizes`, the first that runs at gains.efficiency of the best rate
    weighed: int  # of `sizes`, those within the engine's budget
    overlap: Overlap
    longest: Ints  # (n,), the longest estimate of the right's up to each place of the line
    jump: Ints  # (n,), place of the line → itself while its request waits, else one further left
    kinds: Any  # (sources,) KIND


@kernel
def note_reuse(p: Any) -> None:
    """Reckon anew how much who waits reads of what it holds; where nobody waits it stays."""
    reads = p.left_reads + p.right_reads
    if reads >= 1.0:
        p.reuse = reads_per_held(reads, p.left_spared + p.right_spared)
    p.most_reads = p.most_held * p.reuse * p.read_seconds


@kernel
def hold_of(state: State, request: int) -> float:
    """KV tokens · steps the request is expected to hold for itself: what it reads but for its
    shared path, and its window.
    """
    s = state.scalars[0]
    r = state.requests[request]
    held = float(r.prompt - s.block_tokens * (r.path_blocks - s.window_blocks))
    return float(expected_reads_of_one(held, float(r.estimate), spread_of(state, request)))


@kernel
def note_left(state: State, request: int) -> None:
    """The request of the compute-heavy end has entered for the first time."""
    p = state.pace[0].record[0]
    hold = hold_of(state, request)
    p.hold_left -= hold
    p.square_left -= hold * hold / state.requests[request].estimate


@kernel
def first_alike(pace: Pace, low: int, high: int, at: int, memory: float) -> int:
    """The first size from `at` on, or `high`, where as many tokens in smaller and larger steps by
    turns, of the sizes `low` and `high`, save no more than `slack` of its time.
    """
    sizes, seconds = pace.sizes, pace.seconds
    few = side_by_side(pace.overlap, seconds[low], memory)
    many = side_by_side(pace.overlap, seconds[high], memory)
    while at < high:
        share = (sizes[at] - sizes[low]) / (sizes[high] - sizes[low])
        alike = side_by_side(pace.overlap, seconds[at], memory)
        if (1.0 - share) * few + share * many >= (1.0 - pace.record[0].slack) * alike:
            break
        at += 1
    return at


@allocating_kernel
def least_size(pace: Pace, even: float, memory: float) -> int:
    """Tokens that a step is to have at least: as many as run well, but no more than `even`, which
    each step would have if all that is left were spread evenly over them. But where smaller and
    larger steps by turns, which read for `memory` seconds each, take less time for as many by more
    than `slack`, the next size of which that is not so. The token budget binds besides.

    In a run that takes that many steps anyway, larger ones would leave some with decodes alone. In
    others the floor guards against having too few tokens computed by a price that foresees more
    steps than there will be.
    """
    # By turns is faster with experts, of which every step that a hundred tokens go through reads
    # nearly all, while one of a few decodes reads few.
    sizes, seconds = pace.sizes, pace.seconds
    if sizes[0] > even:
        return 0
    at = 0
    while at < pace.efficient and sizes[at + 1] <= even:
        at += 1
    hull, times = np.empty(len(sizes), np.int64), np.empty(len(sizes))
    times_beside(pace.overlap, seconds, memory, times)
    n = lower_hull(sizes, times, hull)
    for v in range(1, n):
        end = hull[v]
        at = first_alike(pace, hull[v - 1], end, at, memory)
        if at < end:
            break
    return int(sizes[at])


@kernel
def share_at(pace: Pace, ahead: Floats, tokens: float, price: float) -> float:
    """Where between the least and the largest sizes within `slack` of the price the steps `ahead`
    compute that many tokens: 0 to 1.
    """
    slack = pace.record[0].slack
    sizes, seconds = pace.sizes[: pace.weighed], pace.seconds[: pace.weighed]
    low = tokens_at(pace.overlap, sizes, seconds, ahead, price * (1.0 - slack))
    high = tokens_at(pace.overlap, sizes, seconds, ahead, price * (1.0 + slack))
    return float(min(max((tokens - low) / max(high - low, 1.0), 0.0), 1.0))


@allocating_kernel
def look(state: State) -> None:
    """Reckon anew: what is left, in how many steps, and which sizes steps should have."""
    pace = state.pace[0]
    p = pace.record[0]
    p.next_look = state.scalars[0].step + p.look_steps
    reads = p.reads_left
    for i in range(len(pace.kinds)):
        reads += pace.kinds[i].waiting_reads * (correction(state, i) ** 2 - 1.0)
    reads += unfinished_reads(state)
    reads = max(reads, 1.0) * p.read_seconds
    note_reuse(p)
    # NOTE: less of the prompts may be shared than could be; and some come back from preemption.
    tokens = max(p.tokens_left, p.left_tokens + p.right_tokens)
    tokens = max(tokens + in_progress(state), 1.0)
    sizes, seconds = pace.sizes[: pace.weighed], pace.seconds[: pace.weighed]
    ahead = np.empty((SLICES, 2))
    most = foresee(state, reads, ahead)
    spread_over_longest(state, tokens, reads, most)
    most = spread_reads(state, ahead, tokens, reads, most)
    p.steps_left = ahead[:, 0].sum()
    full = np.empty((1, 2))
    own = fill_up(state, reads, most, full)
    price = max(
        token_price(pace.overlap, sizes, seconds, ahead, tokens),
        token_price(pace.overlap, sizes, seconds, full, own),
    )
    steps = steps_for_compute(state, ahead[0, 0])
    share = max(share_at(pace, ahead, tokens, price), share_at(pace, full, own, price))
    choose_sizes(
        pace.table,
        pace.overlap,
        sizes,
        seconds,
        p.unit * p.read_seconds,
        price,
        p.slack,
        share,
        least_size(pace, tokens / steps, reads / steps),
    )


@kernel
def spread_over_longest(state: State, tokens: float, reads: float, most: float) -> None:
    """`hold_back`, unless larger and smaller steps by turns take less time than even ones: then
    there are to be large ones beside full KV, and small ones behind them.
    """
    pace = state.pace[0]
    steps = longest_visible(state)
    even = tokens / steps
    if least_size(pace, even, reads / steps) > even:
        pace.record[0].kept_empty = 0.0
    else:
        hold_back(state, tokens, reads, most, steps)


@kernel
def in_progress(state: State) -> int:
    """Tokens that the prompt in progress still has to compute: it waits no longer."""
    prefilling = state.scalars[0].prefilling
    if prefilling == NONE:
        return 0
    r = state.requests[prefilling]
    return int(r.target - r.computed)


@kernel
def table_row(state: State) -> int:
    """The row for the context tokens this step's decodes read."""
    return min(state.scalars[0].context // state.pace[0].record[0].unit, ROWS - 1)


@kernel_where("pace", lambda state: state.scalars[0].token_budget)
def step_budget(state: State) -> int:
    """Tokens this step is to compute, decodes included."""
    p = state.pace[0].record[0]
    if state.scalars[0].step >= p.next_look:
        look(state)
    most = min(p.most_tokens, state.scalars[0].token_budget)
    p.is_full = int(sampled_wait(state))
    if p.is_full:
        return most
    row = table_row(state)
    return min(state.pace[0].table[row, 1 if p.credit >= 0.0 else 0], most)


@kernel
def sampled_wait(state: State) -> bool:
    """Whether sampled requests are still to enter. All others wait for them, the longest too, which
    may be as long as the run: the sample is not to last as long as its even share would.
    """
    s = state.scalars[0]
    return bool(s.front < s.first_count)


@kernel_where("pace", lambda state, request, hit: None)
def note_admitted(state: State, request: int, hit: int) -> None:
    """The request has entered, with `hit` tokens of its prompt in the cache."""
    r = state.requests[request]
    note_waiting(state, request, -1.0)
    if r.was_preempted == 0:
        state.pace[0].record[0].tokens_left -= r.target - hit + r.estimate - 1
        if r.side == LEFT:
            note_left(state, request)
        if r.kind != NONE:
            state.pace[0].kinds[r.kind].waiting_reads -= reads_of(state, request)


@kernel_where("pace", lambda state, request, sign: None)
def note_waiting(state: State, request: int, sign: float) -> None:
    """Count what the waiting request is still to compute for itself and to read, or, with a `sign`
    of −1, no longer.
    """
    p = state.pace[0].record[0]
    r = state.requests[request]
    owed = max(1, r.expected - r.generated)
    tokens = sign * (r.target - state.scalars[0].block_tokens * r.path_blocks + owed - 1)
    reads = sign * expected_reads_of_one(float(r.target), float(owed), spread_of(state, request))
    spared = sign * float(r.spared * owed)
    if r.side == LEFT:
        p.left_tokens += tokens
        p.left_reads += reads
        p.left_spared += spared
    else:
        p.right_tokens += tokens
        p.right_reads += reads
        p.right_spared += spared


@kernel_where("pace", lambda state: None)
def note_step(state: State) -> None:
    """The scheduled step is computed."""
    p = state.pace[0].record[0]
    p.reads_left -= state.counts[CONTEXT_TOKENS]
    row = table_row(state)
    if not p.is_full and state.pace[0].table[row, 1] > state.pace[0].table[row, 0]:
        tokens = step_tokens(state.counts)
        p.credit = min(max(p.credit + state.pace[0].table[row, 2] - tokens, -CREDIT), CREDIT)
    else:
        p.credit = 0.0


@kernel_where("pace", lambda state, request: None)
def note_finished(state: State, request: int) -> None:
    """The request has ended: what it was expected to read gives way to what it did."""
    r = state.requests[request]
    read = expected_reads_of_one(float(r.prompt), float(r.output), 1.0)
    state.pace[0].record[0].reads_left += read - reads_of(state, request)
