"""A command that ends right after it has read a file ends with its own exit status."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_cli_plan import folder, run

from blendsim.cli.app import WRONG_INPUT

__all__ = ["folder"]

OFTEN = 16  # an interpreter that was ended beside Arrow's threads aborted one time in three


def change_head(path: Path, name: str, value: object) -> None:
    """Give another value to a plan's metadata."""
    table = pq.read_table(path)
    head = json.loads(table.schema.metadata[b"blendsim"])
    head[name] = value
    pq.write_table(table.replace_schema_metadata({b"blendsim": json.dumps(head).encode()}), path)


def test_damaged_plan_is_refused_with_2_every_time(folder: Path) -> None:
    run("plan", "--trace", "trace.csv", "--planner", "paced", "-o", "plan.parquet")
    change_head(folder / "plan.parquet", "pacing", {"gains": {"zzz": 1}})
    command = [sys.executable, "-m", "blendsim", "simulate", "plan.parquet"]

    def once(_: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(once, range(OFTEN)))
    assert {each.returncode for each in done} == {WRONG_INPUT}
    assert all(each.stderr.startswith("error: plan.parquet") for each in done)
    assert {each.stderr.count("\n") for each in done} == {1}


def test_a_plan_of_more_ranks_than_its_settings_is_refused(folder: Path) -> None:
    run("plan", "--trace", "trace.csv", "--planner", "dfs", "--dp", "2", "-o", "plan.parquet")
    table = pq.read_table(folder / "plan.parquet")
    head = json.loads(table.schema.metadata[b"blendsim"])
    head["meta"]["settings"]["dp"] = 1
    change_head(folder / "plan.parquet", "meta", head["meta"])
    done = subprocess.run(
        [sys.executable, "-m", "blendsim", "simulate", "plan.parquet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == WRONG_INPUT
    assert "a request is on rank 1, the settings have dp = 1" in done.stderr


@pytest.mark.parametrize("arguments", [("simulate", "none.parquet"), ("plan", "--nothing")])
def test_a_closed_output_is_no_reason_to_fail_otherwise(
    folder: Path, arguments: tuple[str, ...]
) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m blendsim {' '.join(arguments)} >&-"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == WRONG_INPUT
    assert "Traceback" not in done.stderr
