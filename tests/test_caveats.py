"""What Python is told of a result as commands tell it: engines that cannot follow, other prices."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import run_json
from test_cli_plan import folder
from test_search import mixed_pool

from blendsim import search
from blendsim.baselines import BASELINES
from blendsim.report.rental import Goal
from blendsim.search import schedule_search
from blendsim.search.auto_search import choose_and_search
from blendsim.search.schedule_search import Effort
from blendsim.settings import Settings

__all__ = ["folder"]

POOL = mixed_pool(np.random.default_rng(1), 60)
BORROWED = "compute beside memory reads on h100 is priced as NanoFlow published it for an A100"
UNFOLLOWED = "plan by --engine vllm-planned for vLLM with our scheduler in it"
SCALED = "nothing was measured of h200-fast: its kernels are those of h200"
FAST = 'name = "h200-fast"\nlike = "h200"\nbandwidth = 6e12\n'

CASES = {
    "borrowed": (Settings(gpu="h100", planner="dfs", sample=1.0), BORROWED),
    "unfollowed": (Settings(engine="vllm", planner="blend", sample=1.0), UNFOLLOWED),
}


@pytest.mark.parametrize("case", CASES)
def test_python_is_told_what_commands_tell(case: str) -> None:
    settings, words = CASES[case]
    choice = search.choose(POOL, settings)
    again = search.simulate_plan(POOL, choice.plan, settings)
    found = schedule_search.search(POOL, replace(settings, planner="auto"), Effort(3))
    for caveats in (
        choice.caveats,
        again.caveats,
        *([found.caveats] if case == "borrowed" else []),
    ):
        assert sum(words in each for each in caveats) == 1


def test_python_is_told_so_of_comparisons_and_of_what_to_rent() -> None:
    settings = CASES["borrowed"][0]
    named = [each for each in BASELINES if each.name in ("vLLM-DFS", "NanoFlow-DFS")]
    candidates = search.find_candidates(settings, ["h100"], [1], [1, 2])
    told = search.compare(POOL, settings, named), search.rent(POOL, candidates, Goal())
    for result in told:
        assert sum(BORROWED in each for each in result.caveats) == 1


def test_a_gpu_by_a_file_is_told_to_be_scaled(tmp_path: Path) -> None:
    (tmp_path / "fast.toml").write_text(FAST)
    choice = search.choose(POOL, Settings(gpu=str(tmp_path / "fast.toml"), planner="dfs"))
    assert sum(SCALED in each for each in choice.caveats) == 1


def test_a_search_tells_its_choice_so_too() -> None:
    settings = replace(CASES["borrowed"][0], planner="auto")
    caveats = choose_and_search(POOL, settings, Effort(3)).choice.caveats
    assert sum(BORROWED in each for each in caveats) == 1


@pytest.mark.usefixtures("folder")
def test_commands_tell_each_once_and_in_their_order() -> None:
    given = ("--trace", "trace.csv", "--gpu", "h100", "--planner", "dfs", "-o", "plan.parquet")
    for told in (
        run_json("plan", *given)["notes"],
        run_json("plan", *given[:4], "--evaluations", "3")["notes"],
        run_json("simulate", "plan.parquet")["notes"],
    ):
        assert sum(BORROWED in note for note in told) == 1
    *_, borrowed, not_yours = run_json("plan", *given)["notes"]
    assert BORROWED in borrowed
    assert not_yours.startswith("these are times of nanoflow")
    vllm = ("--trace", "trace.csv", "--engine", "vllm", "--planner", "blend")
    first, *others = run_json("plan", *vllm)["notes"]
    assert UNFOLLOWED in first
    assert not any(UNFOLLOWED in note for note in others)
