"""Runs claim modules over processes and keeps their result tables.

A module whose tables are there for the same code, data and settings is not run again. Long ones are
in parts, which are measured longest first, so that no process is left with a long one at the end;
a module joins its parts when all are there. An error in one module does not stop the others.
"""

import os
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from blendsim.errors import BlendsimError
from paper_repro.claims import Verdict, modules, read_claims
from paper_repro.lab import Lab
from paper_repro.parts import Part, code_of, kept, load, parts_of, take
from paper_repro.table import read_facts, read_table, tables_of, write_table
from paper_repro.warm_up import ENGINES, compile_engine

#: Memory that a run has given back is kept for the next one: to have it cleared again page by page
#: takes a quarter of the time. Read by the C library of a process when it starts.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
}


class Outcome(NamedTuple):
    """What became of one module."""

    module: str
    seconds: float
    error: str = ""  # one line of a user's error, or a bug's traceback
    is_bug: bool = False


class Task(NamedTuple):
    """What one process does in one go: a part, or a module's measurement."""

    module: str
    part: Part | None = None

    @property
    def title(self) -> str:
        """For a reader of the run's progress."""
        return self.part.title if self.part else self.module


def run(
    names: Sequence[str], minutes: dict[str, float], lab: Lab, out: Path, jobs: int
) -> list[Outcome]:
    """Measure the modules that have no up-to-date tables in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    waiting = [name for name in names if not is_done(name, lab, out)]
    for name in names:
        if name not in waiting:
            _say(f"{name}: is there, for the same code and data")
    done: list[Outcome] = []
    try:
        with _processes(jobs) as processes:
            if len(waiting) > jobs:
                _say("compiling what is not compiled yet")
                list(processes.map(compile_engine, ENGINES))
            _share_out(processes, waiting, minutes, lab, out, done)
    except BrokenProcessPool:  # one was killed, which ends them all
        for name in waiting:
            if name not in {outcome.module for outcome in done}:
                done.append(_alone(name, lab, out))
                _say(_told(done[-1]))
    return done


def _share_out(
    processes: ProcessPoolExecutor,
    waiting: Sequence[str],
    minutes: dict[str, float],
    lab: Lab,
    out: Path,
    done: list[Outcome],
) -> None:
    """Have parts and modules measured by these processes, and add to `done` what is through."""
    start = time.perf_counter()
    left = {name: set(parts_of(name, lab)) for name in waiting}
    tasks = _longest_first(waiting, minutes, lab)
    number = len(tasks) + sum(bool(parts) for parts in left.values())
    running: dict[Future[Outcome], Task] = {}

    def submit(task: Task) -> None:
        running[processes.submit(_do, task, lab, out)] = task

    for task in tasks:
        submit(task)
    through = 0
    while running:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task, outcome = running.pop(future), future.result()
            through += 1
            passed = (time.perf_counter() - start) / 60
            _say(f"[{through}/{number}, {passed:.0f} min] {_told(outcome)}")
            if task.part is None:
                done.append(outcome)
                continue
            for name, parts in left.items():
                if task.part in parts:
                    parts.discard(task.part)
                    if not parts:
                        submit(Task(name))


def _longest_first(waiting: Sequence[str], minutes: dict[str, float], lab: Lab) -> list[Task]:
    """The parts of these modules, each once, and the modules that have none."""
    found: dict[Task, float] = {}
    for name in waiting:
        parts = parts_of(name, lab)
        tasks = [Task(part.module, part) for part in parts] or [Task(name)]
        for task in tasks:
            found[task] = max(found.get(task, 0.0), minutes.get(name, 1.0) / len(tasks))
    return sorted(found, key=lambda task: -found[task])


def _do(task: Task, lab: Lab, out: Path) -> Outcome:
    """In one of the processes. A part that fails is told of by the modules that take it."""
    if task.part is None:
        return measure(task.module, lab, out)
    start = time.perf_counter()
    error = ""
    try:
        take(lab, task.part)
    except Exception as caught:  # `measure` meets it again and reports it
        error = str(caught)
    return Outcome(task.title, time.perf_counter() - start, error)


def measure(name: str, lab: Lab, out: Path) -> Outcome:
    """Measure one module and write its tables."""
    start, inputs = time.perf_counter(), fingerprint(name, lab)
    earlier = _seconds_of_parts(name, lab)
    try:
        tables = load(name).measure(lab)
    except BlendsimError as error:
        return Outcome(name, time.perf_counter() - start, " ".join(str(error).split()))
    except Exception:  # a bug in one module must not stop the others; run() reports it
        return Outcome(name, time.perf_counter() - start, traceback.format_exc(), is_bug=True)
    seconds = time.perf_counter() - start + earlier
    facts = {
        "module": name,
        "tables": list(tables),
        "inputs": inputs,
        "measured_in_seconds": round(seconds, 1),
        **lab.facts(),
    }
    for path in list(tables_of(name, out)):
        path.unlink()
    for table_name, table in tables.items():
        write_table(table, out / f"{name}_{table_name}.csv", {**facts, "table": table_name})
    return Outcome(name, seconds)


def is_done(name: str, lab: Lab, out: Path) -> bool:
    """Whether all of a module's tables are there and were made by this code from these inputs."""
    found = [read_facts(path) for path in tables_of(name, out)]
    wanted = fingerprint(name, lab)
    return (
        bool(found)
        and all(facts["inputs"] == wanted for facts in found)
        and {facts["table"] for facts in found} == set(found[0]["tables"])
    )


def verdicts(name: str, out: Path) -> list[Verdict]:
    """A module's verdicts from its tables in `out`; none where it has not run."""
    tables = {read_facts(path)["table"]: read_table(path) for path in tables_of(name, out)}
    return load(name).verdicts(tables) if tables else []


def fingerprint(name: str, lab: Lab) -> str:
    """Of everything a module's tables depend on."""
    return lab.fingerprint(code_of(name))


def forget(names: Iterable[str], lab: Lab, out: Path) -> None:
    """Have these modules measured anew, all their parts, too."""
    for name in names:
        for path in [*tables_of(name, out), *(kept(p, lab).path for p in parts_of(name, lab))]:
            path.unlink(missing_ok=True)


def is_anew(names: Iterable[str], lab: Lab, out: Path) -> bool:
    """Whether nothing of these modules is there yet."""
    return not any(
        is_done(name, lab, out) or any(kept(p, lab).path.exists() for p in parts_of(name, lab))
        for name in names
    )


def _seconds_of_parts(name: str, lab: Lab) -> float:
    """What the parts that are there took to measure, but for those of another claim's module."""
    others = {*modules(read_claims().values())} - {name}
    found = [kept(p, lab).seconds for p in parts_of(name, lab) if p.module not in others]
    return sum(seconds or 0.0 for seconds in found)


def _alone(name: str, lab: Lab, out: Path) -> Outcome:
    """Measured in a process of its own, so that only it can be killed."""
    with _processes(1) as process:
        future: Future[Outcome] = process.submit(measure, name, lab, out)
        try:
            return future.result()
        except BrokenProcessPool:
            return Outcome(name, 0.0, "its process was killed, for memory perhaps", is_bug=True)


def _processes(jobs: int) -> ProcessPoolExecutor:
    os.environ.update({name: os.environ.get(name, value) for name, value in ALLOCATOR.items()})
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))


def _told(outcome: Outcome) -> str:
    if outcome.error:
        return f"{outcome.module}: failed: {outcome.error.strip()}"
    return f"{outcome.module}: measured in {outcome.seconds:.0f} s"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
