"""What docs/json.md lists is what `--json` prints: every key that is printed, and no other."""

import re
from pathlib import Path
from typing import Any

import pytest
from batch_worlds import make_folder
from command_line import run_json
from test_cli_export import batch, planned

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "json.md").read_text()
folder = pytest.fixture(make_folder)


def listed(heading: str) -> list[str]:
    """Keys of the table below a heading."""
    told = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \| [^|]+ \| [^|]+ \|$", told, re.MULTILINE)
    return [key for row in rows for key in re.findall(r"`(\w+)`", row)]


ROW = listed("A row")


def require_listed(printed: dict[str, Any], *keys: str) -> None:
    assert sorted(printed) == sorted(keys)


def test_keys_of_plan_are_listed(tmp_path: Path) -> None:
    given = ("--trace", batch(tmp_path / "batch.jsonl"), "--engine", "vllm")
    told = run_json("plan", *given, "--evaluations", 2)
    require_listed(told, *ROW, *listed("`plan`"))
    for row in told["rows"]:
        require_listed(row, *ROW, "chosen")
    require_listed(told["server"], "engine", "args")
    alone = run_json("plan", *given, "--planner", "dfs")
    assert set(listed("`plan`")) - set(alone) == {"rows", "leaderboard", "search"}


def test_keys_of_compare_are_listed(tmp_path: Path) -> None:
    told = run_json("compare", "--trace", batch(tmp_path / "batch.jsonl"), "--engines", "vllm")
    require_listed(told, *ROW, *listed("`compare`"))
    for row in told["rows"]:
        require_listed(row, *ROW, "chosen")
    for row in told["common"]:
        require_listed(row, *ROW)


def test_keys_of_simulate_and_export_are_listed(tmp_path: Path) -> None:
    plan = planned(tmp_path, batch(tmp_path / "batch.jsonl"))
    require_listed(run_json("simulate", plan), *ROW, *listed("`simulate`"))
    told = run_json("export", plan, "-o", tmp_path / "ordered.jsonl")
    require_listed(told, *listed("`export`"))


def test_keys_of_run_are_listed(folder: Path) -> None:
    told = run_json("run", "batch.jsonl", "-o", "out.jsonl", "--model", "tiny")
    require_listed(told, *listed("`run`"))
