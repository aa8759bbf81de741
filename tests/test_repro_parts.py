"""Parts of long measurements: shared, kept, longest first, and what a whole run says of itself."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from paper_repro import parts, runner, whole_run
from paper_repro.lab import Lab
from paper_repro.parts import Part
from paper_repro.table import Table

LONG, SHORT, BOTH = Part("long", ("a",)), Part("short", ("b",)), Part("short", ("c",))


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """Claim modules `long`, `short`, which share a part, and `whole`, which has none."""
    counted = SimpleNamespace(parts=[])

    def part(lab: Lab, *of: str) -> Table:
        counted.parts.append(of)
        if of == ("bad",):
            raise ValueError("cannot be measured")
        return Table(("of",), (of,))

    def room(*own: Part) -> SimpleNamespace:
        return SimpleNamespace(
            part=part,
            parts=lambda lab: list(own),
            measure=lambda lab: {"t": parts.take_all(lab, list(own))},
        )

    made = {
        "long": room(LONG, BOTH),
        "short": room(SHORT, BOTH),
        "broken": room(Part("short", ("bad",))),
        "whole": SimpleNamespace(measure=lambda lab: {"t": Table(("n",), ((1,),))}),
    }
    for module in (parts, runner):
        monkeypatch.setattr(module, "load", made.__getitem__)
        monkeypatch.setattr(module, "code_of", str)
    monkeypatch.setattr("paper_repro.lab.STORE", tmp_path / "kept")
    return counted


def test_a_part_that_two_modules_take_is_measured_once(
    rooms: SimpleNamespace, tmp_path: Path
) -> None:
    for name in ("long", "short"):
        assert runner.measure(name, Lab(), tmp_path).error == ""
    assert rooms.parts == [("a",), ("c",), ("b",)]


def test_the_parts_of_a_long_module_come_before_those_of_a_short_one(
    rooms: SimpleNamespace,
) -> None:
    tasks = runner._longest_first(
        ["whole", "short", "long"], {"long": 9.0, "short": 2.0, "whole": 1.5}, Lab()
    )
    assert [task.title for task in tasks] == ["short c", "long a", "whole", "short b"]


def test_a_part_that_fails_is_told_of_by_the_module_that_takes_it(
    rooms: SimpleNamespace, tmp_path: Path
) -> None:
    outcome = runner.measure("broken", Lab(), tmp_path)
    assert outcome.is_bug
    assert "cannot be measured" in outcome.error
    assert not list(tmp_path.glob("broken*"))


def test_a_run_is_whole_only_if_nothing_was_there_before(
    rooms: SimpleNamespace, tmp_path: Path
) -> None:
    assert runner.is_anew(["long", "whole"], Lab(), tmp_path)
    parts.take(Lab(), LONG)
    assert not runner.is_anew(["long"], Lab(), tmp_path)
    assert runner.is_anew(["whole"], Lab(), tmp_path)


def test_what_is_forgotten_is_measured_again(rooms: SimpleNamespace, tmp_path: Path) -> None:
    for _ in range(2):
        runner.measure("long", Lab(), tmp_path)
    assert len(rooms.parts) == 2
    runner.forget(["long"], Lab(), tmp_path)
    runner.measure("long", Lab(), tmp_path)
    assert len(rooms.parts) == 4


def test_a_module_says_how_long_its_parts_took_but_not_those_of_another_claim(
    rooms: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.Lab, "kept", lambda *_: SimpleNamespace(seconds=10.0))
    assert runner._seconds_of_parts("long", Lab()) == 20.0
    monkeypatch.setattr(runner, "modules", lambda _: {"short": 1.0, "long": 1.0})
    assert runner._seconds_of_parts("long", Lab()) == 10.0


def test_a_whole_run_says_what_it_took(tmp_path: Path) -> None:
    assert "not been timed" in whole_run.told(tmp_path)
    whole_run.write(whole_run.measured(1_800.0, 3, 2), Lab(), tmp_path)
    told = whole_run.told(tmp_path)
    assert "30 minutes" in told
    assert "0 of " in told
