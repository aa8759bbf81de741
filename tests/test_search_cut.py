"""A search that is cut short keeps what it has found, as a shorter one would have; from the command
line a signal does it.
"""

import json
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli_plan import folder
from test_race import Judge, raced, space
from test_schedule_search import same
from test_search import mixed_pool
from typer.testing import CliRunner

from blendsim.cli.app import INTERRUPTED, app
from blendsim.cli.stopping import Cut, terminated
from blendsim.plan import read_plan
from blendsim.planner.make import OVERLAPPED
from blendsim.search import schedule_search
from blendsim.search.cut import CutShort
from blendsim.search.race import Finish, Heat, race
from blendsim.search.schedule_search import Effort
from blendsim.search.schedule_search import search as find
from blendsim.search.standing import Standing
from blendsim.settings import Settings

__all__ = ["folder"]


class After:
    """Asks to stop from its so many-th question on, once there is something to keep."""

    def __init__(self, patience: int) -> None:
        self.left = patience
        self.is_kept = False

    def keep(self) -> None:
        self.is_kept = True

    def __call__(self) -> bool:
        self.left -= self.is_kept
        return self.left < 0


@pytest.mark.parametrize("share", [0.1, 1.0])
@pytest.mark.parametrize("patience", [0, 20])
def test_what_it_keeps_is_what_so_many_evaluations_find(
    tmp_path: Path, share: float, patience: int
) -> None:
    pool, settings = mixed_pool(np.random.default_rng(1), 300), Settings(sample=share)
    cut = find(pool, settings, Effort(evaluations=1_000), stop=After(patience))
    n = cut.tally.evaluations
    assert cut.tally.is_cut
    assert len(OVERLAPPED) <= n < 60
    whole = find(pool, settings, Effort(evaluations=n))
    assert not whole.tally.is_cut
    assert whole.leaderboard == cut.leaderboard
    assert same(whole.plan, cut.plan, tmp_path)


def test_a_batch_that_is_given_up_does_not_count() -> None:
    judge, batches = Judge(), []

    def evaluate(heats: list[Heat]) -> Any:
        batches.append(heats)
        if len(batches) == 4:
            raise CutShort
        return judge(heats)

    runs = race(space(), 1, 0, 1 << 40, evaluate)
    assert len(runs) == sum(map(len, batches[:3])) > 0
    assert runs == raced(len(runs))


@pytest.fixture
def handled() -> Iterator[None]:
    """Signals as `blendsim` handles them, in a terminal: who is run in the background by a shell
    that has no jobs would ignore interrupts.
    """
    before = signal.signal(signal.SIGTERM, terminated)
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)
    signal.signal(signal.SIGINT, interrupt)


def strike(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """Have these signals come when the first batch is told of."""
    tell, left = Standing.tell, list(numbers)

    def struck(self: Standing, runs: Sequence[Finish], **named: bool) -> None:
        while left:
            os.kill(os.getpid(), left.pop(0))
        tell(self, runs, **named)

    monkeypatch.setattr(Standing, "tell", struck)


COMMANDS = [("search",), ("plan", "--planner", "auto")]
TRACE = ("--trace", "trace.csv", "--budget", "1h", "-o", "plan.parquet")


@pytest.mark.usefixtures("handled", "folder")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_ends_a_search_with_its_plan(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], number: int
) -> None:
    strike(monkeypatch, number)
    before = signal.getsignal(number)
    done = CliRunner().invoke(app, [*command, *TRACE, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["search"]["is_cut"]
    n = told["search"]["evaluations"]
    assert any(f"cut short by a signal after {n} evaluations" in note for note in told["notes"])
    assert read_plan(Path("plan.parquet")).meta["search"]["evaluations"] == n
    assert signal.getsignal(number) == before


@pytest.mark.usefixtures("handled", "folder")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_interrupt_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    strike(monkeypatch, signal.SIGTERM, signal.SIGINT)
    done = CliRunner().invoke(app, [*command, *TRACE])
    assert done.exit_code == INTERRUPTED
    assert "interrupted; nothing was written" in done.stderr
    assert not Path("plan.parquet").exists()


@pytest.mark.usefixtures("handled", "folder")
@pytest.mark.parametrize("command", COMMANDS)
def test_an_interrupt_before_there_is_a_plan_ends_as_ever(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    def struck(*_: object) -> list[float]:
        os.kill(os.getpid(), signal.SIGINT)
        return []

    monkeypatch.setattr(schedule_search.Evaluator, "seconds", struck)
    done = CliRunner().invoke(app, [*command, *TRACE])
    assert done.exit_code == INTERRUPTED
    assert not Path("plan.parquet").exists()


@pytest.mark.usefixtures("handled", "folder")
def test_a_search_that_is_cut_short_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    strike(monkeypatch, signal.SIGINT)
    done = CliRunner().invoke(app, ["search", *TRACE, "--picture", "all.png"])
    assert done.exit_code == 0, done.output
    assert "keeps the best that it had found; no picture was drawn" in " ".join(done.stdout.split())
    assert Path("plan.parquet").exists()
    assert not Path("all.png").exists()


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Cut() as cut:
            cut.keep()
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            assert not cut()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
