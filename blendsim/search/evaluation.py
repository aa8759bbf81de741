"""Predicted seconds of many schedules of one pool. What does not depend on a schedule is made once,
schedules that differ in the engine's rules share a plan, and equal plans are run once.

Where lengths are known, that is the run on them; else what is typical of several possible worlds.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import NamedTuple, TypeVar

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.cores import on_all_cores
from blendsim.plan import Plan
from blendsim.planner.blend import BlendSettings
from blendsim.search.cut import NEVER, CutShort, Stop
from blendsim.search.judging import judge, sure_gain
from blendsim.search.problem import Problem, plan_policy, with_settings
from blendsim.search.race import Heat
from blendsim.search.space import Point, Schedule, Space
from blendsim.search.thinning import can_thin, divide_flavour, divide_settings, thin
from blendsim.search.trial import find_engine
from blendsim.search.world_run import seconds_in
from blendsim.serving.flavour import Flavour
from blendsim.settings import Settings
from blendsim.topology import COLOCATED

_In = TypeVar("_In")
_Out = TypeVar("_Out")

PARTS = (1, 4, 16)  # into which pool and machine are divided, by level
LEAST_REQUESTS = 10_000  # what is left of a pool that is worth thinning; a smaller one runs fast
PLANS_KEPT = 24  # the latest


class _PlanKey(NamedTuple):
    level: int
    policy: str
    blend: BlendSettings
    settings: Settings  # without the engine's rules: those that plans are made by


class _RunKey(NamedTuple):
    level: int
    plan: bytes  # digest of what a run depends on
    flavour: Flavour


class _Kept(NamedTuple):
    plan: Plan
    digest: bytes


class Evaluator:
    """Predicts the points of a space, on all cores. The problem's `worlds`, where it has any, are
    what schedules are judged by, and not its drawn lengths, which plans are made of.
    """

    def __init__(self, problem: Problem, space: Space) -> None:
        self.space = space
        self.parts = [parts for parts in PARTS if parts == 1 or _is_worth(problem, parts)]
        seed = problem.settings.seed
        self.levels = [problem if k == 1 else thin(problem, k, seed) for k in self.parts]
        self.simulations = [0] * len(self.parts)  # that were run, by level
        self._plans: OrderedDict[_PlanKey, _Kept] = OrderedDict()
        self._seconds: dict[_RunKey, float] = {}
        self._best: dict[int, Floats] = {}  # by level, logarithms of seconds in each world
        self._logs: dict[_RunKey, Floats] = {}  # the same of every run that was judged by worlds
        self._run_of: dict[Heat, _RunKey] = {}

    def seconds(self, heats: Sequence[Heat], stop: Stop = NEVER) -> list[float]:
        """Predicted seconds of the whole pool for each, never on the true lengths. CutShort once it
        is to `stop`.

        Those of a small pool on a small machine stand for the whole ones (thinning.py).
        """
        schedules = [self.space.schedule(heat.point) for heat in heats]
        wanted = [_plan_key(heat.level, made) for heat, made in zip(heats, schedules, strict=True)]
        plans = self._plans_of(wanted, stop)
        runs = [
            _RunKey(heat.level, plans[key].digest, self._flavour(made))
            for heat, made, key in zip(heats, schedules, wanted, strict=True)
        ]
        fresh = {
            run: plans[key].plan
            for run, key in zip(runs, wanted, strict=True)
            if run not in self._seconds
        }
        self._judge(fresh, stop)
        self._run_of.update(zip(heats, runs, strict=True))
        return [self._seconds[run] for run in runs]

    def sure_gain(self, usual: Point, other: Point) -> float:
        """What `other` surely gains over `usual` on the whole pool (judging.py), both judged by
        worlds before.
        """
        logs = [self._logs[self._run_of[Heat(point, 0)]] for point in (usual, other)]
        return sure_gain(*logs)

    def logs_in(self, points: Sequence[Point], worlds: Sequence[Ints]) -> list[Floats]:
        """(worlds,) logarithms of each point's seconds on the whole pool in worlds like the
        problem's.
        """
        schedules = [self.space.schedule(point) for point in points]
        keys = [_plan_key(0, made) for made in schedules]
        plans = self._plans_of(keys)
        runs = [
            (plans[key].plan, self._flavour(made), world)
            for key, made in zip(keys, schedules, strict=True)
            for world in worlds
        ]
        self.simulations[0] += len(runs)
        seconds = on_all_cores(lambda run: self._simulate(0, *run), runs)
        return list(np.log(seconds).reshape(len(points), len(worlds)))

    def _judge(self, fresh: Mapping[_RunKey, Plan], stop: Stop) -> None:
        """Run what is new, level by level."""

        def run(pairs: Sequence[tuple[_RunKey, int]]) -> list[float]:
            found = _unless_stopped(
                lambda pair: self._run(pair[0], fresh[pair[0]], pair[1]), pairs, stop
            )
            for key, _ in pairs:
                self.simulations[key.level] += 1
            return found

        for level, problem in enumerate(self.levels):
            keys = [key for key in fresh if key.level == level]
            if not keys:
                continue
            if problem.worlds:
                verdict = judge(keys, len(problem.worlds), run, self._best.get(level))
                found, self._best[level] = verdict.seconds, verdict.best
                self._logs.update(zip(keys, verdict.logs, strict=True))
            else:
                found = run([(key, 0) for key in keys])
            self._seconds.update(zip(keys, found, strict=True))

    def remember(self, point: Point, plan: Plan, seconds: float) -> None:
        """The plan at a point and its seconds on the drawn lengths, where both are known: neither
        made nor run again.
        """
        made, kept = self.space.schedule(point), _Kept(plan, _digest(plan))
        self._plans[_plan_key(0, made)] = kept
        if not self.levels[0].worlds:
            self._seconds[_RunKey(0, kept.digest, self._flavour(made))] = seconds

    def _plans_of(self, wanted: Iterable[_PlanKey], stop: Stop = NEVER) -> dict[_PlanKey, _Kept]:
        """The plans, made where they are not among the latest ones."""
        keys = list(dict.fromkeys(wanted))
        missing = [key for key in keys if key not in self._plans]
        self._plans.update(zip(missing, _unless_stopped(self._make, missing, stop), strict=True))
        for key in keys:
            self._plans.move_to_end(key)
        chosen = {key: self._plans[key] for key in keys}
        while len(self._plans) > PLANS_KEPT:
            self._plans.popitem(last=False)
        return chosen

    def _make(self, key: _PlanKey) -> _Kept:
        settings = divide_settings(key.settings, self.parts[key.level])
        problem = with_settings(self.levels[key.level], settings)
        plan = plan_policy(problem, key.policy, key.blend)
        return _Kept(plan, _digest(plan))

    def _flavour(self, schedule: Schedule) -> Flavour:
        problem = with_settings(self.levels[0], schedule.settings)
        return find_engine(problem, schedule.settings.engine)

    def _run(self, key: _RunKey, plan: Plan, world: int) -> float:
        problem = self.levels[key.level]
        lengths = problem.worlds[world] if problem.worlds else problem.drawn
        return self._simulate(key.level, plan, key.flavour, lengths)

    def _simulate(self, level: int, plan: Plan, flavour: Flavour, output_len: Ints) -> float:
        divided = divide_flavour(flavour, self.parts[level])
        return seconds_in(self.levels[level], plan, divided, output_len)


def _plan_key(level: int, made: Schedule) -> _PlanKey:
    return _PlanKey(level, made.policy, made.blend, made.settings.without_rules)


def _digest(plan: Plan) -> bytes:
    """A digest of what a run depends on."""
    digest = hashlib.blake2b()
    for field in fields(plan):
        value = getattr(plan, field.name)
        if isinstance(value, np.ndarray):
            digest.update(np.ascontiguousarray(value).data)
        elif field.name not in ("policy", "meta"):
            digest.update(repr(value).encode())
    return digest.digest()


def _is_worth(problem: Problem, parts: int) -> bool:
    """Whether a pool and machine of such a part are worth a level. What stands around replicas is
    not divided.
    """
    settings = problem.settings
    if settings.cluster != COLOCATED or settings.host is not None or settings.dp > 1:
        return False
    return len(problem.workload) >= LEAST_REQUESTS * parts and can_thin(problem, parts)


def _unless_stopped(
    call: Callable[[_In], _Out], items: Sequence[_In], stop: Stop = NEVER
) -> list[_Out]:
    """Results in order, found on all cores; CutShort once `stop` says so."""

    def called(item: _In) -> _Out:
        if stop():
            raise CutShort
        return call(item)

    return on_all_cores(called, items)
