"""bench/gpu_plans.py and gpu_workloads.py: short pools like the paper's, and their plans."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_plans import blendsim
from gpu_replays import Planned, read_job
from gpu_workloads import SHORT, density_and_sharing, short_pool

from blendsim.plan import read_plan, require_same_workload
from blendsim.planner.make import POLICIES
from blendsim.steplog import COUNTS, read_steplog
from blendsim.synth.recipes import RECIPES
from blendsim.traces.load import load_pool
from blendsim.traces.seam import ReadOptions
from blendsim.traces.workload_file import write_workload

SCRIPT = Path(__file__).resolve().parents[1] / "bench" / "gpu_plans.py"


@pytest.mark.parametrize("name", SHORT)
def test_a_short_pool_is_near_its_recipe_on_the_gpu_it_is_for(name: str) -> None:
    pool, recipe = short_pool(name, "h200"), RECIPES[name]
    found = density_and_sharing(pool, "h200")
    assert found.density == pytest.approx(recipe.density, rel=0.1)
    assert found.sharing == pytest.approx(recipe.sharing, abs=0.06)
    videos = pool.output_len[pool.is_known]
    assert videos.max() == SHORT[name].longest
    assert len(pool) == SHORT[name].requests


def test_the_same_pool_comes_again() -> None:
    one, two = (short_pool("trace1", "h200", 500) for _ in range(2))
    assert np.array_equal(one.output_len, two.output_len)
    assert np.array_equal(one.prompts.units, two.prompts.units)


def made(place: Path, *further: str) -> str:
    """The script's plans in a folder, with further arguments: what it prints."""
    command = [sys.executable, str(SCRIPT), "-o", str(place), *further]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_plans_are_made_of_the_pool_beside_them_and_priced_in_two_nano_batches(
    tmp_path: Path,
) -> None:
    printed = made(tmp_path, "--short", "trace3", "--requests", "300")
    compared = [policy for policy in ("dfs", "blend", "paced") if policy in POLICIES]
    pool = load_pool([str(tmp_path / "trace3.parquet")], ReadOptions())
    for policy in compared:
        plan = read_plan(tmp_path / f"trace3-{policy}.parquet")
        require_same_workload(plan, pool)
        assert plan.policy == policy
        assert plan.meta["settings"]["nano_batches"] == 2
    rows = [line.split(" | ")[1:3] for line in printed.splitlines() if "| trace3 |" in line]
    runs = [[policy, "overlap"] for policy in compared]
    assert rows == [runs[0], ["dfs", "sequential"], *runs[1:]]


def test_a_check_serves_a_plan_as_the_simulator_does(tmp_path: Path) -> None:
    """Whatever rules of its engine the plan was found with: a searched one varies them."""
    pool = tmp_path / "pool.parquet"
    write_workload(short_pool("trace3", "h200", 300), pool)
    config = tmp_path / "settings.toml"
    rules = "output_reserved = 0.05\ntoken_budget = 256\neviction = 'plan'\nkv_bytes = 4000000000\n"
    config.write_text(f"[settings]\n{rules}")
    plan, log = tmp_path / "pool-blend.parquet", tmp_path / "steps.parquet"
    of = ("--trace", str(pool), "--gpu", "h200", "--config", str(config), "-o", str(plan))
    blendsim("plan", "--planner", "blend", *of)
    blendsim("simulate", str(plan), "-o", str(log))
    job, meta = read_job(Planned("pool", "search", plan, pool))
    core, served = job.core(0), 0
    simulated = read_steplog(log)
    while not core.is_done:
        core.step()
        held = simulated.count("held_blocks")[served]
        assert core.state.counts[COUNTS.index("held_blocks")] == held
        core.commit()
        served += 1
    assert served == len(simulated)
    assert meta["policy"] == "search"  # as it is called here, whoever planned it
    usual = core_steps(job._replace(flavour=replace(job.flavour, output_reserved=0.5)))
    assert usual != served  # else it would say nothing


def core_steps(job: Any) -> int:
    """How many a job takes."""
    core, served = job.core(0), 0
    while not core.is_done:
        core.step()
        core.commit()
        served += 1
    return served


def test_a_searched_plan_is_made_where_it_is_asked_for(tmp_path: Path) -> None:
    made(tmp_path, "--short", "trace3", "--requests", "40", "--policy", "dfs", "search")
    plan = read_plan(tmp_path / "trace3-search.parquet")
    assert plan.meta["search"]["evaluations"] == 300
    assert plan.meta["settings"]["sample"] == "auto"
    assert not (tmp_path / "trace3-paced.parquet").exists()
