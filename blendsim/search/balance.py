"""Shares of a pool for replicas that are to end together: cut, simulated and cut again by the ends.

Equal work takes ranks unequal time: the one with the longest answers makes several times the steps
of another, and each reads all weights and computes little beside them.
"""

from collections.abc import Callable, Sequence

import numpy as np

from blendsim.arrays import Floats
from blendsim.plan import Plan

ROUNDS = 6  # cuts tried beside the equal one, each simulated once
WORTH = 0.005  # of the last end: what another cut gains at least to be taken
SURE = 0.015  # of the last end: what is gained on equal shares in every other world
EVEN = 0.01  # of the mean end: ranks whose last one is later by no more are left as they are


def balanced(
    cut: Callable[[Floats | None], Plan],
    ends: Callable[[Plan], Floats],
    ranks: int,
    ends_elsewhere: Callable[[Sequence[Plan]], Floats] | None = None,
) -> Plan:
    """What `cut` makes of the shares, one a rank, by which the last of the `ends` is earliest of
    those that were tried; None are equal shares. Where lengths are not known, equal shares unless
    that gains in each of several other worlds, too: `ends_elsewhere` are (plans, worlds, ranks).

    A share shrinks as its rank ends later than the mean. Where that overshoots, as where one
    request decides when its rank ends, half the change is tried and then a quarter.
    """
    shares, even = np.ones(ranks), cut(None)
    best, power = even, 1.0
    found = at_first = ends(even)
    for _ in range(ROUNDS):
        mean = float(found.mean())
        if found.max() <= (1.0 + EVEN) * mean or power < 0.25:
            break
        tried = shares * (mean / np.maximum(found, mean / 2.0)) ** power
        tried *= ranks / tried.sum()
        plan = cut(tried)
        seconds = ends(plan)
        if seconds.max() <= (1.0 - WORTH) * found.max():
            shares, best, found = tried, plan, seconds
        else:
            power /= 2.0
    if ends_elsewhere is None or best is even:
        return best
    if found.max() > (1.0 - SURE) * at_first.max():
        return even
    before, after = ends_elsewhere([even, best]).max(axis=2)
    return best if bool((after <= (1.0 - SURE) * before).all()) else even
