"""bench/gpu_plans.py and gpu_workloads.py: short pools like the paper's, and their plans."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

from gpu_workloads import SHORT, density_and_sharing, short_pool

from blendsim.plan import read_plan, require_same_workload
from blendsim.planner.make import POLICIES
from blendsim.synth.recipes import RECIPES
from blendsim.traces.load import load_pool
from blendsim.traces.seam import ReadOptions

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


def test_plans_are_made_of_the_pool_beside_them_and_priced_in_two_nano_batches(
    tmp_path: Path,
) -> None:
    command = [sys.executable, str(SCRIPT), "-o", str(tmp_path)]
    done = subprocess.run(
        [*command, "--short", "trace3", "--requests", "300"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    compared = [policy for policy in ("dfs", "blend", "paced") if policy in POLICIES]
    pool = load_pool([str(tmp_path / "trace3.parquet")], ReadOptions())
    for policy in compared:
        plan = read_plan(tmp_path / f"trace3-{policy}.parquet")
        require_same_workload(plan, pool)
        assert plan.policy == policy
        assert plan.meta["settings"]["nano_batches"] == 2
    rows = [line.split(" | ")[1:3] for line in done.stdout.splitlines() if "| trace3 |" in line]
    runs = [[policy, "overlap"] for policy in compared]
    assert rows == [runs[0], ["dfs", "sequential"], *runs[1:]]
