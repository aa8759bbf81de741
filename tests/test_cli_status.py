"""Exit statuses: whose fault a failure was."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli_app import failing
from typer.testing import CliRunner

from blendsim.cli.status import BUG, MACHINE, WRONG_INPUT, status_of
from blendsim.errors import InputError, Unavailable
from blendsim.traces.results_file import ResultsFile

FULL = Path("/dev/full")


def full(where: str | None = None) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), where)


def torchs(name: str) -> type[Exception]:
    """An error that is called as one of torch's, whether torch is installed or not."""
    return type(name, (RuntimeError,), {"__module__": "torch"})


def raised_from(cause: BaseException) -> InputError:
    error = InputError("steps.parquet: cannot be written")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (full("a.csv"), "a.csv: the machine failed (No space left on device); make room"),
        (full(), "the machine failed (No space left on device); make room and try again"),
        (OSError(errno.EIO, "Input/output error"), "the machine failed (Input/output error)"),
        (MemoryError(), "out of memory; free some"),
        (MemoryError("Unable to allocate\n9 GiB"), "out of memory (Unable to allocate 9 GiB)"),
        (torchs("OutOfMemoryError")("CUDA out of memory."), "out of memory (CUDA out of memory.)"),
        (raised_from(full()), "steps.parquet: cannot be written"),
        (raised_from(torchs("OutOfMemoryError")()), "steps.parquet: cannot be written"),
    ],
    ids=repr,
)
def test_what_the_machine_is_at_fault_for_is_a_line_and_4(error: Exception, line: str) -> None:
    result = CliRunner().invoke(failing(error), ["fail"])
    assert result.exit_code == MACHINE
    assert result.stderr.startswith(f"error: {line}")
    assert result.stderr.count("\n") == 1


def test_a_gpu_that_failed_is_4_with_its_traceback() -> None:
    error = torchs("AcceleratorError")("CUDA error: an illegal memory access was encountered")
    result = CliRunner().invoke(failing(error), ["fail"])
    assert result.exit_code == MACHINE
    assert "Traceback" in result.stderr
    assert "illegal memory access" in result.stderr


def test_torchs_own_errors_are_known() -> None:
    torch = pytest.importorskip("torch", reason="the runtime extra is not installed")
    assert status_of(torch.OutOfMemoryError()) == MACHINE
    if hasattr(torch, "AcceleratorError"):
        assert status_of(torch.AcceleratorError()) == MACHINE


@pytest.mark.parametrize(
    "error", [InputError("x"), Unavailable("x"), raised_from(FileNotFoundError(errno.ENOENT, "x"))]
)
def test_what_was_given_is_at_fault_otherwise(error: Exception) -> None:
    assert status_of(error) == WRONG_INPUT
    assert CliRunner().invoke(failing(error), ["fail"]).exit_code == WRONG_INPUT


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), PermissionError(errno.EACCES, "x"), AssertionError("x")]
)
def test_all_else_is_a_bug(error: Exception) -> None:
    assert status_of(error) == BUG
    result = CliRunner().invoke(failing(error), ["fail"])
    assert result.exit_code == BUG
    assert result.exception is error


@pytest.mark.skipif(not FULL.exists(), reason="this system has no full device")
def test_a_full_disk_is_the_machines() -> None:
    command = [sys.executable, "-m", "blendsim", "trace", "list"]
    with FULL.open("w") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == MACHINE
    assert done.stderr.startswith("error: the machine failed (No space left on device)")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not FULL.exists(), reason="this system has no full device")
def test_so_is_one_that_answers_go_to(tmp_path: Path) -> None:
    results = ResultsFile.open(tmp_path / "out.jsonl", {"a": ""})
    with FULL.open("ab", buffering=0) as device:
        os.dup2(device.fileno(), results._file.fileno())
    with pytest.raises(InputError, match="make room and go on with --resume") as raised:
        results.write("{}")
    results._file.close()
    assert status_of(raised.value) == MACHINE
