"""Plans over data-parallel replicas."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_search import mixed_pool

from blendsim import search
from blendsim.cutting import cut, cut_both_ends, cut_line, deal_runs, equal
from blendsim.errors import InputError
from blendsim.perf.density import closed_form
from blendsim.plan import Plan, deal
from blendsim.planner.make import POLICIES
from blendsim.planner.partition import PIECES, partition, sharing_lost
from blendsim.prefix import shareable_tokens, sort_prompts, subset
from blendsim.request import Prompts, Workload, from_lengths, pool, select
from blendsim.search.problem import plan_whole


@pytest.mark.parametrize("policy", POLICIES)
@given(ranks=st.integers(1, 7), seed=st.integers(0, 3), n=st.integers(1, 40))
def test_every_request_runs_on_one_rank(policy: str, ranks: int, seed: int, n: int) -> None:
    setting = search.prepare(mixed_pool(np.random.default_rng(seed), n), search.Settings())
    whole = search.plan_policy(setting, policy)
    if ranks > len(whole):
        with pytest.raises(InputError, match=f"{ranks} ranks are more than the pool's"):
            partition(whole, setting.costs, ranks)
        return
    plan = partition(whole, setting.costs, ranks)
    plan.check()
    assert plan.rank.max() < ranks
    for rank in range(ranks):
        first = plan.is_first[plan.rank == rank]
        assert np.array_equal(first, np.sort(first)[::-1])  # the sampled ones lead


@pytest.mark.parametrize("policy", POLICIES)
def test_more_ranks_than_requests_are_refused(policy: str) -> None:
    pool = mixed_pool(np.random.default_rng(3), 1)
    with pytest.raises(InputError, match="give at most 2"):
        search.choose(pool, search.Settings(planner=policy, dp=5))


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


@pytest.mark.parametrize("policy", ["dfs", "paced"])
def test_ranks_that_wait_for_each_other_take_turns_along_the_line(policy: str) -> None:
    """Each has its part of every stretch, and of all work; others have one run from an end."""
    problem = search.prepare(
        mixed_pool(np.random.default_rng(0), 4_000), search.Settings(sample=1.0)
    )
    whole, costs = search.plan_policy(problem, policy), problem.costs
    plan = partition(whole, costs, 4, waits=True)
    for work in (costs.compute, costs.memory):
        held = np.bincount(plan.rank, work[plan.order], minlength=4)
        assert held == pytest.approx(work.sum() / 4, rel=0.1)
    rank = np.empty(len(plan), np.int64)
    rank[plan.order] = plan.rank
    line = rank[whole.order]
    seconds = (costs.compute + costs.memory)[whole.order]
    for part in np.array_split(np.arange(len(line)), PIECES // 2):
        held = np.bincount(line[part], seconds[part], minlength=4) / seconds[part].sum()
        assert held.max() < 0.6
    runs = np.count_nonzero(np.diff(line))
    assert 4 * PIECES / 2 < runs < 2 * 4 * PIECES + 1


def test_ranks_with_hardly_a_request_each_take_no_turns() -> None:
    problem = search.prepare(from_lengths(np.full(9, 100), np.full(9, 9)), search.Settings())
    plan = partition(search.plan_policy(problem, "dfs"), problem.costs, 4, waits=True)
    assert sorted(np.bincount(plan.rank, minlength=4).tolist()) == [2, 2, 2, 3]


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


def answers_by_prompt(n: int) -> Workload:
    """Prompts of middle length are answered at length, others hardly, and no prompt is shared."""
    prompt = np.random.default_rng(5).integers(50, 2_000, n)
    return from_lengths(prompt, np.where(np.abs(prompt - 1_000) < 400, 600, 30))


@pytest.mark.parametrize("policy", ["blend", "paced"])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_get_equal_work_though_answers_go_with_prompts_and_nobody_knows(
    policy: str, ranks: int
) -> None:
    """One mean is expected of all: the outer runs of the line had a fifth of the reads."""
    workload = answers_by_prompt(8_000)
    settings = search.Settings(sample=0.01, dp=ranks)
    plan = search.plan_policy(search.prepare(workload, settings), policy)
    costs = closed_form(settings.system, workload.prompt_len, workload.output_len)
    for work in (costs.compute, costs.memory):
        held = np.bincount(plan.rank, work[plan.order], minlength=ranks)
        assert held == pytest.approx(work.sum() / ranks, rel=0.1)


@pytest.mark.parametrize("sample", [0.01, 1.0])
def test_ranks_share_every_stretch_of_a_line_unless_its_lengths_are_known(sample: float) -> None:
    """Then it is cut once at either end."""
    problem = search.prepare(answers_by_prompt(8_000), search.Settings(sample=sample, dp=2))
    whole, plan = plan_whole(problem, "blend"), search.plan_policy(problem, "blend")
    rank = np.empty(len(plan), np.int64)
    rank[plan.order] = plan.rank
    line = rank[whole.order[~whole.is_first]]
    if sample == 1.0:
        assert np.count_nonzero(np.diff(line)) == 2
    else:
        assert [stretch.mean() for stretch in np.array_split(line, 16)] == pytest.approx(
            np.full(16, 0.5), abs=0.15
        )


def test_few_prefixes_are_broken_where_lengths_are_not_known() -> None:
    """One for each piece that is dealt out, and those of the sampled requests, which run first."""
    problem = search.prepare(families([16] * 800), search.Settings(sample=0.01, dp=2))
    plan = search.plan_policy(problem, "blend")
    assert plan.meta["sharing_lost"] <= 64 * (plan.is_first.sum() + 2 * PIECES)


@given(
    st.lists(st.tuples(st.floats(0.01, 10), st.booleans()), min_size=1, max_size=80),
    st.integers(1, 5),
    st.floats(0.5, 20),
)
def test_runs_are_dealt_whole_or_in_pieces_and_evenly(
    rows: list[tuple[float, bool]], shares: int, most: float
) -> None:
    work = np.array([seconds for seconds, _ in rows])
    run = np.cumsum([is_new for _, is_new in rows])
    share = deal_runs(work, run, shares, most)
    held = np.bincount(share, work, minlength=shares)
    assert len(held) == shares
    assert held.max() - held.min() <= most + 2.0 * work.max() + 1e-9
    for one in np.unique(run):
        if work[run == one].sum() < most:
            assert len(set(share[run == one].tolist())) == 1


def test_runs_are_dealt_from_the_last_on_each_to_who_has_least() -> None:
    run = np.arange(3)
    assert deal_runs(np.array([1.0, 2.0, 3.0]), run, 2, 9.0).tolist() == [1, 1, 0]
    # Of a run of four rows two are a piece, wherever its rows begin; rows of no work are no matter.
    assert deal_runs(np.ones(4), np.zeros(4, np.int64), 2, 2.0).tolist() == [1, 1, 0, 0]
    assert deal_runs(np.array([5.0, 1, 1, 1, 1]), run[[0, 1, 1, 1, 1]], 2, 2.0).tolist() == [
        *(0, 1, 1, 0, 0)
    ]
    assert deal_runs(np.zeros(3), run, 2, 0.0).tolist() == [0, 0, 0]
    assert deal_runs(np.zeros(0), run[:0], 2, 0.0).tolist() == []


# ---- unequal shares, and what cuts cost


def test_a_line_is_cut_by_the_seconds_of_both_kinds_of_work_those_that_run_first_apart() -> None:
    compute, memory = np.ones(6), np.array([0.0, 0, 9, 9, 0, 0])
    # First 1 + 1 + 10 seconds, then 10 + 1 + 1: the long one is more than half of either.
    assert cut_line(compute, memory, 3, False, equal(2)).tolist() == [0, 0, 1, 0, 1, 1]
    assert cut_line(compute, memory, 0, False, equal(2)).tolist() == [0, 0, 0, 1, 1, 1]


@given(
    st.lists(
        st.tuples(st.sampled_from((0.1, 0.5, 1.0, 5.0, 30.0)), st.floats(0.1, 20)), max_size=12
    ),
    st.integers(1, 6),
)
@example([(0.1, 3.0), (0.1, 1.0), (0.1, 1.0)], 5)
def test_every_share_is_one_run_from_either_end(rows: list[tuple[float, float]], n: int) -> None:
    """From the left the shares rise, and then fall: none has what an earlier one has taken."""
    density, memory = np.array(sorted(rows, reverse=True)).reshape(-1, 2).T
    share = cut_both_ends(density * memory, memory, equal(n))
    assert set(share.tolist()) <= set(range(n))
    steps = np.sign(np.diff(share))
    assert np.array_equal(steps[steps != 0], np.sort(steps[steps != 0])[::-1])


def test_runs_end_at_the_fractions_asked_for() -> None:
    work = np.ones(10)
    assert cut(work, np.array([0.7])).tolist() == [0] * 7 + [1] * 3
    assert cut(work, equal(5)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert cut(work, equal(1)).tolist() == [0] * 10


@given(
    st.lists(st.floats(0.1, 10), min_size=200, max_size=300),
    st.floats(0.1, 0.9),
    st.integers(0, 9),
)
def test_share_from_both_ends_has_its_part_of_both_kinds_of_work(
    ratios: list[float], end: float, seed: int
) -> None:
    density = np.sort(ratios)[::-1]
    memory = np.random.default_rng(seed).uniform(0.5, 1.5, len(density))
    compute = memory * density
    outer = cut_both_ends(compute, memory, np.array([end])) == 0
    # A dense row more on the left is made up for by that much compute of sparse rows on the right.
    row = max(float(memory.max()), float(compute.max() / density.min()))
    assert compute[outer].sum() == pytest.approx(end * compute.sum(), abs=1.5 * compute.max())
    assert memory[outer].sum() == pytest.approx(end * memory.sum(), abs=1.5 * row)
    assert np.count_nonzero(np.diff(outer)) <= 2  # the middle is one run


def families(sizes: list[int], tokens: int = 64) -> Workload:
    """Families of requests, each with a prompt of its own that all its members share."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    units = (1_000 * group[:, None] + np.arange(tokens)).ravel()
    n = len(group)
    prompts = Prompts(
        np.arange(n + 1) * tokens,
        units,
        np.zeros(n, np.int32),
        np.ones(1, np.int32),
        ("tokens",),
    )
    return from_lengths(np.full(n, tokens + 8), np.full(n, 4), prompts=prompts)


def planned(workload: Workload) -> Plan:
    return search.plan_policy(search.prepare(workload, search.Settings(sample=1.0)), "dfs")


def test_cut_through_a_family_loses_its_prompt_once() -> None:
    workload = families([4, 4])
    plan, prompts = planned(workload), sort_prompts(workload)
    for cut_at, lost in ((4, 0), (3, 64), (1, 64)):
        dealt = deal(plan, (np.arange(8) >= cut_at).astype(np.int64))
        assert sharing_lost(dealt, workload, prompts, 16) == lost
    spread = deal(plan, np.arange(8) % 4)
    assert sharing_lost(spread, workload, prompts, 16) == 2 * 3 * 64


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 99))
def test_sharing_lost_is_that_of_the_ranks_taken_apart(sizes: list[int], seed: int) -> None:
    workload = families(sizes)
    prompts, plan = sort_prompts(workload), planned(workload)
    dealt = deal(plan, np.random.default_rng(seed).integers(0, 3, len(plan)))
    alone = [select(workload, dealt.order[dealt.rank == rank]) for rank in range(3)]
    kept = sum(shareable_tokens(part, sort_prompts(part), 16) for part in alone if len(part))
    whole = shareable_tokens(workload, prompts, 16)
    assert sharing_lost(dealt, workload, prompts, 16) == whole - kept


def test_subset_of_sorted_prompts_is_the_sorted_subset() -> None:
    workload = families([3, 2, 4])
    rows = np.array([8, 1, 4, 0, 6])
    part = subset(sort_prompts(workload), rows)
    again = sort_prompts(select(workload, np.sort(rows)))
    assert part.order.tolist() == np.sort(rows)[again.order].tolist()
    assert part.common.tolist() == again.common.tolist()


def test_plan_over_ranks_says_what_sharing_its_cuts_lost() -> None:
    problem = search.prepare(families([40]), search.Settings(sample=1.0, dp=4))
    assert search.plan_policy(problem, "dfs").meta["sharing_lost"] == 3 * 64
