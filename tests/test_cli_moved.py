"""A plan from another folder than `plan` ran in: its paths are looked for beside it, too."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import run, run_json
from test_cli_errors import complaint
from test_cli_plan import folder
from test_model_config import SHAPE
from test_traces_openai import lines, request, tokenizer

__all__ = ["folder"]

GONE = (
    "no such file here or beside the plan, which notes it relative to where `plan` ran; run there"
)
READERS = pytest.mark.parametrize(
    "command",
    [
        ("simulate",),
        ("export", "-o", "served.csv"),
        ("export", "-o", "lines.jsonl"),
        ("replay", "--model", "tiny"),
    ],
    ids=lambda words: words[0],
)


@pytest.fixture
def elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a plan of files by relative paths, seen from the one above."""
    words = tokenizer(folder)
    shutil.move(words, folder / "tokenizer.json")
    lines(folder / "batch.jsonl", *(request(f"r{k}", prompt="a b", max_tokens=9) for k in range(9)))
    (folder / "m").mkdir()
    (folder / "m" / "config.json").write_text(json.dumps(SHAPE))
    given = ("--model", "m", "--gpu", "h100", "--planner", "dfs", "--tokenizer", "tokenizer.json")
    run("plan", "--trace", "batch.jsonl", *given, "-o", "plan.parquet")
    (folder / "above").mkdir()
    monkeypatch.chdir(folder / "above")
    return folder


def test_what_a_plan_notes_is_found_beside_it(elsewhere: Path) -> None:
    there = run_json("simulate", "../plan.parquet")
    assert there["requests"] == 9
    assert run_json("export", "../plan.parquet", "-o", "batch.jsonl")["requests"] == 9
    assert len((elsewhere / "above" / "batch.jsonl").read_text().splitlines()) == 9


def test_what_a_log_notes_is_found_beside_it(elsewhere: Path) -> None:
    """`simulate` ran beside the traces, `report` does not."""
    with pytest.MonkeyPatch.context() as there:
        there.chdir(elsewhere)
        run("simulate", "plan.parquet", "-o", "steps.parquet")
    told = run_json("report", "../steps.parquet", "--against", "../steps.parquet")
    assert told["losses"]["bound"] > 0
    assert not any("left out" in note for note in told["notes"])


def test_what_is_here_comes_first(elsewhere: Path) -> None:
    """A plan refuses it if it is another."""
    (elsewhere / "above" / "batch.jsonl").write_text((elsewhere / "trace.csv").read_text())
    line = complaint(elsewhere / "above", "simulate", "../plan.parquet")
    assert "the plan is for 9 requests, the workload has 150" in line


@READERS
def test_a_trace_that_is_gone_is_told_as_the_plans(
    elsewhere: Path, command: tuple[str, ...]
) -> None:
    (elsewhere / "batch.jsonl").unlink()
    name, *more = command
    line = complaint(elsewhere / "above", name, "../plan.parquet", *more)
    way = "or name the trace with --workload"
    assert line == f"error: ../plan.parquet: batch.jsonl: {GONE}, {way}"


@READERS
@pytest.mark.parametrize(
    ("gone", "way"), [("tokenizer.json", ""), ("m", ", or plan again with -o")], ids=str
)
def test_what_no_option_names_is_told_as_the_plans(
    elsewhere: Path, command: tuple[str, ...], gone: str, way: str
) -> None:
    """Not as what --tokenizer or --model takes, which these commands do not have."""
    (elsewhere / gone).rename(elsewhere / "moved")
    name, *more = command
    line = complaint(elsewhere / "above", name, "../plan.parquet", *more)
    assert line == f"error: ../plan.parquet: {gone}: {GONE}{way}"


def test_a_demo_source_is_no_file(folder: Path) -> None:
    run("plan", "--trace", "demo:mmlu?n=20", "--planner", "dfs", "-o", "plan.parquet")
    assert run_json("simulate", "plan.parquet")["requests"] == 20
