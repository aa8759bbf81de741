"""From a batch file to its results: what is left to answer, in two stages."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blendsim import __version__
from blendsim.errors import InputError
from blendsim.live.answerer import Answerer
from blendsim.live.course import Course
from blendsim.live.stages import Stage, Stages
from blendsim.wording import Say

if TYPE_CHECKING:
    from blendrt.generate.wanted import Wanted
    from blendsim.request import Workload
    from blendsim.settings import Settings
    from blendsim.traces.asked import BatchFile


class Files(NamedTuple):
    """What is read and written."""

    batch: Path
    output: Path
    log: Path | None
    resume: bool
    is_strict: bool = False  # nothing is answered unless all is


class Answered(NamedTuple):
    """What a run came to."""

    course: Course
    stages: list[Stage]
    wall_seconds: float


def answer_batch(files: Files, found: Answerer, say: Say, tell: Say) -> Answered:
    """Answer what has no answer in the results file. `say` hears what is being done, `tell` what a
    user is to know even if the run breaks off.
    """
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
        stack.enter_context(_told_if_broken(course, files.output, tell))
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
        _write_log(stages[-1], files, found, ran_by)
    return Answered(course, stages, time.perf_counter() - began)


@contextmanager
def _told_if_broken(course: Course, output: Path, tell: Say) -> Iterator[None]:
    """Say what is kept when a run breaks off."""
    try:
        yield
    except BaseException:
        done, n = course.answers, len(course.file)
        if done or course.reasons:  # error lines too are in the way of a run without --resume
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
    from blendsim.settings import shown_share

    if isinstance(settings.sample, str) or settings.sample >= 1.0:
        raise InputError(
            f"--sample {shown_share(settings.sample)}: run answers a share of the requests first, "
            "above 0 and below 1; it knows no lengths before"
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
    seeds = np.array([_seed(found.settings.seed, each.custom_id) for each in asked], np.int64)
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


def _seed(seed: int, custom_id: str) -> int:
    """Of a request that gives none: the same whatever else is in its batch."""
    digest = hashlib.blake2b(f"{seed} {custom_id}".encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big") >> 2


def _write_log(stage: Stage, files: Files, found: Answerer, settings: "Settings") -> None:
    """The steps of the last stage, with the settings of what answered. Its facts are called as a
    replay's are: `profile calibrate` reads both.
    """
    from blendsim.settings import model_kept
    from blendsim.steplog import write_steplog

    assert files.log is not None, "somebody asked for it"
    meta = {"settings": asdict(settings), "batch": str(files.batch), "machine": found.machine}
    meta |= {"runtime": found.engine.value, "model": found.choice.config.name}
    meta |= model_kept(settings, settings.spec) | {"blendsim": __version__}
    write_steplog(replace(stage.log, meta={**stage.log.meta, **meta}), files.log)
