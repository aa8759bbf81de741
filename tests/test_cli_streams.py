"""Commands whose streams are closed, full or gone away, as those of a cron job may be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blendsim.cli.status import BROKEN_PIPE, MACHINE, WRONG_INPUT

TRACE = "num_prefill_tokens,num_decode_tokens\n" + "40,8\n50,6\n" * 4


def shell(folder: Path, command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A command line in which `blendsim` stands for the command."""
    (folder / "trace.csv").write_text(TRACE)
    return subprocess.run(
        ["sh", "-c", command.replace("blendsim", f"{sys.executable} -m blendsim")],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_without_streams_does_its_work(tmp_path: Path, closed: str) -> None:
    command = "blendsim plan --trace trace.csv --planner fcfs -o plan.parquet"
    done = shell(tmp_path, f"{command} {closed}")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    kept = (tmp_path / "plan.parquet").read_bytes()
    assert kept[:4] == kept[-4:] == b"PAR1"  # nothing that was printed is in it


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("blendsim plan --trace trace.csv --planner fcfs -o plan.parquet 2>/dev/full", 0),
        ("blendsim trace info none.csv 2>/dev/full", WRONG_INPUT),
        ("blendsim trace info --nothing 2>/dev/full", WRONG_INPUT),
    ],
)
def test_what_cannot_be_told_changes_no_status(tmp_path: Path, command: str, status: int) -> None:
    _require_full_device()
    assert shell(tmp_path, command).returncode == status


@pytest.mark.parametrize("asked", ["--help", "--version", "plan --help", "trace list"])
def test_help_that_cannot_be_printed_has_the_status_of_any_output(
    tmp_path: Path, asked: str
) -> None:
    _require_full_device()
    full = shell(tmp_path, f"blendsim {asked} >/dev/full")
    assert full.returncode == MACHINE
    assert full.stderr == (
        "error: the machine failed (No space left on device); make room and try again\n"
    )
    # A reader that has left before anything is written.
    gone = f"(sleep 1; blendsim {asked}; echo $? >status) | true"
    assert shell(tmp_path, gone).stderr == ""
    assert int((tmp_path / "status").read_text()) == BROKEN_PIPE


def _require_full_device() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no full device")
