"""bench/: clocks while a GPU works, the table of parts of a GPU, and when the check stops."""

import json
import re
import sys
from pathlib import Path

import gpu_check
import gpu_conditions
import gpu_partitions_table
import pytest
from gpu_options import Finding

BENCH = Path(__file__).resolve().parents[1] / "bench"
PARTS = BENCH / "results" / "h200" / "second" / "partitions.json"
CHIP = 132


@pytest.fixture(scope="module")
def parts() -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(PARTS.read_text())
    return found


@pytest.fixture(scope="module")
def rows(parts: list[dict[str, object]]) -> list[list[str]]:
    lines = gpu_partitions_table.table(parts, CHIP)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_lines_that_are_broken_are_left_out_of_medians() -> None:
    lines = ["1000, 500, 40", "[N/A], 1, 1", "9000, 9", "", "1200, 700, 60", "1100, 600, 50"]
    assert gpu_conditions._medians(lines) == {
        "clocks.sm": "1100 (1000 to 1200)",
        "power.draw": "600 (500 to 700)",
        "temperature.gpu": "50 (40 to 60)",
    }


def test_without_a_whole_line_there_are_no_medians() -> None:
    assert gpu_conditions._medians(["", "1, 2"]) == {}


def test_nothing_is_watched_without_the_drivers_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_conditions.shutil, "which", lambda _: None)
    found: dict[str, str] = {}
    with gpu_conditions.watched(found, is_gpu=True):
        pass
    assert found == {}


def test_what_the_drivers_tool_says_is_found_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool, ready = tmp_path / "nvidia-smi", tmp_path / "ready"
    tool.write_text(f"#!/bin/sh\necho '1500, 650, 55'\ntouch {ready}\nexec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setattr(gpu_conditions.shutil, "which", lambda _: str(tool))
    found: dict[str, str] = {}
    with gpu_conditions.watched(found, is_gpu=True):
        for _ in range(500):
            if ready.exists():
                break
            gpu_check.time.sleep(0.01)
    assert found["clocks.sm"] == "1500 (1500 to 1500)"


def test_gemms_on_the_whole_chip_are_the_measure(rows: list[list[str]]) -> None:
    by = rows[0].index("cuBLAS")
    whole = [row for row in rows if len(row) == len(rows[0]) and row[1:3] == [str(CHIP), "1.00"]]
    assert whole
    assert {row[by] for row in whole} == {"1.00"}


def test_decodes_on_the_whole_chip_are_the_measure(rows: list[list[str]]) -> None:
    start = next(i for i, row in enumerate(rows) if row[0] == "attention's SMs")
    whole = next(row for row in rows[start:] if row[0] == str(CHIP))
    assert set(whole[1:]) == {"1.00"}


def test_every_pair_has_a_row(parts: list[dict[str, object]], rows: list[list[str]]) -> None:
    start = next(i for i, row in enumerate(rows) if row[0] == "tokens")
    gains = [cell for row in rows[start + 2 :] for cell in row[4:] if cell]
    assert all(re.fullmatch(r"\d\.\d{3}", gain) for gain in gains)
    assert len(gains) == sum(f["what"] == "pair" for f in parts)


@pytest.mark.parametrize(
    ("wrong", "ran"),
    [
        ("build", ["build", "attention", "executors", "profile"]),
        ("attention", ["build", "attention"]),
        ("executors", ["build", "attention", "executors"]),
    ],
)
def test_no_more_is_run_where_something_vital_is_wrong(
    wrong: str, ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    def apart(name: str, *_: object) -> list[Finding]:
        called.append(name)
        return [Finding("result", "a value", name != wrong)]

    names = ("build", "attention", "executors", "profile")
    monkeypatch.setattr(gpu_check, "run_apart", apart)
    monkeypatch.setattr(gpu_check, "stages", lambda _: dict.fromkeys(names))
    monkeypatch.setattr(
        sys, "argv", ["gpu_check.py", "--device", "cpu", "-o", str(tmp_path / "out")]
    )
    with pytest.raises(SystemExit):
        gpu_check.main()
    assert called == ran
