"""Plans over data-parallel replicas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_search import mixed_pool

from blendsim import search
from blendsim.planner.make import POLICIES
from blendsim.planner.partition import partition


@pytest.mark.parametrize("policy", POLICIES)
@given(ranks=st.integers(1, 7), seed=st.integers(0, 3), n=st.integers(1, 40))
def test_every_request_runs_on_one_rank(policy: str, ranks: int, seed: int, n: int) -> None:
    setting = search.prepare(mixed_pool(np.random.default_rng(seed), n), search.Settings())
    plan = partition(search.plan_policy(setting, policy), setting.costs, ranks)
    plan.check()
    assert plan.rank.max() < ranks
    for rank in range(ranks):
        first = plan.is_first[plan.rank == rank]
        assert np.array_equal(first, np.sort(first)[::-1])  # the sampled ones lead


@pytest.mark.parametrize("policy", POLICIES)
def test_more_ranks_than_requests_leave_some_idle(policy: str) -> None:
    pool = mixed_pool(np.random.default_rng(3), 1)
    choice = search.choose(pool, search.Settings(planner=policy, dp=5))
    assert int(choice.log.count("finished").sum()) == 2
    assert choice.chosen.share_of_reachable <= 1


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_ranks_of_a_blended_plan_get_equal_compute_and_memory(ranks: int) -> None:
    setting = search.prepare(
        mixed_pool(np.random.default_rng(0), 2_000), search.Settings(sample=1.0)
    )
    plan = partition(search.plan_policy(setting, "blend"), setting.costs, ranks)
    for work in (setting.costs.compute, setting.costs.memory):
        held = np.bincount(plan.rank, work[plan.order], minlength=ranks)
        assert held == pytest.approx(work.sum() / ranks, rel=0.02)


def test_four_replicas_are_nearly_four_times_as_fast() -> None:
    pool = mixed_pool(np.random.default_rng(1), 4_000)
    one = search.choose(pool, search.Settings(planner="blend", sample=1.0)).chosen
    four = search.choose(pool, search.Settings(planner="blend", sample=1.0, dp=4)).chosen
    assert one.seconds is not None
    assert four.seconds is not None
    assert one.seconds / four.seconds > 3.3
    assert four.share_of_optimum <= 1
