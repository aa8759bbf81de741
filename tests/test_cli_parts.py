"""The parts of the command line: settings from TOML, JSON out, progress, tables."""

import inspect
import json
import sys
import time
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.main import get_command

from blendsim import compiled
from blendsim.cli import progress
from blendsim.cli.app import app
from blendsim.cli.config import read_config
from blendsim.cli.options import Gpus
from blendsim.cli.output import print_json, print_lines, width
from blendsim.cli.pooled import OPTIONS, takes_pool
from blendsim.errors import InputError
from blendsim.fields import overlay
from blendsim.report.tables import (
    Column,
    lay_out,
    number,
    paragraphs,
    seconds,
    seconds_cells,
    share,
)


@dataclass(frozen=True, slots=True)
class Inner:
    kept: float = 0.99


@dataclass(frozen=True, slots=True)
class Outer:
    seed: int = 0
    fast: bool = False
    model: str = "m"
    where: Path | None = None
    sizes: tuple[int, ...] = ()
    inner: Inner = field(default_factory=Inner)


def test_fields_of_a_section_replace_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        '[outer]\nseed = 3\nwhere = "x"\nsizes = [1, 2]\nfast = true\n[outer.inner]\nkept = 1\n'
    )
    section = read_config(path, {"outer": Outer(), "other": Inner()})["outer"]
    assert overlay(Outer(), section, str(path)) == Outer(
        3, True, "m", Path("x"), (1, 2), Inner(1.0)
    )


def test_no_config_changes_nothing() -> None:
    assert overlay(Outer(), read_config(None, {"outer": Outer()})["outer"], "") == Outer()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[outer]\nsede = 1", "no setting 'sede'; nearest known: seed"),
        ("[outer]\nseed = 'x'", "seed = 'x' is not of type int"),
        ("[outer]\nseed = true", "seed = True is not of type int"),
        ("[outer]\nseed = 1.5", "seed = 1.5 is not of type int"),
        ("[outer]\nwhere = 1", "where = 1 is not of type Path"),
        ("[outer.inner]\nkep = 1", "c.toml.inner: no setting 'kep'; nearest known: kept"),
        ("[utter]\nseed = 1", r"'utter' is not a section; known: \[outer\]"),
        ("seed = 1", "'seed' is not a section"),
        ("[outer", "not a readable TOML file"),
    ],
)
def test_config_that_cannot_be_used_says_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        overlay(Outer(), read_config(path, {"outer": Outer()})["outer"], str(path))
    assert str(path) in str(caught.value)


def test_missing_config_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; check --config"):
        read_config(tmp_path / "c.toml", {})


def test_json_is_one_object_with_null_for_what_is_not_finite(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = {
        "a": np.float64("nan"),
        "b": [float("inf"), np.int64(3)],
        "c": np.arange(2),
        "d": {"e": None, "f": True, "g": ("x",)},
        "p": Path("q"),
    }
    print_json(result)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {
        "a": None,
        "b": [None, 3],
        "c": [0, 1],
        "d": {"e": None, "f": True, "g": ["x"]},
        "p": "q",
    }


def test_lines_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines(["one", "two"])
    assert capsys.readouterr().out == "one\ntwo\n"


def test_a_pipe_gets_all_columns() -> None:
    assert width() == 120


class Terminal:
    """Standard output of somebody who is looking."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "91")
    assert width() == 91


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blendsim.compiled.is_warm", lambda: True)


@pytest.mark.usefixtures("warm")
def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Progress() as say:
        say("reading")
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("warm")
def test_long_work_says_its_stages_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.01)
    with progress.Progress() as say:
        say("reading")
        time.sleep(0.1)
        say("planning")
    assert capsys.readouterr() == ("", "reading …\nplanning …\n")


@pytest.mark.usefixtures("warm")
def test_a_terminal_gets_one_changing_line(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []

    class Status:
        def start(self) -> None: ...
        def stop(self) -> None:
            shown.append("end")

        def update(self, stage: progress.Stage) -> None:
            shown.append(str(stage.__rich__()))

    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("rich.console.Console.status", lambda self, text: Status())
    monkeypatch.setattr(progress, "PATIENCE", 0.01)
    with progress.Progress() as say:
        say("reading")
        time.sleep(0.1)
        say("planning")
    assert shown == ["reading", "planning", "end"]


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_alone_sees_how_far_a_stage_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_terminal: bool
) -> None:
    shown = []

    class Status:
        def start(self) -> None: ...
        def stop(self) -> None: ...
        def update(self, stage: progress.Stage) -> None:
            shown.append(str(stage.__rich__()))

    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    monkeypatch.setattr("rich.console.Console.status", lambda self, text: Status())
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    with progress.Progress() as say:
        say("reading")
        say._timer.join()
        for share in (0.25, 0.2501, 0.5):
            say.share("reading a.jsonl", share)
        now[0] = 110.0
        say.share("making tokens", 0.0)
        say("planning")
    lines = ["reading", "reading a.jsonl: 25 %", "reading a.jsonl: 50 %"]
    assert shown == ([*lines, "making tokens: 0 % (10 s)", "planning"] if is_terminal else [])
    if not is_terminal:
        assert capsys.readouterr().err == "reading …\nplanning …\n"


def test_a_terminal_is_told_how_long_a_stage_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stage = progress.Stage("reading [bold]")
    said = []
    for now[0] in (100.0, 104.9, 105.0, 1_700.0):
        said.append(str(stage.__rich__()))
    assert said == ["reading [bold]"] * 2 + ["reading [bold] (5 s)", "reading [bold] (1,600 s)"]


@pytest.mark.usefixtures("warm")
def test_a_terminal_keeps_its_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that SIGTERM ends puts nothing back."""
    screen = StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    with progress.Progress() as say:
        say("reading")
        say._timer.join()
        said = screen.getvalue()
    hidden, shown = (said.rfind(f"\x1b[?25{way}") for way in "lh")
    assert 0 <= hidden < shown


def test_first_whole_run_says_what_it_waits_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("blendsim.compiled._CACHE", str(tmp_path))
    for is_warm in (False, True):
        with progress.Progress(is_whole_run=True) as say:
            assert capsys.readouterr().err == "", "options may still be refused"
            say("reading")
            say("planning")
            said = capsys.readouterr().err
            assert said.count("compiling kernels once, about ") == said.count("\n") == (not is_warm)


def test_run_that_failed_does_not_count_as_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("blendsim.compiled._CACHE", str(tmp_path))
    with pytest.raises(InputError), progress.Progress(is_whole_run=True):
        raise InputError("no")
    assert not compiled.is_warm()


def columns() -> list[Column]:
    return [
        Column("policy", ["dfs", "blend"], is_text=True),
        Column("seconds", ["1,234.5", "–"]),
        Column("of optimum", ["80.0 %", "95.0 %"], dispensable=1),
        Column("use", ["1", "2"], dispensable=2),
    ]


def test_table_is_aligned() -> None:
    assert lay_out(columns(), 80) == [
        "policy  seconds  of optimum  use",
        "────────────────────────────────",
        "dfs     1,234.5      80.0 %    1",
        "blend         –      95.0 %    2",
    ]


def test_narrow_table_loses_its_most_dispensable_columns_first() -> None:
    assert lay_out(columns(), 31)[0] == "policy  seconds  of optimum"
    assert lay_out(columns(), 10)[0] == "policy  seconds"


def test_table_without_rows_is_its_head() -> None:
    assert lay_out([Column("a", [])], 80) == ["a", "─"]


def test_wrapped_text_keeps_a_figure_with_its_unit() -> None:
    assert paragraphs(["it takes 12 s or 80 % of it"], 12) == [
        "it takes",
        "  12 s or",
        "  80 % of it",
    ]


def test_figures_that_are_not_there_are_dashes() -> None:
    assert (number(None), number(float("nan")), share(None)) == ("–", "–", "–")
    assert (number(1234567.8), number(1.25, 1), share(0.8655)) == ("1,234,568", "1.2", "86.6 %")


def options_of(name: str) -> set[str]:
    """The parameters of a command."""
    return {str(param.name) for param in get_command(app).commands[name].params}  # type: ignore[attr-defined]


def test_commands_that_plan_a_pool_share_their_options() -> None:
    shared = {"trace", *OPTIONS}
    assert options_of("plan") >= shared
    assert options_of("search") & shared == shared - {"planner"}
    assert options_of("compare") & shared == shared - {"topology", "link", "engine", "planner"}


def test_option_of_another_kind_takes_the_place_of_the_shared_one() -> None:
    @takes_pool("config", gpu=Gpus)
    def command(ctx: typer.Context, own: int = 3) -> None: ...

    parameters = inspect.signature(command).parameters
    assert parameters["gpu"].annotation is Gpus
    assert "config" not in parameters
    assert list(parameters)[-1] == "own"
    assert parameters["own"].default == 3


def test_option_that_is_not_shared_cannot_be_left_out() -> None:
    with pytest.raises(AssertionError, match="only what is there"):
        takes_pool("trace")


def test_seconds_of_short_runs_have_digits_that_count() -> None:
    shown = [seconds(value) for value in (1_412.44, 10.0, 9.876, 0.9876, 0.012345, 0.0)]
    assert shown == ["1,412.4", "10.0", "9.88", "0.988", "0.0123", "0.0"]
    assert seconds(float("nan")) == "–"


def test_a_column_of_seconds_has_as_many_digits_as_its_least_needs() -> None:
    assert seconds_cells([123.456, None, 0.25]) == ["123.456", "–", "0.250"]
    assert seconds_cells([123.456, 20.0]) == ["123.5", "20.0"]
    assert seconds_cells([None]) == ["–"]


@pytest.mark.usefixtures("warm")
def test_a_timer_that_fires_at_the_very_end_says_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress.Progress() as say:
        say("reading")
    say._show()
    say("another stage")
    assert capsys.readouterr().err == ""
