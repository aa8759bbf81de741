"""What each parameter does by itself around the schedule that a search found, for a picture and for
a note on what the search missed.
"""

from collections.abc import Sequence
from typing import NamedTuple

from blendsim.search.cut import CutShort, Stop
from blendsim.search.evaluation import Evaluator
from blendsim.search.problem import Problem
from blendsim.search.race import Heat
from blendsim.search.resampling import REPEATS, resampled_seconds, shares_around
from blendsim.search.space import Point, Schedule, Space

SAMPLING = "sampling share, redrawn"


class Sensitivity(NamedTuple):
    """What one parameter does while the others stay as chosen."""

    axis: str
    is_ordered: bool
    labels: list[str]
    chosen: int
    seconds: list[float]  # what schedules are compared by; of other samples, predicted


def sweep(space: Space, point: Point, evaluator: Evaluator, stop: Stop) -> list[Sensitivity]:
    """Every axis that means something at the point, all its values, the others kept. CutShort once
    it is to `stop`.
    """
    found = []
    for k, axis in enumerate(space.axes):
        if not space.matters(point, k):
            continue
        places = [space.tidy([*point[:k], at, *point[k + 1 :]]) for at in range(len(axis.values))]
        seconds = evaluator.seconds([Heat(place, 0) for place in places], stop)
        labels = [axis.shown(at) for at in range(len(axis.values))]
        found.append(Sensitivity(axis.name, axis.is_ordered, labels, point[k], seconds))
    return found


def sweep_samples(
    problem: Problem, schedule: Schedule, evaluator: Evaluator, stop: Stop
) -> list[Sensitivity]:
    """What the share of sampled requests does; nothing where no length has to be sampled. CutShort
    once it is to `stop`.
    """
    if not problem.lengths.is_sampled.any():
        return []
    asked = problem.settings.sample
    share = float(problem.lengths.is_sampled.mean()) if isinstance(asked, str) else asked
    shares = shares_around(problem, share)
    if len(shares) == 1:
        return []
    seconds = []
    for each in shares:
        if stop():
            raise CutShort
        seconds.append(resampled_seconds(problem, schedule, each))
        evaluator.simulations[0] += REPEATS
    here = shares.index(share)
    return [Sensitivity(SAMPLING, True, [f"{s:.3g}" for s in shares], here, seconds)]


def missed(swept: Sequence[Sensitivity], best: float) -> list[str]:
    """What the sweep saw that the search had not tried; it does not change what is chosen."""
    found = [
        (seconds, f"{each.axis} {label} alone would be predicted to take {seconds:,.1f} s")
        for each in swept
        if each.axis != SAMPLING
        for label, seconds in zip(each.labels, each.seconds, strict=True)
        if seconds < best
    ]
    return [f"{min(found)[1]}; a longer search may take it"] if found else []
