"""A command that ends right after it has read a file ends with its own exit status."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from command_line import run
from test_cli_plan import folder

from blendsim.cli.app import WRONG_INPUT

__all__ = ["folder"]

THREADS = Path("/proc/self/task")  # a name a thread


def change_head(path: Path, name: str, value: object) -> None:
    """Give another value to a plan's metadata."""
    table = pq.read_table(path)
    head = json.loads(table.schema.metadata[b"blendsim"])
    head[name] = value
    pq.write_table(table.replace_schema_metadata({b"blendsim": json.dumps(head).encode()}), path)


def simulated(path: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "blendsim", "simulate", path]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not THREADS.exists(), reason="this system does not list a process's threads")
def test_reading_a_plan_leaves_no_thread_that_could_abort_the_interpreter(folder: Path) -> None:
    run("plan", "--trace", "trace.csv", "--planner", "dfs", "-o", "plan.parquet")
    read = f"""
from pathlib import Path
from blendsim.plan import read_plan
threads = Path("{THREADS}")
before = set(threads.iterdir())
read_plan(Path("plan.parquet"))
print(len(before), len(set(threads.iterdir()) - before))
"""
    told = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=True)
    before, more = map(int, told.stdout.split())
    assert before > 0
    assert more == 0


def test_damaged_plan_is_refused_with_2(folder: Path) -> None:
    run("plan", "--trace", "trace.csv", "--planner", "paced", "-o", "plan.parquet")
    content = bytearray((folder / "plan.parquet").read_bytes())
    for place in range(8, 64):  # of the first column's first page
        content[place] ^= 0x5A
    (folder / "bytes.parquet").write_bytes(content)
    change_head(folder / "plan.parquet", "pacing", {"gains": {"zzz": 1}})
    for path in ("bytes.parquet", "plan.parquet"):
        done = simulated(path)
        assert done.returncode == WRONG_INPUT
        assert done.stderr.startswith(f"error: {path}: ")
        assert done.stderr.count("\n") == 1


def test_a_plan_of_more_ranks_than_its_settings_is_refused(folder: Path) -> None:
    run("plan", "--trace", "trace.csv", "--planner", "dfs", "--dp", "2", "-o", "plan.parquet")
    table = pq.read_table(folder / "plan.parquet")
    head = json.loads(table.schema.metadata[b"blendsim"])
    head["meta"]["settings"]["dp"] = 1
    change_head(folder / "plan.parquet", "meta", head["meta"])
    done = simulated("plan.parquet")
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
