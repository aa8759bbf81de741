"""What a computed token is worth, and how many a step should compute.

Let a step compute n tokens and spend m seconds reading KV; it takes t(n, m) = max of
a·c(n) + b·m. To compute N tokens and read for R seconds in the least time with at most M seconds of
reads a step is a linear program over kinds of steps. Its dual has two prices: maximise
x·N + y·R with x·n + y·m ≤ t(n, m) for every kind. At the price x a step that happens to read for m
seconds should compute the n with the least t(n, m) − x·n: a corner of the convex hull of t(·, m).
"""

import numpy as np
from numpy.typing import NDArray

from blendsim.compiled import kernel, rare_kernel

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_GOLDEN = 0.6180339887498949
_ROUNDS = 32  # of golden section: the price to 2e-7 of its range


@kernel
def side_by_side(lines: Floats, compute: float, memory: float) -> float:
    """t = max of a·compute + b·memory."""
    seconds = 0.0
    for i in range(len(lines)):
        seconds = max(seconds, lines[i, 0] * compute + lines[i, 1] * memory)
    return seconds


@kernel
def read_price(lines: Floats, sizes: Ints, seconds: Floats, most: float, price: float) -> float:
    """The largest y with price·n + y·m ≤ t(n, m) for all sizes and 0 < m ≤ most.

    For one size (t − price·n)/m is least at an end or where two lines of t meet.
    """
    least = np.inf
    for i in range(len(sizes)):
        paid = price * sizes[i]
        least = min(least, (side_by_side(lines, seconds[i], most) - paid) / most)
        for a in range(len(lines)):
            for b in range(a):
                rise = lines[a, 1] - lines[b, 1]
                if rise == 0.0:
                    continue
                m = (lines[b, 0] - lines[a, 0]) * seconds[i] / rise
                if 0.0 < m < most:
                    least = min(least, (side_by_side(lines, seconds[i], m) - paid) / m)
    return least


@rare_kernel
def token_price(
    lines: Floats, sizes: Ints, seconds: Floats, most: float, tokens: float, reads: float
) -> float:
    """x of the module's dual, seconds a token, by golden section: the dual is concave in x."""
    high = np.inf
    for i in range(len(sizes)):
        high = min(high, side_by_side(lines, seconds[i], 0.0) / sizes[i])
    low = 0.0
    x1, x2 = high - _GOLDEN * high, _GOLDEN * high
    v1 = x1 * tokens + read_price(lines, sizes, seconds, most, x1) * reads
    v2 = x2 * tokens + read_price(lines, sizes, seconds, most, x2) * reads
    for _ in range(_ROUNDS):
        if v1 < v2:
            low, x1, v1 = x1, x2, v2
            x2 = low + _GOLDEN * (high - low)
            v2 = x2 * tokens + read_price(lines, sizes, seconds, most, x2) * reads
        else:
            high, x2, v2 = x2, x1, v1
            x1 = high - _GOLDEN * (high - low)
            v1 = x1 * tokens + read_price(lines, sizes, seconds, most, x1) * reads
    return 0.5 * (low + high)


@kernel
def lower_hull(lines: Floats, sizes: Ints, seconds: Floats, memory: float, hull: Ints) -> int:
    """Fill `hull` with the indices of sizes on the lower convex hull of t(·, memory); returns how
    many.
    """
    n = 0
    for i in range(len(sizes)):
        t = side_by_side(lines, seconds[i], memory)
        while n > 1:
            p, q = hull[n - 2], hull[n - 1]
            tp = side_by_side(lines, seconds[p], memory)
            tq = side_by_side(lines, seconds[q], memory)
            if (tq - tp) * (sizes[i] - sizes[p]) < (t - tp) * (sizes[q] - sizes[p]):
                break
            n -= 1
        hull[n] = i
        n += 1
    return n


@rare_kernel
def choose_sizes(
    table: Ints,
    lines: Floats,
    sizes: Ints,
    seconds: Floats,
    unit: float,
    price: float,
    slack: float,
    even: float,
    least: int,
) -> None:
    """Fill `table`: row j holds the two sizes to alternate between when a step reads for
    (j + ½)·unit seconds.

    Of the hull's corners whose slopes are within `slack` of the price, the two around `even`, the
    tokens a step that spread the rest of the work evenly; or the nearest one, twice. None is below
    `least`.
    """
    hull = np.empty(len(sizes), np.int64)
    for j in range(len(table)):
        memory = (j + 0.5) * unit
        n = lower_hull(lines, sizes, seconds, memory, hull)
        low, high = 0, 0
        for v in range(1, n):
            p, q = hull[v - 1], hull[v]
            rise = side_by_side(lines, seconds[q], memory)
            rise -= side_by_side(lines, seconds[p], memory)
            slope = rise / (sizes[q] - sizes[p])
            if slope <= price * (1.0 - slack):
                low = v
            if slope <= price * (1.0 + slack):
                high = v
        at = low
        while at < high and sizes[hull[at + 1]] <= even:
            at += 1
        table[j, 0] = max(least, sizes[hull[at]])
        table[j, 1] = table[j, 0]
        if at < high and sizes[hull[at]] < even:
            table[j, 1] = max(least, sizes[hull[at + 1]])
