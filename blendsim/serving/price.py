"""What a computed token is worth, and how many a step should compute.

Let a step compute n tokens and spend m seconds reading KV; it takes t(n, m) = max of
a·c(n) + b·m, or as long as was measured. What steps ahead will read is foreseen; to compute N
tokens beside it in the least time is a linear program, and its dual has one price, x seconds a
token: every step computes the n with the least t(n, m) − x·n, a corner of the convex hull of
t(·, m), and x is such that these are N in all. Steps without reads can always be added, so that x
is at most what they take a token.
"""

from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.compiled import allocating_kernel, kernel, rare_kernel
from blendsim.perf.hull import lower_hull
from blendsim.perf.kernels import measured_overlap, overlapped

_ROUNDS = 32  # of halving: the price to 2e-10 of its range


class Overlap(NamedTuple):
    """How compute and reads overlap."""

    lines: Floats  # (k, 3), as a step model has them
    ratios: Floats  # of memory over compute, ascending, where it was measured; else empty
    times: Floats  # over compute


@kernel
def side_by_side(overlap: Overlap, compute: float, memory: float) -> float:
    """t = max of a·compute + b·memory, or as measured."""
    if len(overlap.ratios) > 0:
        return float(measured_overlap(overlap.ratios, overlap.times, compute, memory))
    return float(overlapped(overlap.lines, compute, memory))


@kernel
def best_size(overlap: Overlap, sizes: Ints, seconds: Floats, memory: float, price: float) -> int:
    """The size with the least t(n, memory) − price·n, the smallest of equals."""
    best, least = 0, np.inf
    for i in range(len(sizes)):
        cost = side_by_side(overlap, seconds[i], memory) - price * sizes[i]
        if cost < least:
            best, least = sizes[i], cost
    return best


@kernel
def tokens_at(overlap: Overlap, sizes: Ints, seconds: Floats, ahead: Floats, price: float) -> float:
    """Tokens that the steps `ahead` compute if a token is worth `price` seconds."""
    total = 0.0
    for j in range(len(ahead)):
        if ahead[j, 0] > 0.0:
            total += ahead[j, 0] * best_size(overlap, sizes, seconds, ahead[j, 1], price)
    return total


@rare_kernel
def token_price(
    overlap: Overlap, sizes: Ints, seconds: Floats, ahead: Floats, tokens: float
) -> float:
    """The price at which the steps `ahead` compute `tokens`, or that of steps without reads."""
    low, high = 0.0, np.inf
    for i in range(len(sizes)):
        high = min(high, side_by_side(overlap, seconds[i], 0.0) / sizes[i])
    for _ in range(_ROUNDS):
        middle = 0.5 * (low + high)
        if tokens_at(overlap, sizes, seconds, ahead, middle) < tokens:
            low = middle
        else:
            high = middle
    return high


@kernel
def times_beside(overlap: Overlap, seconds: Floats, memory: float, times: Floats) -> None:
    """Fill `times` with t of each size beside `memory`."""
    for i in range(len(seconds)):
        times[i] = side_by_side(overlap, seconds[i], memory)


@allocating_kernel
def choose_sizes(
    table: Ints,
    overlap: Overlap,
    sizes: Ints,
    seconds: Floats,
    unit: float,
    price: float,
    slack: float,
    share: float,
    least: int,
) -> None:
    """Fill `table`: row j holds the two sizes to alternate between, and the tokens to compute, when
    a step reads for (j + ½)·unit seconds.

    Of the hull's corners whose slopes are within `slack` of the price, the two around what the step
    is to compute, which lies at `share` of the way from the first to the last and is the third
    column; or the nearest one, twice. None is below `least`.
    """
    hull, times = np.empty(len(sizes), np.int64), np.empty(len(sizes))
    for j in range(len(table)):
        times_beside(overlap, seconds, (j + 0.5) * unit, times)
        n = lower_hull(sizes, times, hull)
        low, high = 0, 0
        for v in range(1, n):
            p, q = hull[v - 1], hull[v]
            slope = (times[q] - times[p]) / (sizes[q] - sizes[p])
            if slope <= price * (1.0 - slack):
                low = v
            if slope <= price * (1.0 + slack):
                high = v
        few, many = sizes[hull[low]], sizes[hull[high]]
        wanted = few + share * (many - few)
        at = low
        while at < high and sizes[hull[at + 1]] <= wanted:
            at += 1
        table[j, 0] = max(least, sizes[hull[at]])
        table[j, 1] = table[j, 0]
        if at < high and sizes[hull[at]] < wanted:
            table[j, 1] = max(least, sizes[hull[at + 1]])
        table[j, 2] = max(least, int(wanted))
