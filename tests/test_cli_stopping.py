"""SIGTERM: at once where only computing is lost, with what is to be kept elsewhere."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import run
from test_cli_plan import folder
from typer.testing import CliRunner

from blendsim import compiled, search
from blendsim.cli.app import INTERRUPTED, WRONG_INPUT, app
from blendsim.cli.stopping import ends_at_once, terminated
from blendsim.errors import InputError
from blendsim.search import schedule_search

__all__ = ["folder"]

#: Holds the interpreter for good and never looks at signals, as compiling holds it for a while.
BUSY = """
import itertools, signal
from blendsim.cli.stopping import ends_at_once, terminated
signal.signal(signal.SIGTERM, terminated)
with ends_at_once():
    print("busy", flush=True)
    sum(itertools.repeat(0))
"""
HANG = 60  # seconds after which a process that ought to have ended has not


@pytest.fixture
def handled() -> Iterator[None]:
    """SIGTERM as `blendsim` handles it."""
    before = signal.signal(signal.SIGTERM, terminated)
    yield
    signal.signal(signal.SIGTERM, before)


def standing() -> object:
    return signal.getsignal(signal.SIGTERM)


def test_a_process_that_computes_is_ended_whatever_it_does() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"busy\n"
            child.terminate()
            assert child.wait(HANG) == -signal.SIGTERM
        finally:
            child.kill()


@pytest.mark.usefixtures("handled")
def test_the_handler_is_back_afterwards_and_after_an_error() -> None:
    with ends_at_once():
        assert standing() == signal.SIG_DFL
    assert standing() is terminated
    with pytest.raises(InputError), ends_at_once():
        raise InputError("oh")
    assert standing() is terminated


def test_a_handler_that_is_not_ours_stays() -> None:
    before = standing()
    with ends_at_once():
        assert standing() == before != terminated


@pytest.mark.usefixtures("handled")
def test_kernels_in_a_passing_directory_are_removed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "cache_directory", lambda: tmp_path / "none")
    with ends_at_once():
        assert standing() is terminated


@pytest.mark.usefixtures("handled")
@pytest.mark.parametrize(
    ("arguments", "room", "name"),
    [
        (("plan", "--trace", "trace.csv"), search, "choose_for"),
        (("plan", "--trace", "trace.csv", "--dp", "1,2"), search, "rent"),
        (("compare", "--trace", "trace.csv"), search, "compare"),
        (("search", "--trace", "trace.csv"), schedule_search, "search"),
        (("simulate", "plan.parquet"), search, "simulate_plan"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_commands_compute_so_and_write_otherwise(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    room: object,
    name: str,
) -> None:
    seen: list[object] = []

    def fail(*_: object) -> None:
        seen.append(standing())
        raise InputError("seen")

    run("plan", "--trace", "trace.csv", "--planner", "dfs", "-o", "plan.parquet")
    monkeypatch.setattr(room, name, fail)
    assert CliRunner().invoke(app, arguments).exit_code == WRONG_INPUT
    assert seen == [signal.SIG_DFL]
    assert standing() is terminated


@pytest.mark.usefixtures("handled", "folder")
def test_a_file_that_is_being_written_is_not_left_half(monkeypatch: pytest.MonkeyPatch) -> None:
    from blendsim import plan

    seen: list[object] = []
    monkeypatch.setattr(plan, "write_plan", lambda *_: seen.append(standing()))
    run("plan", "--trace", "trace.csv", "--planner", "dfs", "-o", "plan.parquet")
    assert seen == [terminated]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", ["plan", "compare", "search"])
def test_an_interrupt_while_computing_is_told(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("blendsim.cli.pool_files.load_files", interrupt)
    before = sorted(Path.cwd().iterdir())
    more = [] if command == "compare" else ["-o", "out.parquet"]
    done = CliRunner().invoke(app, [command, "--trace", "trace.csv", *more])
    assert done.exit_code == INTERRUPTED
    told = [line for line in done.stderr.splitlines() if not line.startswith("compiling")]
    assert told == ["interrupted; nothing was written"]
    assert done.stdout == ""
    assert sorted(Path.cwd().iterdir()) == before


@pytest.mark.usefixtures("folder", "handled")
@pytest.mark.parametrize("command", ["plan", "compare", "search"])
def test_sigterm_while_computing_is_told_where_it_is_handled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def terminate(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(compiled, "cache_directory", lambda: tmp_path / "none")
    monkeypatch.setattr("blendsim.cli.pool_files.load_files", terminate)
    more = [] if command == "compare" else ["-o", "out.parquet"]
    done = CliRunner().invoke(app, [command, "--trace", "trace.csv", *more])
    assert done.exit_code == 128 + signal.SIGTERM
    told = [line for line in done.stderr.splitlines() if not line.startswith("compiling")]
    assert told == ["terminated; nothing was written"]
    assert not Path("out.parquet").exists()
