"""The two stages of answering a batch, each planned with what is known by then."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blendsim.arrays import Bools
from blendsim.live.answerer import Loaded
from blendsim.live.course import Course
from blendsim.wording import Say

if TYPE_CHECKING:
    from blendrt.generate.wanted import Wanted
    from blendsim.arrays import Ints
    from blendsim.plan import Plan
    from blendsim.request import Workload
    from blendsim.search import Problem
    from blendsim.steplog import StepLog

FIRST = "dfs"  # order of those answered first: nothing is known of their lengths


class Planned(NamedTuple):
    """A stage's plan, and what was foreseen of it."""

    plan: "Plan"
    predicted_seconds: float | None  # None: it was not chosen among several
    notes: list[str]


class Stage(NamedTuple):
    """What a stage of the run came to."""

    planned: Planned
    log: "StepLog"


class Stages:
    """A batch, how it is to be answered, and the model that answers."""

    def __init__(
        self, course: Course, wanted: "Wanted", workload: "Workload", loaded: Loaded, say: Say
    ) -> None:
        self._course = course
        self._wanted = wanted
        self._workload = workload  # with the most tokens of each answer as its limit
        self._loaded = loaded
        self._say = say

    def run(self, is_first: Bools) -> list[Stage]:
        """Answer those of `is_first`, (n,), that have no answer, then all others."""
        course, stages = self._course, []
        for is_last in (False, True):
            rows = np.flatnonzero(course.left if is_last else course.left & is_first)
            if len(rows):
                problem = self._problem(rows, is_first)
                stages.append(self._answer(problem, rows, self._plan(problem, is_last)))
        return stages

    def _problem(self, rows: "Ints", is_first: Bools) -> "Problem":
        """The requests `rows`, expected to answer as those of the sample did so far; those that are
        refused, which may be too long for any plan, are not in the pool.
        """
        from blendsim.request import select
        from blendsim.search import prepare_rest

        course, kept = self._course, np.flatnonzero(~self._course.refused)
        seen = (course.answered & is_first)[kept]
        settings, pool = self._loaded.settings, select(self._workload, kept)
        rest = np.searchsorted(kept, rows).astype(np.int64)
        return prepare_rest(pool, settings, rest, seen, course.lengths[kept], self._say)

    def _plan(self, problem: "Problem", is_last: bool) -> Planned:
        """Those answered first go in prefix order; for the others a policy is chosen."""
        from blendsim.search import choose_for, plan_policy

        if not is_last:
            return Planned(plan_policy(problem, FIRST), None, [])
        choice = choose_for(problem, self._say)
        # NOTE: not the caveats, which are of predictions: here the engine says what it takes.
        return Planned(choice.plan, choice.chosen.predicted_seconds, choice.notes)

    def _answer(self, problem: "Problem", rows: "Ints", planned: Planned) -> Stage:
        from blendrt.recorder import Recorder
        from blendrt.replay.job import Job
        from blendsim.search.trial import find_engine

        settings, recorder = self._loaded.settings, Recorder()
        job = Job(
            plan=planned.plan,
            workload=problem.workload,
            output_len=problem.lengths.expected,
            prompts=problem.prompts,
            system=settings.system,
            flavour=find_engine(problem, settings.engine),
        )
        self._say(f"answering {len(rows):,} requests")
        notes = self._loaded.answer(
            job,
            self._wanted.select(rows),
            lambda each: self._course.take(int(rows[each.row]), each),
            recorder,
        )
        planned = planned._replace(notes=[*planned.notes, *notes])
        return Stage(planned, recorder.log({"policy": planned.plan.policy}))
