"""`blendsim search`: the schedule that the simulator predicts to be fastest, among all that an
engine's rules and the planner's settings allow.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from blendsim.arrays import Ints
from blendsim.errors import InputError
from blendsim.plan import Plan
from blendsim.report.metrics import Row, beside, with_regret
from blendsim.report.optimum import Bounds
from blendsim.request import Workload
from blendsim.search.caveats import caveats
from blendsim.search.cut import NEVER, CutShort, Stop
from blendsim.search.evaluation import Evaluator
from blendsim.search.judging import JUDGING_WORLDS, sure_gain
from blendsim.search.problem import (
    Problem,
    plan_policy,
    prepare,
    with_settings,
    with_worlds,
)
from blendsim.search.race import Finish, best_of, race
from blendsim.search.space import Point, Schedule, Space, axes_of, plain
from blendsim.search.standing import Standing
from blendsim.search.sweep import Sensitivity, missed, sweep, sweep_samples
from blendsim.search.trial import (
    Trial,
    block_size,
    find_bounds,
    find_engine,
    find_facts,
    run_trial,
    widest,
)
from blendsim.settings import Settings
from blendsim.steplog import StepLog
from blendsim.wording import Say

SEARCHED = "search"  # the policy's name of a plan that a search found
DEFAULT_EVALUATIONS = 160
_ENDLESS = 1 << 62


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a search goes on. Neither given: `DEFAULT_EVALUATIONS`."""

    evaluations: int | None = None
    budget_seconds: float | None = None  # stops early, after the batch that passes it
    is_swept: bool = False  # at the end every parameter is varied alone, for a picture
    worlds: int = (
        JUDGING_WORLDS  # to judge by where lengths are not known; 0: by the drawn lengths alone
    )

    def __post_init__(self) -> None:
        if self.evaluations is not None and self.evaluations < 1:
            raise InputError(f"--evaluations {self.evaluations} must be at least 1")
        if self.budget_seconds is not None and not self.budget_seconds > 0:
            raise InputError(f"--budget {self.budget_seconds:g}s must be above 0")
        if self.worlds < 0 or self.worlds == 1:
            raise InputError(f"{self.worlds} worlds: give 0, or as many as have a spread")

    @property
    def most(self) -> int:
        """Evaluations at most."""
        if self.evaluations is not None:
            return self.evaluations
        return DEFAULT_EVALUATIONS if self.budget_seconds is None else _ENDLESS


class Entry(NamedTuple):
    """A schedule that was simulated on the whole pool."""

    seconds: float  # predicted; typical of the worlds where there are several
    is_fixed: bool  # a policy as `plan` runs it
    values: dict[str, Any]  # of the axes that mean something for it


class Tally(NamedTuple):
    """What a search did."""

    evaluations: int  # of the course: with so many it is repeated exactly
    whole: int  # simulations of the whole pool; a plan that equals another is not run again
    thinned: int  # of smaller pools
    seconds: float  # wall, of all evaluations
    swept: int  # simulations for the sensitivities, not counted above
    is_cut: bool  # somebody stopped it before its evaluations or its time were over
    is_spent: bool = False  # it ended before them, as its course had nothing new left to try


class Found(NamedTuple):
    """What a search gives."""

    plan: Plan
    chosen: Row
    #: The best fixed policy as `plan` runs it, and the chosen schedule, beside the same bounds.
    rows: list[Row]
    leaderboard: list[Entry]  # by predicted seconds
    sensitivities: list[Sensitivity]  # empty unless asked for
    seconds: float  # what the schedule was chosen by
    worlds: int  # that schedules were judged by; 0: lengths leave only one
    tally: Tally
    schedule: dict[str, str]  # the chosen one's policy and what else is unusual, in words
    log: StepLog  # of the chosen one, on true lengths where the trace has them
    bounds: Bounds  # for its token budget
    notes: list[str]  # what was guessed or extrapolated, or could not be tried
    caveats: list[str]  # as a Choice's

    @property
    def is_searched(self) -> bool:
        """Whether the chosen schedule is none of the fixed policies."""
        return self.chosen.policy == SEARCHED

    @property
    def fixed_seconds(self) -> dict[str, float]:
        """`seconds` of every fixed policy."""
        return {e.values["policy"]: e.seconds for e in self.leaderboard if e.is_fixed}


def search(
    workload: Workload,
    settings: Settings,
    effort: Effort = Effort(),
    progress: Say = lambda _: None,
    stop: Stop = NEVER,
) -> Found:
    """Race schedules by predicted seconds and keep the fastest. The fixed policies are always among
    them, so the result is never behind them by prediction.

    Where lengths are not known all are compared in several possible worlds, and what is best is
    taken only if it also gains over the best fixed policy in as many others (judging.py). A row's
    predicted seconds are those on the drawn lengths, as everywhere.

    Once the fixed policies have run, it ends soon after `stop` says so, with the best found so far.
    """
    start = time.perf_counter()
    problem = prepare(workload, settings, progress)
    return search_prepared(problem, effort, progress, start, stop=stop)


def search_prepared(
    problem: Problem,
    effort: Effort,
    progress: Say = lambda _: None,
    start: float | None = None,
    tried: Sequence[Trial] = (),
    stop: Stop = NEVER,
) -> Found:
    """`search` of a problem that is prepared; `start` is when its time budget began, by
    `time.perf_counter`. Fixed policies that were `tried` before are not planned again, and run
    again in other worlds only.
    """
    began = time.perf_counter()
    problem, fresh = _with_worlds(problem, effort.worlds)
    space = Space(axes_of(problem), plain(problem))
    evaluator = Evaluator(problem, space)
    known = {trial.row.policy: trial for trial in tried}
    for point in space.fixed():
        if trial := known.get(space.schedule(point).policy):
            evaluator.remember(point, trial.plan, trial.row.predicted_seconds)
    end = math.inf
    if effort.budget_seconds is not None:
        end = (began if start is None else start) + effort.budget_seconds

    standing = Standing(space.fixed(), progress)

    def told(runs: Sequence[Finish]) -> None:
        stop.keep()
        standing.tell(runs)

    runs = race(
        space,
        len(evaluator.levels),
        problem.settings.seed,
        effort.most,
        lambda heats: evaluator.seconds(heats, stop),
        lambda: stop() or time.perf_counter() >= end,
        told,
    )
    standing.tell(runs, is_end=True)
    is_cut = stop()
    is_spent = not is_cut and len(runs) < effort.most and time.perf_counter() < end
    chosen = best_of(runs)
    if problem.worlds:
        progress("comparing what was found in other worlds")
        chosen = _confirmed(_surest(runs, space, evaluator), runs, fresh, evaluator)
    wall = time.perf_counter() - began
    ran = list(evaluator.simulations)
    swept: list[Sensitivity] = []
    if effort.is_swept and not is_cut:
        progress("varying each parameter alone")
        try:
            swept = sweep(space, chosen.heat.point, evaluator, stop)
            progress("drawing other samples")
            swept += sweep_samples(problem, space.schedule(chosen.heat.point), evaluator, stop)
        except CutShort:
            is_cut = True
    n_swept = sum(evaluator.simulations) - sum(ran)
    tally = Tally(len(runs), ran[0], sum(ran[1:]), wall, n_swept, is_cut, is_spent)
    progress("simulating the chosen schedule on the true lengths")
    return _report(problem, space, runs, chosen, swept, tally, known)


def _surest(runs: Sequence[Finish], space: Space, evaluator: Evaluator) -> Finish:
    """The run on the whole pool that surely gains most over the best fixed policy."""
    usual = _best_fixed(space, runs)
    gains = {
        run: evaluator.sure_gain(usual.heat.point, run.heat.point)
        for run in runs
        if run.heat.level == 0
    }
    best = max(gains, key=lambda run: gains[run])
    return best if gains[best] > 0.0 else usual


def _with_worlds(problem: Problem, count: int) -> tuple[Problem, tuple[Ints, ...]]:
    """The problem with worlds to search by, and as many others to confirm in what was found."""
    worlds = with_worlds(problem, 2 * count).worlds
    return problem._replace(worlds=worlds[:count]), worlds[count : 2 * count]


def _confirmed(
    best: Finish, runs: Sequence[Finish], fresh: Sequence[Ints], evaluator: Evaluator
) -> Finish:
    """The run if its schedule gains in fresh worlds too, else the best fixed policy."""
    usual = _best_fixed(evaluator.space, runs)
    if best == usual:
        return usual
    logs = evaluator.logs_in([usual.heat.point, best.heat.point], fresh)
    return best if sure_gain(*logs) > 0.0 else usual


def _best_fixed(space: Space, runs: Sequence[Finish]) -> Finish:
    fixed = set(space.fixed())
    return best_of([run for run in runs if run.heat.point in fixed])


def unusual(space: Space, point: Point) -> dict[str, str]:
    """The policy of a point and what it has otherwise than a fixed one, in words."""
    told = space.told(point)
    return {
        axis.name: axis.shown(at)
        for k, (axis, at) in enumerate(zip(space.axes, point, strict=True))
        if axis.name in told and (k == 0 or at != axis.default)
    }


def _report(
    problem: Problem,
    space: Space,
    runs: Sequence[Finish],
    best: Finish,
    swept: list[Sensitivity],
    tally: Tally,
    known: Mapping[str, Trial],
) -> Found:
    """The chosen schedule, `best`, and the best fixed policy, simulated on the true lengths unless
    the policy is `known`; beside bounds that hold for both.
    """
    fixed = set(space.fixed())
    usual = _best_fixed(space, runs)
    trials = []
    for run in dict.fromkeys((usual, best)):
        schedule = space.schedule(run.heat.point)
        trial = known.get(schedule.policy) if run.heat.point in fixed else None
        if trial is None:
            name = schedule.policy if run.heat.point in fixed else SEARCHED
            trial = _try(problem, schedule, name)
        if not problem.worlds:
            assert trial.row.predicted_seconds == run.seconds, "a search predicts as simulate does"
        trials.append(trial)
    chosen = trials[-1]
    meta = {
        **chosen.plan.meta,
        "predicted_seconds": chosen.row.predicted_seconds,
        "search": {
            "evaluations": tally.evaluations,
            "worlds": len(problem.worlds),
            "schedule": _plainly(space.schedule(best.heat.point)),
        },
    }
    limits = widest((trial.row.token_budget, trial.bounds) for trial in trials)
    rows = [beside(trial.row, trial.log, limits) for trial in trials]
    rows[-1] = with_regret(rows[-1], rows)
    return Found(
        plan=replace(chosen.plan, meta=meta),
        chosen=rows[-1],
        rows=rows,
        leaderboard=_ranked(space, runs, fixed),
        sensitivities=swept,
        seconds=best.seconds,
        worlds=len(problem.worlds),
        tally=tally,
        schedule=unusual(space, best.heat.point),
        log=chosen.log,
        bounds=chosen.bounds,
        notes=[
            *problem.notes,
            *chosen.notes,
            *([] if problem.worlds else missed(swept, best.seconds)),
        ],
        caveats=caveats(problem.settings, chosen.plan),
    )


def _try(problem: Problem, schedule: Schedule, name: str) -> Trial:
    """The schedule beside the bounds of its own token budget."""
    scene = with_settings(problem, schedule.settings, planner=schedule.policy)
    plan = plan_policy(scene, schedule.policy, schedule.blend)
    flavour = find_engine(scene, schedule.settings.engine)
    block = block_size(scene, [flavour])
    limits = find_bounds(scene, flavour.token_budget, block)
    return run_trial(scene, plan, name, flavour, limits, find_facts(scene, limits.work))


def _plainly(schedule: Schedule) -> dict[str, Any]:
    return {"policy": schedule.policy, "blend": asdict(schedule.blend)}


def _ranked(space: Space, runs: Sequence[Finish], fixed: set[Point]) -> list[Entry]:
    """Runs of the whole pool by predicted seconds; of those of one policy that take equally long
    the first, as they are one plan under several settings.
    """
    first: dict[tuple[str, float], Finish] = {}
    for run in runs:
        if run.heat.level == 0:
            policy = space.schedule(run.heat.point).policy
            first.setdefault((policy, run.seconds), run)
    ranked = sorted(first.values(), key=lambda run: run.seconds)
    return [
        Entry(run.seconds, run.heat.point in fixed, space.told(run.heat.point)) for run in ranked
    ]
