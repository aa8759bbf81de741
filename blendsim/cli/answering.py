"""From a batch file to its results: what is left to answer, in two stages, each planned with what
is known by then.
"""

from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blendsim.cli.answerer import Answerer, Loaded, find_answerer
from blendsim.cli.course import Course
from blendsim.cli.machine import Engine, Say
from blendsim.errors import InputError

if TYPE_CHECKING:
    from blendrt.generate.wanted import Wanted
    from blendsim.request import Ints, Workload
    from blendsim.search import Problem
    from blendsim.settings import Settings
    from blendsim.steplog import StepLog
    from blendsim.traces.asked import BatchFile

FIRST = "dfs"  # order of those answered first: nothing is known of their lengths


class Stage(NamedTuple):
    """What a stage of the run came to."""

    rows: "Ints"
    log: "StepLog"
    policy: str
    predicted_seconds: float | None
    notes: list[str]


def answer_batch(
    batch: Path,
    output: Path,
    settings: "Settings",
    gpu: bool,
    engine: Engine,
    resume: bool,
    log: Path | None,
    say: Say,
) -> dict[str, Any]:
    """Answer what `output` has no answer to; the keys of --json."""
    from blendsim.search import first_stage
    from blendsim.traces.asked import read_batch
    from blendsim.traces.results_file import ResultsFile

    share = _share(settings)
    found = find_answerer(settings, gpu, engine)
    say("reading requests")
    file = read_batch(batch, Path(settings.model))
    found.require_own_ids(file.workload)
    ids = file.workload.ids.tolist()
    with ExitStack() as stack:
        results = stack.enter_context(ResultsFile.open(output, ids, resume=resume))
        course = Course(file, results, say)
        stages: list[Stage] = []
        if course.left.any():
            has_stops = any(each.stop for each in file.asked)
            loaded = found.load(stack, _longest(file.workload, found.longest), has_stops, say)
            longest = min(found.longest, loaded.settings.system.longest_request)
            course.refuse(longest)
            workload, wanted = _wanted(file, longest, found)
            is_first = first_stage(workload, share, settings.seed) & ~course.refused
            stages = _run(course, workload, wanted, loaded, is_first, say)
    if log is not None and stages:
        _write_log(stages[-1], log, batch, found)
    return _result(course, output, found, stages)


def _run(
    course: Course,
    workload: "Workload",
    wanted: "Wanted",
    loaded: Loaded,
    is_first: Any,
    say: Say,
) -> list[Stage]:
    """Answer those of `is_first`, (n,), that have no answer, then all others."""
    from blendsim.search import prepare_rest

    stages = []
    for is_last in (False, True):
        rows = np.flatnonzero(course.left if is_last else course.left & is_first)
        if len(rows):
            seen = course.answered & is_first
            problem = prepare_rest(workload, loaded.settings, rows, seen, course.lengths, say)
            stages.append(_answer(course, problem, rows, wanted, loaded, is_last, say))
    return stages


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
    drawn = np.random.default_rng(found.settings.seed).integers(0, 2**62, len(asked))
    given = [each.seed for each in asked]
    wanted = Wanted(
        temperature=np.array([each.temperature for each in asked], np.float64),
        top_p=np.array([each.top_p for each in asked], np.float64),
        seed=np.array(
            [int(d) if g is None else g for g, d in zip(given, drawn, strict=True)], np.int64
        ),
        is_seeded=np.array([g is not None for g in given], np.bool_),
        most=most,
        stop=tuple(each.stop for each in asked),
        ends=found.ends,
    )
    return replace(workload, output_limit=most), wanted


def _answer(
    course: Course,
    problem: "Problem",
    rows: "Ints",
    wanted: "Wanted",
    loaded: Loaded,
    is_last: bool,
    say: Say,
) -> Stage:
    """Plan one stage and answer it. Those answered first go in prefix order, without a choice."""
    from blendrt.recorder import Recorder
    from blendrt.replay.job import Job
    from blendsim.search import choose_for, plan_policy
    from blendsim.serving.flavour import find_flavour

    settings = loaded.settings
    if is_last:
        choice = choose_for(problem, say)
        plan, policy = choice.plan, choice.chosen.policy
        predicted: float | None = choice.chosen.predicted_seconds
        notes = choice.notes
    else:
        plan, policy, predicted, notes = plan_policy(problem, FIRST), FIRST, None, []
    flavour = find_flavour(
        settings.engine,
        settings.token_budget,
        settings.eviction,
        output_reserved=settings.output_reserved,
    )
    job = Job(
        plan,
        problem.workload,
        problem.lengths.expected,
        problem.prompts,
        settings.system,
        flavour,
    )
    recorder = Recorder()
    say(f"answering {len(rows):,} requests")
    loaded.answer(
        job,
        wanted.select(rows),
        lambda each: course.take(int(rows[each.row]), each),
        recorder,
    )
    return Stage(rows, recorder.log({"policy": policy}), policy, predicted, notes)


def _write_log(stage: Stage, path: Path, batch: Path, found: Answerer) -> None:
    """The steps of the last stage, the one that was planned."""
    from blendsim.steplog import write_steplog

    meta = {"settings": asdict(found.settings), "batch": str(batch), "machine": found.machine}
    write_steplog(replace(stage.log, meta={**stage.log.meta, **meta}), path)


def _result(course: Course, output: Path, found: Answerer, stages: list[Stage]) -> dict[str, Any]:
    """The keys of --json: of this run's work, not of what was answered before."""
    from blendsim.report.metrics import run_seconds

    now = course.answered & ~course.before
    prompts = int(course.file.workload.prompt_len[now].sum())
    outputs = int(course.lengths[now].sum())
    took = [run_seconds(stage.log) for stage in stages]
    planned = next((s for s in stages if s.predicted_seconds is not None), None)
    seconds = sum(took)
    return {
        "requests": len(now),
        "answered": int(course.answered.sum()),
        "answered_before": int(course.before.sum()),
        "refused": int(course.refused.sum()),
        "results": output,
        "input_tokens": prompts,
        "output_tokens": outputs,
        "seconds": seconds,
        "tokens_per_second": (prompts + outputs) / seconds if seconds else None,
        "steps": sum(len(stage.log) for stage in stages),
        "hit_tokens": sum(int(stage.log.count("hit_tokens").sum()) for stage in stages),
        "preempted_tokens": sum(int(s.log.count("preempted_tokens").sum()) for s in stages),
        "policy": planned.policy if planned else None,
        "predicted_seconds": planned.predicted_seconds if planned else None,
        "planned_for": found.settings.gpu,
        "is_planned_for_it": found.is_planned_for_it,
        "first": sum(len(stage.rows) for stage in stages if stage is not planned),
        "first_seconds": sum(t for t, s in zip(took, stages, strict=True) if s is not planned),
        "rest_seconds": sum(t for t, s in zip(took, stages, strict=True) if s is planned),
        "model": found.settings.model,
        "runtime": found.engine.value,
        "machine": found.machine,
        "notes": [*course.file.workload.notes, *(planned.notes if planned else [])],
    }
