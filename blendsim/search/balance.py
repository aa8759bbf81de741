"""Shares of a pool for replicas that are to end together: cut, simulated and cut again by the ends.

Equal work takes ranks unequal time: the one with the longest answers makes several times the steps
of another, and each reads all weights and computes little beside them.
"""

from collections.abc import Callable

import numpy as np

from blendsim.cutting import Floats
from blendsim.plan import Plan

ROUNDS = 3  # cuts tried beside the equal one, each simulated in every world; twice as many in one
WORTH = 0.005  # of the last end: what another cut gains at least to be taken
SURE = 0.015  # of the last end: what is gained on equal shares in every world of several
EVEN = 0.01  # of the mean end: ranks whose last one is later by no more are left as they are


def balanced(
    cut: Callable[[Floats | None], Plan], ends: Callable[[Plan], Floats], ranks: int
) -> Plan:
    """What `cut` makes of the shares, one a rank, by which the last of the `ends` is earliest of
    those that were tried; None are equal shares. `ends` has a row a world, a column a rank.

    A share shrinks as its rank ends later than the mean. Where that overshoots, as where one
    request decides when its rank ends, half the change is tried and then a quarter.
    """
    shares, even = np.ones(ranks), cut(None)
    best, power = even, 1.0
    found = at_first = ends(even)
    for _ in range(ROUNDS if len(found) > 1 else 2 * ROUNDS):
        each = found.mean(axis=0)
        mean = float(each.mean())
        if each.max() <= (1.0 + EVEN) * mean or power < 0.25:
            break
        tried = shares * (mean / np.maximum(each, mean / 2.0)) ** power
        tried *= ranks / tried.sum()
        plan = cut(tried)
        seconds = ends(plan)
        if _last(seconds) <= (1.0 - WORTH) * _last(found):
            shares, best, found = tried, plan, seconds
        else:
            power /= 2.0
    gained = 1.0 - found.max(axis=1) / at_first.max(axis=1)
    return best if len(found) == 1 or gained.min() >= SURE else even


def _last(ends: Floats) -> float:
    """When the last rank ends, in the mean of the worlds."""
    return float(ends.max(axis=1).mean())
