"""`blendsim search`: the schedule that the simulator predicts to be fastest, among all that an
engine's rules and the planner's settings allow.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from blendsim.errors import InputError
from blendsim.plan import Plan
from blendsim.report.metrics import Row
from blendsim.report.optimum import Bounds
from blendsim.request import Workload
from blendsim.search.evaluation import Evaluator
from blendsim.search.problem import Problem, Progress, plan_policy, prepare
from blendsim.search.race import Heat, Run, best_of, race
from blendsim.search.resampling import resampled_seconds, shares_around
from blendsim.search.space import Point, Schedule, Space, axes_of, plain
from blendsim.search.trial import block_size, find_bounds, find_engine, find_facts, run_trial
from blendsim.settings import Settings

SEARCHED = "search"  # the policy's name of a plan that a search found
SAMPLING = "sampling share, redrawn"
DEFAULT_EVALUATIONS = 160
_ENDLESS = 1 << 62


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a search goes on. Neither given: `DEFAULT_EVALUATIONS`."""

    evaluations: int | None = None
    budget_seconds: float | None = None  # stops early, after the batch that passes it
    is_swept: bool = False  # at the end every parameter is varied alone, for a picture

    def __post_init__(self) -> None:
        if self.evaluations is not None and self.evaluations < 1:
            raise InputError(f"--evaluations {self.evaluations} must be at least 1")
        if self.budget_seconds is not None and not self.budget_seconds > 0:
            raise InputError(f"--budget {self.budget_seconds:g}s must be above 0")

    @property
    def most(self) -> int:
        """Evaluations at most."""
        if self.evaluations is not None:
            return self.evaluations
        return DEFAULT_EVALUATIONS if self.budget_seconds is None else _ENDLESS


class Entry(NamedTuple):
    """A schedule that was simulated on the whole pool."""

    seconds: float  # predicted
    is_fixed: bool  # a policy as `plan` runs it
    values: dict[str, Any]  # of the axes that mean something for it


class Sensitivity(NamedTuple):
    """What one parameter does while the others stay as chosen."""

    axis: str
    is_ordered: bool
    labels: list[str]
    chosen: int
    seconds: list[float]  # predicted


class Tally(NamedTuple):
    """What a search did."""

    evaluations: int  # of the course: with so many it is repeated exactly
    whole: int  # simulations of the whole pool; a plan that equals another is not run again
    thinned: int  # of smaller pools
    seconds: float  # wall, of all evaluations
    swept: int  # simulations for the sensitivities, not counted above


class Found(NamedTuple):
    """What a search gives."""

    plan: Plan
    chosen: Row
    rows: list[Row]  # the best fixed policy as `plan` runs it, and the chosen schedule
    leaderboard: list[Entry]  # by predicted seconds
    sensitivities: list[Sensitivity]  # empty unless asked for
    tally: Tally
    bounds: Bounds
    notes: list[str]


def search(
    workload: Workload,
    settings: Settings,
    effort: Effort = Effort(),
    progress: Progress = lambda _: None,
) -> Found:
    """Race schedules by predicted seconds and keep the fastest. The fixed policies are always among
    them, so the result is never behind them by prediction.
    """
    start = time.perf_counter()
    return search_prepared(prepare(workload, settings, progress), effort, progress, start)


def search_prepared(
    problem: Problem,
    effort: Effort,
    progress: Progress = lambda _: None,
    start: float | None = None,
) -> Found:
    """`search` of a problem that is prepared; `start` is when its time budget began, by
    `time.perf_counter`.
    """
    began = time.perf_counter()
    space = Space(axes_of(problem), plain(problem))
    evaluator = Evaluator(problem, space)
    end = math.inf
    if effort.budget_seconds is not None:
        end = (began if start is None else start) + effort.budget_seconds
    runs = race(
        space,
        len(evaluator.levels),
        problem.settings.seed,
        effort.most,
        evaluator.seconds,
        lambda: time.perf_counter() >= end,
        lambda runs: progress(_standing(space, runs)),
    )
    wall = time.perf_counter() - began
    ran = list(evaluator.simulations)
    best = best_of(runs)
    swept: list[Sensitivity] = []
    if effort.is_swept:
        progress("varying each parameter alone")
        swept = _sweep(space, best.heat.point, evaluator)
        progress("drawing other samples")
        swept += _samples(problem, space.schedule(best.heat.point))
    tally = Tally(len(runs), ran[0], sum(ran[1:]), wall, sum(evaluator.simulations) - sum(ran))
    progress("simulating the chosen schedule on the true lengths")
    return _report(problem, space, runs, swept, tally)


def _standing(space: Space, runs: Sequence[Run]) -> str:
    best = best_of(runs)
    values = ", ".join(f"{name} {value}" for name, value in unusual(space, best.heat.point).items())
    return f"{len(runs)} evaluations, best {best.seconds:,.1f} s: {values}"


def unusual(space: Space, point: Point) -> dict[str, str]:
    """The policy of a point and what it has otherwise than a fixed one, in words."""
    told = space.told(point)
    return {
        axis.name: axis.shown(at)
        for k, (axis, at) in enumerate(zip(space.axes, point, strict=True))
        if axis.name in told and (k == 0 or at != axis.default)
    }


def _sweep(space: Space, point: Point, evaluator: Evaluator) -> list[Sensitivity]:
    """Every axis that means something at the point, all its values, the others kept."""
    found = []
    for k, axis in enumerate(space.axes):
        if not space.matters(point, k):
            continue
        places = [space.tidy([*point[:k], at, *point[k + 1 :]]) for at in range(len(axis.values))]
        seconds = evaluator.seconds([Heat(place, 0) for place in places])
        labels = [axis.shown(at) for at in range(len(axis.values))]
        found.append(Sensitivity(axis.name, axis.is_ordered, labels, point[k], seconds))
    return found


def _samples(problem: Problem, schedule: Schedule) -> list[Sensitivity]:
    """What the share of sampled requests does; nothing where no length has to be sampled."""
    if not problem.lengths.is_sampled.any():
        return []
    asked = problem.settings.sample
    share = float(problem.lengths.is_sampled.mean()) if isinstance(asked, str) else asked
    shares = shares_around(share)
    seconds = [resampled_seconds(problem, schedule, share) for share in shares]
    here = shares.index(share)
    return [Sensitivity(SAMPLING, True, [f"{s:.3g}" for s in shares], here, seconds)]


def _report(
    problem: Problem,
    space: Space,
    runs: Sequence[Run],
    swept: list[Sensitivity],
    tally: Tally,
) -> Found:
    """The chosen schedule and the best fixed policy, simulated on the true lengths."""
    fixed = set(space.fixed())
    best = best_of(runs)
    usual = best_of([run for run in runs if run.heat.point in fixed])
    trials = []
    for run in dict.fromkeys((usual, best)):
        schedule = space.schedule(run.heat.point)
        name = schedule.policy if run.heat.point in fixed else SEARCHED
        scene = problem._replace(settings=replace(schedule.settings, planner=schedule.policy))
        plan = plan_policy(scene, schedule.policy, schedule.blend)
        flavour = find_engine(scene, schedule.settings.engine)
        block = block_size(scene, [flavour])
        limits = find_bounds(scene, flavour.token_budget, block)
        trial = run_trial(scene, plan, name, flavour, limits, find_facts(scene, block))
        assert trial.row.predicted_seconds == run.seconds, "a search predicts what simulate does"
        trials.append(trial)
    chosen = trials[-1]
    meta = {
        **chosen.plan.meta,
        "predicted_seconds": best.seconds,
        "search": {
            "evaluations": tally.evaluations,
            "schedule": _plainly(space.schedule(best.heat.point)),
        },
    }
    rows = [trial.row for trial in trials]
    least = min(row.reported_seconds for row in rows)
    rows[-1] = replace(rows[-1], regret=rows[-1].reported_seconds - least)
    return Found(
        plan=replace(chosen.plan, meta=meta),
        chosen=rows[-1],
        rows=rows,
        leaderboard=_ranked(space, runs, fixed),
        sensitivities=swept,
        tally=tally,
        bounds=chosen.bounds,
        notes=[
            *problem.workload.notes,
            *problem.lengths.notes,
            *chosen.notes,
            *_missed(swept, best.seconds),
        ],
    )


def _missed(swept: Sequence[Sensitivity], best: float) -> list[str]:
    """What the sweep saw that the search had not tried; it does not change what is chosen."""
    found = [
        (seconds, f"{each.axis} {label} alone would be predicted to take {seconds:,.1f} s")
        for each in swept
        if each.axis != SAMPLING
        for label, seconds in zip(each.labels, each.seconds, strict=True)
        if seconds < best
    ]
    return [f"{min(found)[1]}; a longer search may take it"] if found else []


def _plainly(schedule: Schedule) -> dict[str, Any]:
    return {"policy": schedule.policy, "blend": asdict(schedule.blend)}


def _ranked(space: Space, runs: Sequence[Run], fixed: set[Point]) -> list[Entry]:
    """Runs of the whole pool by predicted seconds; of those of one policy that take equally long
    the first, as they are one plan under several settings.
    """
    first: dict[tuple[str, float], Run] = {}
    for run in runs:
        if run.heat.level == 0:
            policy = space.schedule(run.heat.point).policy
            first.setdefault((policy, run.seconds), run)
    ranked = sorted(first.values(), key=lambda run: run.seconds)
    return [
        Entry(run.seconds, run.heat.point in fixed, space.told(run.heat.point)) for run in ranked
    ]
