"""Plans over data-parallel replicas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_search import mixed_pool

from blendsim import search
from blendsim.planner.make import POLICIES
from blendsim.planner.partition import partition
from blendsim.request import Prompts, from_lengths, pool


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


@pytest.mark.parametrize("policy", ["dfs", "blend"])
def test_ranks_get_equal_work_when_prompts_are_shared(policy: str) -> None:
    """Half the requests share a long prompt, which is computed once: they are hardly any work."""
    n = 600
    shared = from_lengths(
        np.full(n, 1_600),
        np.full(n, 20),
        prompts=Prompts(
            np.arange(n + 1, dtype=np.int64) * 1_500,
            np.tile(np.arange(1_500, dtype=np.int32), n),
            np.zeros(n, np.int32),
            np.ones(1, np.int32),
            ("tokens",),
        ),
    )
    alone = from_lengths(np.full(n, 1_600), np.full(n, 20), source="alone")
    settings = search.Settings(planner=policy, sample=1.0, dp=2)
    log = search.choose(pool([shared, alone]), settings).log
    ends = [float(log.time("seconds")[log.replica == rank].sum()) for rank in range(2)]
    assert max(ends) < 1.15 * min(ends)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("ranks", [2, 3, 7])
@pytest.mark.parametrize("n", [600, 1_000])
def test_a_pool_of_equal_requests_is_dealt_out_evenly(policy: str, ranks: int, n: int) -> None:
    uniform = from_lengths(np.full(n, 1_600), np.full(n, 20))
    problem = search.prepare(uniform, search.Settings(sample=1.0, dp=ranks))
    held = np.bincount(search.plan_policy(problem, policy).rank, minlength=ranks)
    assert held == pytest.approx(np.full(ranks, n / ranks), rel=0.02, abs=2)
