"""Cut a line of requests into shares of equal work, where the order of the line allows it.

A line served in order is cut into runs. One that a dual scanner takes from both ends is cut from
both ends too, so that every share has its part of compute *and* of memory.
"""

from heapq import heapreplace

import numpy as np

from blendsim.arrays import Floats, Ints


def equal(shares: int) -> Floats:
    """Where `shares` equal shares end, as fractions of the whole; the last end is left out."""
    return np.arange(1, shares) / shares


def cut_line(
    compute: Floats, memory: Floats, first_count: int, is_dual: bool, ends: Floats
) -> Ints:
    """Share of each request of a line, by the seconds each needs; the shares end at the fractions
    `ends` of all work. Those that run first are dealt out first, then the rest.
    """
    share = np.empty(len(compute), np.int64)
    first, rest = slice(first_count), slice(first_count, None)
    share[first] = cut(compute[first] + memory[first], ends)
    if is_dual:
        share[rest] = cut_both_ends(compute[rest], memory[rest], ends)
    else:
        share[rest] = cut(compute[rest] + memory[rest], ends)
    return share


def cut(work: Floats, ends: Floats) -> Ints:
    """Share of each row when the rows are cut into runs that end at the fractions `ends`."""
    total = float(work.sum())
    if not total:
        return np.zeros(len(work), np.int64)
    middle = np.cumsum(work) - work / 2
    return np.searchsorted(ends, middle / total, side="right").astype(np.int64)


def cut_both_ends(compute: Floats, memory: Floats, ends: Floats) -> Ints:
    """Share of each row when every share takes a run from the left and one from the right.

    The first r shares together hold rows [0, x) and [n − y, n) with the fraction ends[r − 1] of all
    compute and of all memory, as nearly as whole rows allow. For a given x the compute decides y,
    and the memory held then falls with x, because the left is denser: x is found by bisection.
    """
    n = len(compute)
    left_compute, left_memory = _running(compute), _running(memory)
    right_compute, right_memory = _running(compute[::-1]), _running(memory[::-1])
    share_of = np.full(n, len(ends), np.int64)
    x_before, y_before = 0, 0
    for r, share in enumerate(ends.tolist()):

        def other(x: int, share: float = share) -> int:
            wanted = share * left_compute[-1] - left_compute[x]
            return min(int(np.searchsorted(right_compute, wanted)), n - x)

        # NOTE: where the left alone has the compute, more of it only adds memory: stop there.
        enough = int(np.searchsorted(left_compute, share * left_compute[-1]))
        low, high = x_before, max(x_before, min(enough, n - y_before))
        while low < high:
            x = (low + high) // 2
            if left_memory[x] + right_memory[other(x)] > share * left_memory[-1]:
                low = x + 1
            else:
                high = x
        y = min(max(other(low), y_before), n - low)
        share_of[x_before:low] = r
        share_of[n - y : n - y_before] = r
        x_before, y_before = low, y
    return share_of


def deal_runs(
    work: Floats, run: Ints, shares: int, most: float, sizes: Floats | None = None
) -> Ints:
    """Share of each row when runs of rows, which `run` numbers, are dealt out whole, the last one
    first, each to the share that has least so far, for its size where they have `sizes`. A run of
    more than `most` work is dealt in pieces of about that, no more than that and a row.
    """
    held = np.concatenate(([0.0], np.cumsum(work)))
    begins = np.flatnonzero(np.diff(run, prepend=run[:1] - 1))
    number = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(run)))
    within = held[1:] - held[begins][number] - work / 2.0
    piece = np.floor(within / most).astype(np.int64) if most > 0.0 else np.zeros_like(number)
    is_new = (np.diff(number, prepend=-1) != 0) | (np.diff(piece, prepend=-1) != 0)
    starts = np.flatnonzero(is_new)
    each = held[np.append(starts[1:], len(run))] - held[starts]
    given: Ints = np.empty(len(starts), np.int64)
    least = [(0.0, share) for share in range(shares)]
    size = [1.0] * shares if sizes is None else sizes.tolist()
    for k in range(len(starts) - 1, -1, -1):
        so_far, share = least[0]
        given[k] = share
        heapreplace(least, (so_far + float(each[k]) / size[share], share))
    return np.repeat(given, np.diff(starts, append=len(run)))


def _running(work: Floats) -> Floats:
    """Σ of the first k rows, k = 0 … n."""
    return np.concatenate(([0.0], np.cumsum(work)))
