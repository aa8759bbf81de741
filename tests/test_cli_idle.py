"""What was asked for and does nothing in a run is noted: pacing, a link, a guess, stealing."""

from pathlib import Path

import pytest
from test_cli_export import batch, planned
from test_cli_remarks import having, notes

from blendsim.cli.idle import idle
from blendsim.planner.make import OVERLAPPED
from blendsim.serving.knobs import Knobs
from blendsim.settings import Settings

STEALS = "[settings]\nsteals = true\n"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return batch(tmp_path / "batch.jsonl")


@pytest.fixture
def stealing(tmp_path: Path) -> Path:
    """A config file that asks for work stealing."""
    path = tmp_path / "steals.toml"
    path.write_text(STEALS)
    return path


def test_a_paced_plan_whose_steps_are_not_paced_says_so(trace: Path, stealing: Path) -> None:
    given = ("plan", "--trace", trace, "--planner", "paced")
    for more, where in (
        (("--topology", "1P1D"), "on pools of prefill and decode replicas (1P1D)"),
        (("--dp", 2, "--config", stealing), "where ranks steal from each other (steals = true)"),
        (("--engine", "sglang"), "by sglang"),
    ):
        [told] = having("not paced", notes(*given, *more))
        assert told == (
            f"steps are not paced {where}: a plan of the policy paced is served by dual scan "
            "there, as one of blend is"
        )
    assert not having("not paced", notes(*given, "--dp", 2))
    unpaced = ("plan", "--trace", trace, "--planner", "blend", "--topology", "1P1D")
    assert not having("not paced", notes(*unpaced))


def test_a_simulation_and_a_search_say_it_too(tmp_path: Path, trace: Path, stealing: Path) -> None:
    plan = tmp_path / "paced.parquet"
    notes("plan", "--trace", trace, "--planner", "paced", "-o", plan)
    assert having("not paced by sglang", notes("simulate", plan, "--engine", "sglang"))
    assert having("not paced on pools", notes("simulate", plan, "--topology", "1P1D"))
    assert not having("not paced", notes("simulate", plan))
    given = ("search", "--trace", trace, "--evaluations", 5, "--dp", 2, "--config", stealing)
    assert having("not paced where ranks steal", notes(*given))


def test_systems_to_rent_say_it_once(trace: Path) -> None:
    given = ("plan", "--trace", trace, "--gpu", "a100-80g,h200", "--planner", "paced")
    assert len(having("not paced by sglang", notes(*given, "--engine", "sglang"))) == 1


def test_knobs_of_vllm_keep_steps_from_being_paced() -> None:
    asked = Settings(engine="vllm", knobs=Knobs(watermark=0.1))
    [told] = idle([asked], OVERLAPPED)
    assert told.startswith("steps are not paced by vllm with knobs of vLLM: ")
    assert idle([asked], ["dfs", "blend"]) == []


def test_options_for_what_is_not_there_are_told(
    tmp_path: Path, trace: Path, stealing: Path
) -> None:
    link, guess, steals = "--link pcie5 does", "--output-guess 500 does", "steals = true does"
    has_all = "demo:azure-code?n=100"
    given = ("--planner", "dfs", "--link", "pcie5", "--output-guess", 500, "--config", stealing)
    told = notes("plan", "--trace", has_all, *given)
    assert [len(having(words, told)) for words in (link, guess, steals)] == [1, 1, 1]
    told = notes("plan", "--trace", trace, *given, "--dp", 2)  # no length of it is given
    assert [len(having(words, told)) for words in (link, guess, steals)] == [1, 0, 0]
    used = ("plan", "--trace", trace, "--planner", "dfs", "--topology", "1P1D", "--link", "pcie5")
    assert not having(link, notes(*used))
    assert having(link, notes("simulate", planned(tmp_path, trace), "--link", "pcie5"))


def test_an_ordinary_run_is_told_nothing() -> None:
    assert idle([Settings()], OVERLAPPED) == []
    assert idle([Settings(steals=True), Settings(steals=True, dp=2)], ["dfs"]) == []
