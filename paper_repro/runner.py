"""Runs claim modules over processes and keeps their result tables.

A module whose tables are there for the same code, data and settings is not run again. An error in
one does not stop the others.
"""

import ast
import pkgutil
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from blendsim.errors import BlendsimError
from paper_repro.claims import Verdict
from paper_repro.lab import REPOSITORY, SHARED, Lab
from paper_repro.table import read_facts, read_table, tables_of, write_table


class Outcome(NamedTuple):
    """What became of one module."""

    module: str
    seconds: float
    error: str = ""  # one line of a user's error, or a bug's traceback
    is_bug: bool = False


def run(
    names: Sequence[str], minutes: dict[str, float], lab: Lab, out: Path, jobs: int
) -> list[Outcome]:
    """Measure the modules that have no up-to-date tables in `out`, longest first."""
    out.mkdir(parents=True, exist_ok=True)
    waiting = [name for name in names if not is_done(name, lab, out)]
    waiting.sort(key=lambda name: -minutes.get(name, 1.0))
    for name in names:
        if name not in waiting:
            _say(f"{name}: is there, for the same code and data")
    done: list[Outcome] = []
    broken: list[str] = []
    with _processes(jobs) as processes:
        futures = {processes.submit(measure, name, lab, out): name for name in waiting}
        for future in as_completed(futures):
            try:
                done.append(future.result())
            except BrokenProcessPool:  # one was killed, which ends them all
                broken.append(futures[future])
            else:
                _say(_told(done[-1], len(done), len(waiting)))
    for name in broken:
        done.append(_alone(name, lab, out))
        _say(_told(done[-1], len(done), len(waiting)))
    return done


def measure(name: str, lab: Lab, out: Path) -> Outcome:
    """Measure one module and write its tables."""
    start, inputs = time.perf_counter(), fingerprint(name, lab)
    try:
        tables = load(name).measure(lab)
    except BlendsimError as error:
        return Outcome(name, time.perf_counter() - start, " ".join(str(error).split()))
    except Exception:  # a bug in one module must not stop the others; run() reports it
        return Outcome(name, time.perf_counter() - start, traceback.format_exc(), is_bug=True)
    seconds = time.perf_counter() - start
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
    return lab.fingerprint(*SHARED, *_own_files(name))


def _own_files(name: str) -> list[Path]:
    """The module and what it imports of paper_repro, judged apart from what all share."""
    path = REPOSITORY / "paper_repro" / f"{name}.py"
    files = [path]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("paper_repro."):
            found = path.with_name(f"{str(node.module).partition('.')[2]}.py")
            if found not in SHARED and found.name != "claims.py":
                files.append(found)
    return files


def load(name: str) -> Any:
    """A claim module: it has `measure` and `verdicts`."""
    return pkgutil.resolve_name(f"paper_repro.{name}")


def _alone(name: str, lab: Lab, out: Path) -> Outcome:
    """Measured in a process of its own, so that only it can be killed."""
    with _processes(1) as process:
        future: Future[Outcome] = process.submit(measure, name, lab, out)
        try:
            return future.result()
        except BrokenProcessPool:
            return Outcome(name, 0.0, "its process was killed, for memory perhaps", is_bug=True)


def _processes(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))


def _told(outcome: Outcome, done: int, of: int) -> str:
    if outcome.error:
        return f"[{done}/{of}] {outcome.module}: failed: {outcome.error.strip()}"
    return f"[{done}/{of}] {outcome.module}: measured in {outcome.seconds:.0f} s"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
