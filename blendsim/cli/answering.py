"""From a batch file to its results: what is left to answer, planned in two stages and answered on
the runtime that is asked for.

torch and what stands on it are loaded here and in machine.py, and nowhere else in the command line.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blendsim.cli.course import Course
from blendsim.cli.machine import Engine, Say, libraries, require_runnable
from blendsim.errors import InputError
from blendsim.specs import GPUS

if TYPE_CHECKING:
    from blendrt.generate.wanted import Answer, Wanted
    from blendrt.recorder import Recorder
    from blendrt.replay.job import Job
    from blendsim.request import Ints, Workload
    from blendsim.search import Problem
    from blendsim.settings import Settings
    from blendsim.steplog import StepLog
    from blendsim.traces.asked import BatchFile

FIRST = "dfs"  # order of those answered first: nothing is known of their lengths
Answered = Callable[["Answer"], None]


class Answerer(NamedTuple):
    """A model that is ready to answer."""

    answer: Callable[["Job", "Wanted", Answered, "Recorder"], None]
    settings: "Settings"  # those asked for, with the KV memory there is
    ends: frozenset[int]  # tokens that end an answer
    context: int  # tokens of prompt and answer at most
    facts: dict[str, Any]  # what it is and runs on


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
    from blendsim.search import first_stage, prepare_rest
    from blendsim.traces.asked import read_batch
    from blendsim.traces.results_file import ResultsFile
    from blendsim.traces.tokens import model_tokens

    share = _share(settings)
    require_runnable(settings, "run")
    if engine is Engine.VLLM and not gpu:
        raise InputError("--engine vllm runs on a GPU only; add --gpu")
    directory = Path(settings.model)
    with libraries("run"):
        from blendrt.generate.ends import answer_ends
    text, ends = model_tokens(settings.model).text, answer_ends(directory)
    say("reading requests")
    file = read_batch(batch, directory)
    with ResultsFile.open(output, file.workload.ids.tolist(), resume=resume) as results:
        ready = _ready(settings, gpu, engine, ends, text, say)
        course = Course(file, results, say)
        longest = min(ready.context, ready.settings.system.longest_request)
        course.refuse(longest)
        workload, wanted = _wanted(file, longest, ends, settings.seed)
        say("choosing whom to answer first")
        is_first = first_stage(workload, share, settings.seed) & ~course.refused
        stages: list[Stage] = []
        for among in (is_first, ~course.refused):
            rows = np.flatnonzero(course.left & among)
            if len(rows):
                seen = course.answered & is_first
                problem = prepare_rest(workload, ready.settings, rows, seen, course.lengths, say)
                is_last = among is not is_first
                stages.append(_answer(course, problem, rows, wanted, ready, is_last, say))
    if log is not None and stages:
        _write_log(stages[-1], log, batch, ready)
    return _result(course, output, ready, stages)


def _share(settings: "Settings") -> float:
    """The share to answer first."""
    if isinstance(settings.sample, str) or settings.sample >= 1.0:
        raise InputError(
            f"--sample {settings.sample}: run answers a share of the requests first, above 0 and "
            "below 1; it knows no lengths before"
        )
    return settings.sample


def _ready(
    settings: "Settings",
    gpu: bool,
    engine: Engine,
    ends: frozenset[int],
    text: Callable[[Any], str],
    say: Say,
) -> Answerer:
    """The model on its device."""
    from blendrt import loading
    from blendrt.generate.answering import answer
    from blendrt.machine import describe

    if settings.tp > 1 or settings.dp > 1:
        raise InputError(f"--tp {settings.tp} --dp {settings.dp}: run answers on one GPU")
    device = loading.find_device(gpu)
    choice = loading.choose_model(settings.model, settings.system.model, gpu)
    if choice.directory is None:
        raise InputError(
            f"{settings.model}: no *.safetensors there; --model takes a Hugging Face directory "
            "with the model's weights"
        )
    facts = describe(device)
    name = next((g for g in GPUS if g.split("-")[0] in facts["device"].lower()), settings.gpu)
    settings = replace(settings, gpu=name, engine=loading.SEQUENTIAL)
    say(f"loading {choice.config.name}")
    decoder = loading.load_decoder(choice, settings.seed, device)
    runtime = loading.Runtime(decoder, loading.SEQUENTIAL, settings.seed)
    room = loading.kv_bytes_that_fit(runtime, settings.system)
    settings = replace(settings, kv_bytes=min(room, settings.system.kv_capacity_bytes))

    def answer_job(job: "Job", wanted: "Wanted", told: Answered, recorder: "Recorder") -> None:
        answer(job, runtime, wanted, text, told, recorder)

    facts = {"device": facts["device"], "runtime": engine.value, "machine": facts}
    return Answerer(answer_job, settings, ends, choice.config.context, facts)


def _wanted(
    file: "BatchFile", longest: int, ends: frozenset[int], seed: int
) -> tuple["Workload", "Wanted"]:
    """How answers are to be, of at most `longest` tokens with their prompt; and the workload with
    that limit.
    """
    from blendrt.generate.wanted import Wanted

    workload, asked = file.workload, file.asked
    room = np.maximum(1, longest - workload.prompt_len)
    limit = workload.output_limit
    most = np.where(limit > 0, np.minimum(limit, room), room)
    drawn = np.random.default_rng(seed).integers(0, 2**62, len(asked))
    given = [each.seed for each in asked]
    wanted = Wanted(
        temperature=np.array([each.temperature for each in asked], np.float64),
        top_p=np.array([each.top_p for each in asked], np.float64),
        seed=np.array(
            [int(d) if g is None else g for g, d in zip(given, drawn, strict=True)], np.int64
        ),
        most=most,
        stop=tuple(each.stop for each in asked),
        ends=ends,
    )
    return replace(workload, output_limit=most), wanted


def _answer(
    course: Course,
    problem: "Problem",
    rows: "Ints",
    wanted: "Wanted",
    ready: Answerer,
    is_last: bool,
    say: Say,
) -> Stage:
    """Plan one stage and answer it. Those answered first go in prefix order, without a choice."""
    from blendrt.recorder import Recorder
    from blendrt.replay.job import Job
    from blendsim.search import choose_for, plan_policy
    from blendsim.serving.flavour import find_flavour

    settings = ready.settings
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
    ready.answer(
        job,
        wanted.select(rows),
        lambda each: course.take(int(rows[each.row]), each),
        recorder,
    )
    return Stage(rows, recorder.log({"policy": policy}), policy, predicted, notes)


def _write_log(stage: Stage, path: Path, batch: Path, ready: Answerer) -> None:
    """The steps of the last stage, the one that was planned."""
    from blendsim.steplog import write_steplog

    meta = {"settings": asdict(ready.settings), "batch": str(batch), **ready.facts}
    write_steplog(replace(stage.log, meta={**stage.log.meta, **meta}), path)


def _result(course: Course, output: Path, ready: Answerer, stages: list[Stage]) -> dict[str, Any]:
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
        "planned_for": ready.settings.gpu,
        "is_planned_for_it": ready.settings.gpu.split("-")[0] in ready.facts["device"].lower(),
        "first": sum(len(stage.rows) for stage in stages if stage is not planned),
        "first_seconds": sum(t for t, s in zip(took, stages, strict=True) if s is not planned),
        "rest_seconds": sum(t for t, s in zip(took, stages, strict=True) if s is planned),
        "model": ready.settings.model,
        **ready.facts,
        "notes": [*course.file.workload.notes, *(planned.notes if planned else [])],
    }
