"""How far a prediction may be off, and which of the given lengths it looked at, as `plan` tells."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_cli_export import batch, invoke

MIXED = "demo:mixed?n=400"


def told(*args: object) -> Any:
    done = invoke("plan", *args, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_a_plan_tells_its_seconds_in_other_worlds() -> None:
    found = told("--trace", MIXED, "--sample", 0.1)
    assert len(found["worlds"]) == 8
    assert found["worlds"] == sorted(found["worlds"])
    assert found["worlds"][0] < found["worlds"][-1]
    shown = invoke("plan", "--trace", MIXED, "--sample", 0.1).stdout
    low, high = (f"{found['worlds'][k]:,.1f}" for k in (0, -1))
    assert f"the plan takes {low} to {high} s" in " ".join(shown.split())


def test_the_range_is_that_of_the_token_budget_that_is_taken(tmp_path: Path) -> None:
    place = tmp_path / "plan.parquet"
    found = told("--trace", MIXED, "--sample", 0.1, "--gpu", "h200", "-o", place)
    again = invoke("simulate", place, "--worlds", 8, "--json")
    assert json.loads(again.stdout)["worlds"] == found["worlds"]


@pytest.mark.parametrize("asked", [("--sample", 1), ("--topology", "1P1D"), ("--evaluations", 3)])
def test_no_range_where_there_is_one_world_or_another_tells_it(asked: tuple[object, ...]) -> None:
    assert told("--trace", MIXED, *asked)["worlds"] == []
    assert "worlds that the sample allows the plan" not in (
        invoke("plan", "--trace", MIXED, *asked).stdout
    )


def results(path: Path, lengths: dict[str, int]) -> Path:
    """An earlier run's results, as far as planning reads them."""
    rows = [
        {"custom_id": name, "response": {"body": {"usage": {"completion_tokens": length}}}}
        for name, length in lengths.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_lengths_that_are_given_and_not_looked_at_are_told(tmp_path: Path) -> None:
    trace = batch(tmp_path / "batch.jsonl", 60)
    lengths = results(tmp_path / "results.jsonl", {f"r{k}": 3 + k for k in range(50)})
    given = ("--trace", trace, "--lengths", lengths)
    note = f"of the lengths in {lengths} planning looked at those of 32 requests"
    assert any(one.startswith(note) for one in told(*given)["notes"])
    for asked in ((*given, "--sample", 1), ("--trace", trace)):
        assert not any("planning looked at" in one for one in told(*asked)["notes"])
