"""The course of a search: which points are tried at which size of the pool, and in which order.

Fixed policies first, also at other token budgets. Then laps: points scattered evenly over the space
of the better half of the policies (a scrambled Sobol sequence) run on the smallest pool, the best
few of them on the next larger one, the best of those on the whole; from the best point so far the
search walks along one axis at a time, with steps that halve. The course depends on results and
never on time or threads: stopped after N runs it has tried what any search of N runs tries.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import qmc

from blendsim.search.cut import CutShort
from blendsim.search.space import Point, Space

SCATTERED = 32  # points of a lap on the smallest pool
KEPT = 4  # one of so many goes on to the next larger pool
WALKED = 96  # runs of a lap's walk at most
FIRST_STEP = 2  # values along an axis


class Heat(NamedTuple):
    """A point to be run on one of the pools: 0 is the whole, higher levels are smaller."""

    point: Point
    level: int


class Finish(NamedTuple):
    """A heat and the seconds it gave."""

    heat: Heat
    seconds: float  # predicted for the whole pool; only runs of one level compare


Results = Sequence[float]


def race(
    space: Space,
    levels: int,
    seed: int,
    most: int,
    evaluate: Callable[[list[Heat]], Results],
    is_late: Callable[[], bool] = lambda: False,
    say: Callable[[Sequence[Finish]], None] = lambda _: None,
) -> list[Finish]:
    """At most `most` runs in the order of the course, the fixed policies at least; stops early
    after the batch in which it `is_late`, or before one that `evaluate` gives up: CutShort.
    """
    runs: list[Finish] = []
    known: dict[Heat, float] = {}
    for batch in _course(space, levels, seed, known):
        fresh = list(dict.fromkeys(heat for heat in batch if heat not in known))
        room = most - len(runs) if runs else len(fresh)
        fresh = fresh[: max(room, 0)]
        try:
            results = evaluate(fresh)
        except CutShort:
            break
        for heat, seconds in zip(fresh, results, strict=True):
            known[heat] = seconds
            runs.append(Finish(heat, seconds))
        say(runs)
        if len(runs) >= most or is_late():
            break
    return runs


def best_of(runs: Sequence[Finish]) -> Finish:
    """The fastest on the whole pool; the first of equals."""
    return min((run for run in runs if run.heat.level == 0), key=lambda run: run.seconds)


def _course(space: Space, levels: int, seed: int, known: dict[Heat, float]) -> Iterator[list[Heat]]:
    """Batches without end, or until there is nothing new; `known` holds the results so far."""
    yield [Heat(point, 0) for point in space.fixed()]
    for point in space.fixed():
        yield [Heat(p, 0) for p in space.fixed_everywhere() if p[0] == point[0]]
    policies = _better_half([Heat(point, 0) for point in space.fixed_everywhere()], known)
    sobol = qmc.Sobol(len(space.axes), rng=np.random.default_rng(seed))
    while True:
        before = len(known)
        points = [space.at(place, policies) for place in sobol.random(SCATTERED)]
        for level in range(levels - 1, -1, -1):
            heats = list(dict.fromkeys(Heat(point, level) for point in points))
            for low in range(0, len(heats), 8):
                yield heats[low : low + 8]
            heats.sort(key=lambda heat: known[heat])
            points = [heat.point for heat in heats[: max(1, len(heats) // KEPT)]]
        yield from _walk(space, levels, known)
        if len(known) == before:
            return


def _better_half(fixed: Sequence[Heat], known: dict[Heat, float]) -> list[int]:
    """The policies whose best fixed runs are fastest, by their index on the first axis."""
    ranked = sorted(fixed, key=lambda heat: known[heat])
    policies = list(dict.fromkeys(heat.point[0] for heat in ranked))
    return policies[: -(-len(policies) // 2)]


def _walk(space: Space, levels: int, known: dict[Heat, float]) -> Iterator[list[Heat]]:
    """Pattern search from the best point, both neighbours on two axes at a time. Where there are
    smaller pools, only those run on the whole that the largest of them does not find slower.
    """

    def best() -> Point:
        whole = [heat for heat in known if heat.level == 0]
        return min(whole, key=lambda heat: known[heat]).point

    start, step = len(known), FIRST_STEP
    while step >= 1:
        before = best()
        for low in range(0, len(space.axes), 2):
            if len(known) - start >= WALKED:
                return
            here = best()
            axes = range(low, min(low + 2, len(space.axes)))
            points = [p for axis in axes for p in space.neighbours(here, axis, step)]
            if levels > 1:
                yield [Heat(p, 1) for p in (here, *points)]
                points = [p for p in points if known[Heat(p, 1)] <= known[Heat(here, 1)]]
            yield [Heat(p, 0) for p in points]
        if best() == before:
            step //= 2
