"""How sure a plan's predicted time is: its runs in worlds that the sample allows."""

import json
from dataclasses import replace

import numpy as np
from command_line import run
from test_cli_plan import folder
from test_search import mixed_pool
from typer.testing import CliRunner

from blendsim import search
from blendsim.cli.app import app
from blendsim.plan import Plan
from blendsim.request import Workload, from_lengths
from blendsim.settings import Settings

__all__ = ["folder"]


def planned(workload: Workload, settings: Settings) -> Plan:
    return search.choose(workload, replace(settings, planner="dfs")).plan


def test_runs_on_the_true_lengths_lie_among_the_worlds() -> None:
    """Pools of one distribution, other samples: the truth is one more world."""
    inside = []
    for seed in range(12):
        rng = np.random.default_rng((seed, 7))  # not the stream that samples
        outputs = rng.choice([10, 600], 2_500, p=[0.7, 0.3])
        workload = from_lengths(rng.integers(1_000, 3_000, 2_500), outputs)
        settings = Settings(sample=0.02, seed=seed)
        done = search.simulate_plan(workload, planned(workload, settings), settings, worlds=19)
        assert done.worlds == sorted(done.worlds)
        assert len(set(done.worlds)) > 1
        assert done.row.seconds is not None
        inside.append(done.worlds[0] <= done.row.seconds <= done.worlds[-1])
    assert sum(inside) >= 9  # 90 % of them, if worlds were the truth's like; 9 or more: p = .97


def test_a_larger_sample_leaves_worlds_nearer_together() -> None:
    workload = mixed_pool(np.random.default_rng(1), 400)
    spread = []
    for share in (0.05, 0.6):
        settings = Settings(sample=share)
        worlds = search.simulate_plan(
            workload, planned(workload, settings), settings, worlds=12
        ).worlds
        spread.append(np.std(np.log(worlds)))
    assert spread[1] < 0.7 * spread[0]


def test_one_world_where_all_is_known_or_nothing_was_asked() -> None:
    workload = mixed_pool(np.random.default_rng(1), 60)
    settings = Settings(sample=1.0)
    plan = planned(workload, settings)
    assert search.simulate_plan(workload, plan, settings, worlds=5).worlds == []
    assert search.simulate_plan(workload, plan, settings).worlds == []


def test_command_tells_them(folder: object) -> None:
    run("plan", "--trace", "trace.csv", "--planner", "dfs", "-o", "plan.parquet")
    told = json.loads(run("simulate", "plan.parquet", "--worlds", "5", "--json"))
    assert len(told["worlds"]) == 5
    again = json.loads(run("simulate", "plan.parquet", "--worlds", "5", "--json"))
    assert again["worlds"] == told["worlds"]
    said = " ".join(run("simulate", "plan.parquet", "--worlds", "5").split())
    low, high = told["worlds"][0], told["worlds"][-1]
    assert f"In 5 worlds that the sample allows it takes {low:,.1f} to {high:,.1f} s" in said
    assert "s; where lengths were sampled, answers may be longer than the longest of them." in said
    plain = json.loads(run("simulate", "plan.parquet", "--json"))
    assert plain["worlds"] == []
    assert plain["predicted_seconds"] == told["predicted_seconds"]


def test_command_says_where_there_is_one_world(folder: object) -> None:
    run("plan", "--trace", "trace.csv", "--planner", "dfs", "--sample", "1", "-o", "plan.parquet")
    said = run("simulate", "plan.parquet", "--worlds", "3")
    assert "so there is one world only" in " ".join(said.split())


def test_number_of_worlds_is_refused_below_0(folder: object) -> None:
    run("plan", "--trace", "trace.csv", "--planner", "dfs", "-o", "plan.parquet")
    result = CliRunner().invoke(app, ["simulate", "plan.parquet", "--worlds", "-1"])
    assert result.exit_code == 2
    assert "--worlds" in result.output
