"""From a batch file to its results: what is left to answer, in two stages, each planned with what
is known by then.
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blendsim import __version__
from blendsim.arrays import Bools
from blendsim.cli.answerer import Answerer, Loaded
from blendsim.cli.course import Course
from blendsim.cli.machine import Say
from blendsim.cli.output import tell
from blendsim.cli.places import require_places
from blendsim.errors import InputError

if TYPE_CHECKING:
    from blendrt.generate.wanted import Wanted
    from blendsim.arrays import Ints
    from blendsim.plan import Plan
    from blendsim.request import Workload
    from blendsim.search import Problem
    from blendsim.settings import Settings
    from blendsim.steplog import StepLog
    from blendsim.traces.asked import BatchFile

FIRST = "dfs"  # order of those answered first: nothing is known of their lengths


class Files(NamedTuple):
    """What is read and written."""

    batch: Path
    output: Path
    log: Path | None
    config: Path | None
    resume: bool
    is_strict: bool = False  # nothing is answered unless all is

    def check(self) -> None:
        """InputError unless they can be, and are different files."""
        written = [path for path in (self.output, self.log) if path is not None]
        # Results may be a link: answers are added to its file.
        for path in (Path(os.path.realpath(self.output)), self.log):
            require_places([path], [self.config])
        real = [os.path.realpath(path) for path in (self.batch, *written)]
        if len(set(real)) < len(real):
            raise InputError("the batch, -o and --log are to be different files; rename one")


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


def answer_batch(files: Files, found: Answerer, say: Say) -> dict[str, Any]:
    """Answer what has no answer in the results file; the keys of --json."""
    from blendsim.search import first_stage
    from blendsim.traces.asked import read_batch
    from blendsim.traces.results_file import ResultsFile

    began = time.perf_counter()
    settings, share = found.settings, _share(found.settings)
    say("reading requests")
    file = read_batch(files.batch, Path(settings.model), found.vocab, say, files.is_strict)
    if found.signature is not None:
        file = file.signed(found.signature)
    found.require_own_ids(file.workload)
    if file.refused:
        tell(_refused_told(len(file.refused), len(file), file.refused[0].why))
    stages: list[Stage] = []
    with ExitStack() as stack:
        opened = ResultsFile.open(files.output, file.digests, resume=files.resume)
        course = Course(file, stack.enter_context(opened), say)
        stack.enter_context(_told_if_broken(course, files.output))
        if course.left.any():
            has_stops = any(asked.stop for asked in file.asked)
            most = min(found.context, settings.system.longest_request)
            loaded = found.load(stack, _longest(file.workload, most), has_stops, say)
            ran_by = loaded.settings
            memory = ran_by.system.room
            course.refuse_unread()  # not before the model is there: a run that fails leaves nothing
            course.refuse(found.context, memory, files.is_strict)
            if course.refused.any():
                told = _refused_told(len(course.reasons), len(file), course.reasons[0])
                tell(f"with those that are too long {told}")
            workload, wanted = _wanted(file, min(found.context, memory), found)
            is_first = first_stage(workload, share, settings.seed) & ~course.refused
            stages = Stages(course, wanted, workload, loaded, say).run(is_first)
        else:
            course.refuse_unread()
    if files.log is not None and stages:
        _write_log(stages[-1], files, found.machine, ran_by)
    wall = time.perf_counter() - began
    return _result(course, files, found, stages) | {"wall_seconds": wall}


@contextmanager
def _told_if_broken(course: Course, output: Path) -> Iterator[None]:
    """Say what is kept when a run breaks off."""
    try:
        yield
    except BaseException:
        done, n = course.answers, len(course.file)
        if done:
            tell(f"{output} has {done:,} of {n:,} answers; --resume goes on")
        raise


def _refused_told(refused: int, requests: int, why: str) -> str:
    """How many of the requests cannot be answered, and why the first cannot."""
    return (
        f"{refused:,} of {requests:,} requests cannot be answered and get an error line; the "
        f"first: {why}"
    )


def _share(settings: "Settings") -> float:
    """The share to answer first."""
    if isinstance(settings.sample, str) or settings.sample >= 1.0:
        raise InputError(
            f"--sample {settings.sample}: run answers a share of the requests first, above 0 and "
            "below 1; it knows no lengths before"
        )
    return settings.sample


def _longest(workload: "Workload", most: int) -> int:
    """Tokens that a request and its answer may come to, if `most` fit."""
    limit = np.where(workload.output_limit > 0, workload.output_limit, most)
    return int(np.minimum(workload.prompt_len + limit, most).max())


def _wanted(file: "BatchFile", longest: int, found: Answerer) -> tuple["Workload", "Wanted"]:
    """How answers are to be, of at most `longest` tokens with their prompts; and the workload with
    the most tokens of each as its limit.
    """
    from blendrt.generate.wanted import Wanted

    workload, asked = file.workload, file.asked
    room = np.maximum(1, longest - workload.prompt_len)
    limit = workload.output_limit
    most = np.where(limit > 0, np.minimum(limit, room), room)
    seeds = np.random.default_rng(found.settings.seed).integers(0, 2**62, len(asked))
    is_seeded = np.array([each.seed is not None for each in asked], np.bool_)
    seeds[is_seeded] = [each.seed for each in asked if each.seed is not None]
    wanted = Wanted(
        temperature=np.array([each.temperature for each in asked], np.float64),
        top_p=np.array([each.top_p for each in asked], np.float64),
        seed=seeds,
        is_seeded=is_seeded,
        most=most,
        stop=tuple(each.stop for each in asked),
        ends=found.ends,
    )
    return replace(workload, output_limit=most), wanted


def _write_log(stage: Stage, files: Files, machine: dict[str, Any], settings: "Settings") -> None:
    """The steps of the last stage, with the settings of what answered."""
    from blendsim.settings import model_kept
    from blendsim.steplog import write_steplog

    assert files.log is not None, "somebody asked for it"
    meta = {"settings": asdict(settings), "batch": str(files.batch), "machine": machine}
    meta |= model_kept(settings, settings.spec) | {"blendsim": __version__}
    write_steplog(replace(stage.log, meta={**stage.log.meta, **meta}), files.log)


def _result(course: Course, files: Files, found: Answerer, stages: list[Stage]) -> dict[str, Any]:
    """The keys of --json: of this run's work, not of what was answered before."""

    now = course.answered & ~course.answered_before
    told = [f"the model is {found.signature}: its answers mean nothing"] * bool(found.signature)
    workload = course.file.workload
    prompts, outputs = int(workload.prompt_len[now].sum()), int(course.lengths[now].sum())
    first = [stage for stage in stages if stage.planned.predicted_seconds is None]
    rest = [stage for stage in stages if stage.planned.predicted_seconds is not None]
    planned = rest[0].planned if rest else None
    notes = [*told, *([] if planned else workload.notes)]
    notes += [note for stage in stages for note in stage.planned.notes]
    seconds = sum(stage.log.end for stage in stages)
    total = {
        name: sum(int(stage.log.count(name).sum()) for stage in stages)
        for name in ("hit_tokens", "preempted_tokens")
    }
    return {
        "requests": len(course.file),
        "answered": course.answers,
        "answered_before": course.answers_before,
        "refused": len(course.reasons),
        "first_refused": course.reasons[0] if course.reasons else None,
        "results": files.output,
        "input_tokens": prompts,
        "output_tokens": outputs,
        "seconds": seconds,
        "tokens_per_second": (prompts + outputs) / seconds if seconds else None,
        "steps": sum(len(stage.log) for stage in stages),
        **total,
        "policy": planned.plan.policy if planned else None,
        "predicted_seconds": planned.predicted_seconds
        if planned and found.is_planned_for_it
        else None,
        "planned_for": found.settings.gpu,
        "is_planned_for_it": found.is_planned_for_it,
        "first": sum(len(stage.planned.plan) for stage in first),
        "first_seconds": sum(stage.log.end for stage in first),
        "rest_seconds": sum(stage.log.end for stage in rest),
        "model": found.signature or found.settings.model,
        "runtime": found.engine.value,
        "machine": found.machine,
        "notes": list(dict.fromkeys(notes)),
    }
