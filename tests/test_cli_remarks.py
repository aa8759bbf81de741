"""What is noted beside figures: plans that an engine cannot follow, kernels, lengths given."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_cli_export import batch, invoke, planned
from test_cli_range import results

CANNOT_FOLLOW = "so it cannot follow this plan"


def notes(*args: object) -> list[str]:
    """The notes of `--json`; each stands in the text as well."""
    done = invoke(*args, "--json")
    assert done.exit_code == 0, done.stderr
    told: list[str] = json.loads(done.stdout)["notes"]
    text = "".join(invoke(*args).stdout.split())
    for note in told:
        assert "".join(note.split()) in text
    return told


def having(words: str, told: list[str]) -> list[str]:
    return [note for note in told if words in note]


@pytest.mark.parametrize("more", [(), ("--dp", "1,2"), ("--gpu", "a100-80g,h200")])
def test_engines_that_serve_in_one_line_are_told_that_they_cannot_follow(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    given = ("plan", "--trace", batch(tmp_path / "batch.jsonl"), *more)
    for engine, planner, is_told in (
        ("vllm", "blend", True),
        ("vllm", "dfs", False),
        ("sglang-lpm", "blend", True),
        ("vllm-planned", "blend", False),
        ("nanoflow", "blend", False),
    ):
        told = notes(*given, "--engine", engine, "--planner", planner)
        found = having(CANNOT_FOLLOW, told)
        assert bool(found) == is_told, (engine, planner)
        assert all("--planner dfs" in note for note in found)
        assert all(("--engine vllm-planned" in note) == (engine == "vllm") for note in found)


def test_a_search_tells_it_where_it_chose_such_a_plan(tmp_path: Path) -> None:
    given = ("search", "--trace", "demo:mixed?n=300", "--sample", 1, "--evaluations", 5)
    kept: Any = {}
    for engine in ("vllm", "nanoflow"):
        plan = tmp_path / f"{engine}.parquet"
        told = notes(*given, "--engine", engine, "-o", plan)
        shown = invoke("export", plan, "-o", tmp_path / "served.csv")
        assert shown.exit_code == 0, shown.stderr
        ends = "compute" in (tmp_path / "served.csv").read_text()
        kept[engine] = ends, bool(having(CANNOT_FOLLOW, told))
    assert kept["vllm"][0] == kept["vllm"][1]
    assert kept["nanoflow"] == (True, False)


def test_an_export_in_one_order_of_a_plan_of_two_ends_says_so(tmp_path: Path) -> None:
    source = batch(tmp_path / "batch.jsonl")
    plan, ordered = planned(tmp_path, source), tmp_path / "ordered.jsonl"
    words = "may be slower than in prefix order"
    assert having(words, notes("export", plan, "-o", ordered))
    assert not having(words, notes("export", plan, "-o", tmp_path / "served.csv"))
    args = ("--trace", source, "--planner", "dfs", "-o", plan)
    assert invoke("plan", *args).exit_code == 0
    assert not having(words, notes("export", plan, "-o", ordered))


def test_an_export_for_vllm_says_which_flags_its_plan_assumes(tmp_path: Path) -> None:
    source, plan, ordered = batch(tmp_path / "batch.jsonl"), tmp_path / "p", tmp_path / "o.jsonl"
    for engine, budget, is_told in (("vllm", 512, True), ("nanoflow", 512, False)):
        given = ("--engine", engine, "--token-budget", budget, "--planner", "dfs", "-o", plan)
        assert invoke("plan", "--trace", source, *given).exit_code == 0
        found = having("the plan assumes", notes("export", plan, "-o", ordered))
        assert bool(found) == is_told
        assert all(f"--max-num-batched-tokens {budget} " in note for note in found)
        assert all("--max-num-seqs 512 --enable-prefix-caching" in note for note in found)
