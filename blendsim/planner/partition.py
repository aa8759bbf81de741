"""Partition a plan over data-parallel replicas: equal work for each, cut where the plan's order
allows (§5.5).

A plan served in order is cut into contiguous runs. A blended plan is cut from both of its ends, as
the dual scanner takes it, so that every rank gets its share of compute *and* of memory. Only the
prefixes that a cut goes through are shared less.
"""

from dataclasses import replace

import numpy as np

from blendsim.perf.density import RequestCosts
from blendsim.plan import DUAL_SCAN, Plan
from blendsim.planner.tree import Floats
from blendsim.request import Ints


def partition(plan: Plan, costs: RequestCosts, ranks: int) -> Plan:
    """`plan`, made for one replica, over `ranks` of them; `costs` has a row a request of the
    workload.

    The sampled requests are dealt out first, then the rest; a rank may stay empty in a pool smaller
    than `ranks`.
    """
    compute, memory = costs.compute[plan.order], costs.memory[plan.order]
    first = int(plan.is_first.sum())
    rank = np.empty(len(plan), np.int32)
    rank[:first] = _cut(compute[:first] + memory[:first], ranks)
    rest = slice(first, None)
    if plan.admission == DUAL_SCAN:
        rank[rest] = _cut_both_ends(compute[rest], memory[rest], ranks)
    else:
        rank[rest] = _cut(compute[rest] + memory[rest], ranks)
    place = np.lexsort((np.arange(len(plan)), ~plan.is_first, rank))
    columns = ("order", "is_first", "is_visible", "expected_output", "density")
    return replace(plan, rank=rank[place], **{name: getattr(plan, name)[place] for name in columns})


def _cut(work: Floats, ranks: int) -> Ints:
    """Rank of each row when the rows are cut into `ranks` runs of equal work."""
    middle = np.cumsum(work) - work / 2
    total = float(work.sum())
    if not total:
        return np.zeros(len(work), np.int64)
    return np.minimum((middle / total * ranks).astype(np.int64), ranks - 1)


def _cut_both_ends(compute: Floats, memory: Floats, ranks: int) -> Ints:
    """Rank of each row when every rank takes a run from the left and one from the right.

    The first r ranks together hold rows [0, x) and [n − y, n) with r/ranks of all compute and of
    all memory, as nearly as whole rows allow. For a given x the compute decides y, and the memory
    held then falls with x, because the left is denser: x is found by bisection.
    """
    n = len(compute)
    left_compute, left_memory = _running(compute), _running(memory)
    right_compute, right_memory = _running(compute[::-1]), _running(memory[::-1])
    rank = np.full(n, ranks - 1, np.int64)
    x_before, y_before = 0, 0
    for r in range(1, ranks):
        share = r / ranks

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
        rank[x_before:low] = r - 1
        rank[n - y : n - y_before] = r - 1
        x_before, y_before = low, y
    return rank


def _running(work: Floats) -> Floats:
    """Σ of the first k rows, k = 0 … n."""
    return np.concatenate(([0.0], np.cumsum(work)))
