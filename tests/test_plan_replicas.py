"""A plan on another number of replicas than it was made for: refused, but for pools."""

from dataclasses import replace

import numpy as np
import pytest
from command_line import run, run_json
from test_cli_plan import folder
from test_search import mixed_pool

from blendsim.errors import InputError, PlanMismatch
from blendsim.plan import Plan, require_same_replicas
from blendsim.request import Workload
from blendsim.search import Settings, plan_policy, prepare, simulate_plan
from blendsim.search.served import serve

__all__ = ["folder"]

POOL = mixed_pool(np.random.default_rng(1), 60)
ON_TWO = Settings(dp=2, sample=1.0)


def planned(settings: Settings, pool: Workload = POOL) -> Plan:
    return plan_policy(prepare(pool, settings), "dfs")


@pytest.mark.parametrize("run_it", [simulate_plan, serve], ids=["simulate", "serve"])
@pytest.mark.parametrize(("made", "asked"), [(2, 1), (2, 3), (1, 2)])
def test_other_replicas_than_the_plans_are_refused(run_it: object, made: int, asked: int) -> None:
    plan = planned(replace(ON_TWO, dp=made))
    why = (
        f"the plan is for dp = {made}, the settings have dp = {asked}; give the settings "
        f"dp = {made}, or plan again for {asked}"
    )
    with pytest.raises(PlanMismatch, match=why):
        run_it(POOL, plan, replace(ON_TWO, dp=asked))  # type: ignore[operator]


def test_a_plan_that_says_no_settings_is_for_its_ranks_or_more() -> None:
    plan = replace(planned(ON_TWO), meta={})
    require_same_replicas(plan, 2)
    require_same_replicas(plan, 3)  # one has no requests
    with pytest.raises(PlanMismatch, match="the plan is for dp = 2, the settings have dp = 1"):
        require_same_replicas(plan, 1)


def test_pools_deal_out_the_plan_of_one_replica_and_refuse_another_number() -> None:
    pools = replace(ON_TWO, dp=1, topology="1P1D")
    assert simulate_plan(POOL, planned(replace(ON_TWO, dp=1)), pools).row.seconds
    with pytest.raises(PlanMismatch, match="dp = 1, the settings have dp = 2"):
        simulate_plan(POOL, planned(pools), ON_TWO)
    with pytest.raises(InputError, match="for 2 ranks, 1P1D prefills on 1"):
        simulate_plan(POOL, planned(ON_TWO), pools)


@pytest.mark.usefixtures("folder")
def test_command_asked_for_colocated_replicas_keeps_the_plans_number() -> None:
    run("plan", "--trace", "trace.csv", "--planner", "dfs", "--dp", "2", "-o", "plan.parquet")
    plain = run_json("simulate", "plan.parquet")
    assert run_json("simulate", "plan.parquet", "--topology", "colocated") == plain
