"""What the requests of a paced run are still to do, as far as it can be told: how long the longest
of them takes, and what the steps left will read.
"""

import numpy as np

from blendsim.arrays import Floats
from blendsim.compiled import kernel, rare_kernel
from blendsim.serving.forecast import last_end
from blendsim.serving.held import reads_per_held
from blendsim.serving.kinds import correction, mean_left
from blendsim.serving.price import side_by_side
from blendsim.serving.state import NONE, RIGHT, State

GUMBEL = 1.2825498301618641  # π/√6, the standard deviation of the longest of many
PEAK_POINTS = 40  # at which a forecast's peak is looked for, up to two mean lengths ahead
WORTH = 0.001  # share of the time that spreading reads is to save
MARGIN = 0.1  # of a step's reads, which swing about their mean, and of the steps of the longest
EULER = 0.5772156649015329  # the longest of n exponential lengths is about mean·(ln n + γ)


@kernel
def longest_of(n: float, caution: float) -> float:
    """The longest of n exponential lengths of mean 1: expected, and `caution` deviations more."""
    return float(np.log(n) + EULER + 0.5 / n + caution * (GUMBEL - (GUMBEL - 1.0) / n))


@kernel
def longest_visible(state: State) -> float:
    """Steps that the longest request of the right, running or next, needs yet, of those whose
    lengths are visible.
    """
    s = state.scalars[0]
    steps = float(last_end(state) - s.step)
    if s.front <= s.back:
        r = state.requests[state.queue[s.back]]
        if r.kind == NONE:
            steps = max(steps, float(r.expected))
    return max(steps, 1.0)


@kernel
def longest_left(state: State) -> float:
    """Steps that the longest request of the right, running or next, is expected to need yet."""
    s = state.scalars[0]
    kinds = state.pace[0].kinds
    steps = longest_visible(state)
    for i in range(len(kinds)):
        k = kinds[i]
        if k.running > 0:
            mean = mean_left(state, i)
            steps = max(steps, mean * longest_of(float(k.running), state.pace[0].record[0].caution))
    if s.front <= s.back:
        r = state.requests[state.queue[s.back]]
        if r.kind != NONE:
            steps = max(steps, r.expected * correction(state, r.kind))
    return steps


@kernel
def steps_for_compute(state: State, full: float) -> float:
    """Steps there are for computing, whatever is computed: those foreseen with KV `full`, or as
    many as the longest visible length takes, less those that the longest answer of the
    compute-heavy end decodes after it has been computed.
    """
    steps = max(longest_visible(state), full)
    return max(steps - float(state.pace[0].record[0].left_longest), 1.0)


@kernel
def peak_of(n: float, caution: float) -> float:
    """Times what n requests hold in their steady state that their forecast peaks at.

    Their mean age is m, so u = x·m steps from now e^(−x) of them hold 1 + x times as much each, and
    `caution` standard deviations more are kept free (kinds.py). The cache is that much less full.
    """
    most = 1.0
    for j in range(1, PEAK_POINTS + 1):
        x = 2.0 * j / PEAK_POINTS
        q = np.exp(-x)
        share = q + caution * np.sqrt(2.0 * q * (1.0 - q) / n)
        most = max(most, (1.0 + x) * min(share, 1.0))
    return most


@rare_kernel
def foresee(state: State, reads: float, ahead: Floats) -> float:
    """Fill `ahead` with the steps left, row by row: how many, and seconds of reads in each. Returns
    those of a step with KV as full as it will be.

    While requests wait KV is as full as expected, or as the forecast of unknown lengths lets it be.
    Those leave a tail: n that hold C tokens now, of mean length m, hold (C + n·u)·e^(−u/m) u steps
    later, for about m·(ln n + γ) steps. Of a full cache in its steady state C is n·m, and 2·C·m are
    read.
    """
    p = state.pace[0].record[0]
    s = state.scalars[0]
    kinds = state.pace[0].kinds
    longest = longest_left(state)
    most = p.most_reads
    ahead[:] = 0.0
    mean, age = 0.0, 0.0
    for i in range(len(kinds)):
        k = kinds[i]
        left = mean_left(state, i) if k.running > 0 else 0.0
        if left > mean:
            mean = left
            held = k.held_base / k.running + s.step
            age = max(1.0, held - s.window_blocks * s.block_tokens)
    if mean == 0.0:
        ahead[0, 0] = max(longest, reads / most)
        ahead[0, 1] = reads / ahead[0, 0]
        return float(most)
    n = max(1.0, p.most_held / mean)
    most /= peak_of(n, p.caution)
    if reads > 2.0 * mean * most:
        ahead[0, 0] = reads / most - 2.0 * mean
        ahead[0, 1] = most
        reads = 2.0 * mean * most
        n = max(1.0, most / p.most_reads * p.most_held / mean)
        longest = max(longest - ahead[0, 0], mean * longest_of(n, p.caution))
        age = mean
    slices = len(ahead) - 1
    total = 0.0
    for j in range(1, len(ahead)):
        u = longest * (j - 0.5) / slices
        ahead[j, 0] = longest / slices
        ahead[j, 1] = (age + u) * np.exp(-u / mean)
        total += ahead[j, 0] * ahead[j, 1]
    for j in range(1, len(ahead)):
        ahead[j, 1] *= reads / total
    return float(most)


@kernel
def overlaps_evenly(state: State, tokens: float, reads: float, steps: float) -> bool:
    """Whether steps overlap at all that compute `tokens` and read for `reads` seconds evenly, in so
    many of them.
    """
    pace, at = state.pace[0], 0
    while at < pace.weighed - 1 and pace.sizes[at] * steps < tokens:
        at += 1
    seconds, memory = pace.seconds[at], reads / steps
    one_by_one = side_by_side(pace.overlap, seconds, 0.0) + (1.0 - WORTH) * memory
    return bool(side_by_side(pace.overlap, seconds, memory) < one_by_one)


@kernel
def hold_back(state: State, tokens: float, reads: float, most: float, steps: float) -> None:
    """Note how much KV the right leaves empty, so that the seconds of `reads` last for the `steps`
    that the longest visible length takes. KV kept full is read for `most` seconds a step; where
    that would be for fewer steps, those behind them would have nothing to read.

    Nothing is left where reads fill more than `longest_fill` of it, since long answers that wait
    would find no room, nor where readers of shared prefixes wait: one by one they would bring them
    in anew. Nor where who waits is less memory-heavy than all that is left, `tokens` that read so
    much: held back, it would keep tokens from being computed beside the reads of those that run.
    Nor where such steps do not overlap, so that it would spare nothing.
    """
    s, p = state.scalars[0], state.pace[0].record[0]
    p.longest_end = s.step + steps
    share = min(1.0, (1.0 + MARGIN) * reads / (steps * most))
    is_shared = reads_per_held(p.right_reads, p.right_spared) > 1.0 + MARGIN
    is_light = p.right_reads * p.read_seconds * tokens < p.right_tokens * reads
    is_high = share > p.longest_fill
    if is_shared or is_light or is_high or not overlaps_evenly(state, tokens, reads, steps):
        share = 1.0
    p.kept_empty = (1.0 - share) * (s.capacity - s.shared_length) * s.block_tokens


@kernel
def spread_reads(state: State, ahead: Floats, tokens: float, reads: float, most: float) -> float:
    """Spread the seconds of `reads` over as many steps as the tokens need at the largest size, if
    that takes less time than with KV full, `most` seconds a step, and nothing read after that.
    Notes what a step is then to read at most, has no fewer steps `ahead`, and returns `most` with
    KV so much less full.
    """
    pace = state.pace[0]
    p, at = pace.record[0], pace.weighed - 1
    p.most_context = np.inf
    size, seconds = pace.sizes[at], pace.seconds[at]
    needed = tokens / size
    full = most * reads_per_held(p.right_reads, p.right_spared) / p.reuse
    # With KV full the right is done so soon, but not before what it computes itself.
    early = max(reads / full, p.right_tokens / size)
    if early >= needed:
        return most
    alone = side_by_side(pace.overlap, seconds, 0.0)
    early *= side_by_side(pace.overlap, seconds, reads / early) - alone
    evenly = needed * (side_by_side(pace.overlap, seconds, reads / needed) - alone)
    if early - evenly <= WORTH * (needed * alone + evenly):
        return most
    steps = ahead[:, 0].sum()
    longer = max(1.0, needed / steps)
    for j in range(len(ahead)):
        ahead[j, 0] *= longer
        ahead[j, 1] /= longer
    level = (1.0 + MARGIN) * reads / needed
    p.most_context = level / p.read_seconds
    return float(min(1.0, level / full) * most)


@kernel
def fill_up(state: State, reads: float, most: float, full: Floats) -> float:
    """Tokens that waiting requests of the right compute for themselves, and in `full` the steps
    that there are for it, with seconds of reads in each: as many as their reads fill, at `most`
    seconds a step, or as run on anyway before the longest of them could end.

    What runs reads on after the last has entered, and gets no more done: only to who waits are
    these steps of use. Where none of the right is left it is the left's.
    """
    s, p = state.scalars[0], state.pace[0].record[0]
    tokens, own, spared, spare = p.right_tokens, p.right_reads, p.right_spared, 0.0
    if tokens >= 1.0 and s.front <= s.back:
        last = state.requests[state.queue[s.back]]
        if last.side == RIGHT:
            spare = float(last_end(state) - s.step - state.pace[0].longest[s.back])
    elif tokens < 1.0 and s.right_newest == NONE:
        tokens, own, spared = p.left_tokens, p.left_reads, p.left_spared
    most *= reads_per_held(own, spared) / p.reuse
    full[0, 0] = max(own * p.read_seconds / most, spare, 1.0)
    full[0, 1] = min(most, reads / full[0, 0])
    return float(max(tokens, 0.0))
