"""What a run of all modules took that found nothing of them there: a result like the others."""

import os
import resource
from datetime import UTC, datetime
from pathlib import Path

from paper_repro.lab import Lab
from paper_repro.table import Table, read_facts, read_table, write_table

NAME = "whole_run"


def measured(seconds: float, modules: int, jobs: int) -> Table:
    """The one row of a run that ends now and took `seconds` by the wall clock."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    row = {
        "date": datetime.now(UTC).date().isoformat(),
        "wall_seconds": round(seconds, 1),
        "cpu_seconds": round(sum(one.ru_utime + one.ru_stime for one in used), 1),
        "cores": os.cpu_count() or 0,
        "jobs": jobs,
        "modules": modules,
        "largest_process_gb": round(max(one.ru_maxrss for one in used) / 2**20, 2),
    }
    return Table.of([row])


def write(table: Table, lab: Lab, out: Path) -> None:
    """Keep it beside the results."""
    write_table(table, _path(out), {"module": NAME, "table": "run", **lab.facts()})


def told(out: Path) -> str:
    """One sentence for a reader."""
    if not _path(out).exists():
        return "A whole run has not been timed yet."
    (row,), facts = read_table(_path(out)).records(), read_facts(_path(out))
    files = sum(origin.startswith("file") for origin in facts["sources"].values())
    return (
        f"The whole run, {files} of {len(facts['sources'])} sources from files: "
        f"{row['wall_seconds'] / 60:.0f} minutes on {row['cores']} cores "
        f"({row['cpu_seconds'] / 60:.0f} minutes of CPU time, compiling among it, at most "
        f"{row['largest_process_gb']:.1f} GB a process), {row['date']}."
    )


def _path(out: Path) -> Path:
    return out / f"{NAME}.csv"
