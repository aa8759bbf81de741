"""Every policy against one list of promises, and what sets the policies apart."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import workloads

from blendsim.errors import UnknownName
from blendsim.perf.density import RequestCosts, closed_form
from blendsim.plan import DUAL_SCAN, IN_ORDER, Plan, require_same_workload, write_plan
from blendsim.planner import make
from blendsim.planner.blend import BlendSettings
from blendsim.planner.lengths import Lengths, expect_lengths
from blendsim.planner.make import POLICIES, Groundwork, make_plan
from blendsim.planner.split import SplitRule
from blendsim.planner.tree import pool_tree
from blendsim.prefix import sort_prompts
from blendsim.request import Prompts, Workload, from_lengths, pool
from blendsim.specs import GPUS, MODELS
from blendsim.system import System

SYSTEM = System(MODELS["llama-3.1-8b"], GPUS["a100-80g"])


def learn(workload: Workload, share: float, least: int = 3) -> Lengths:
    tree = pool_tree(workload, sort_prompts(workload))
    return expect_lengths(workload, tree, share, np.random.default_rng(0), least)


def plan_for(policy: str, workload: Workload, share: float = 0.3, seed: int = 0) -> Plan:
    """A plan by the closed-form costs."""
    lengths = learn(workload, share)
    costs = closed_form(SYSTEM, workload.prompt_len, lengths.expected)
    prompts = sort_prompts(workload)
    ground = Groundwork(workload, prompts, lengths, costs, BlendSettings())
    return make_plan(policy, ground, seed, {"origin": ["test"]})


# ---- promises: each takes a policy and a pool


def is_a_permutation(policy: str, workload: Workload) -> None:
    plan = plan_for(policy, workload)
    plan.check()
    assert sorted(plan.order.tolist()) == list(range(len(workload)))


def runs_the_sample_first(policy: str, workload: Workload) -> None:
    plan, lengths = plan_for(policy, workload), learn(workload, 0.3)
    count = int(lengths.is_sampled.sum())
    assert plan.is_first.tolist() == [k < count for k in range(len(workload))]
    tree = pool_tree(workload, sort_prompts(workload), BlendSettings().block_tokens)
    expected = [row for row in tree.order.tolist() if lengths.is_sampled[row]]
    assert plan.order[:count].tolist() == expected


def runs_nothing_first_when_lengths_are_known(policy: str, workload: Workload) -> None:
    plan = plan_for(policy, workload, share=1.0)
    assert not plan.is_first.any()
    assert np.array_equal(plan.is_visible, workload.has_output[plan.order])


def carries_what_planning_believed(policy: str, workload: Workload) -> None:
    plan, lengths = plan_for(policy, workload), learn(workload, 0.3)
    assert plan.expected_output.tolist() == lengths.expected[plan.order].tolist()
    assert plan.is_visible.tolist() == lengths.is_visible[plan.order].tolist()
    assert np.isfinite(plan.density).all()
    assert np.isfinite(plan.root_density)


def belongs_to_its_workload(policy: str, workload: Workload) -> None:
    require_same_workload(plan_for(policy, workload), workload)


def repeats_itself(policy: str, workload: Workload) -> None:
    same_plans(plan_for(policy, workload), plan_for(policy, workload))


def is_blind_to_unsampled_lengths(policy: str, workload: Workload) -> None:
    hidden = workload.has_output & ~learn(workload, 0.3).is_visible
    other = replace(
        workload, output_len=np.where(hidden, workload.output_len * 7 + 5, workload.output_len)
    )
    same_plans(plan_for(policy, workload), plan_for(policy, other))


PROMISES: tuple[Callable[[str, Workload], None], ...] = (
    is_a_permutation,
    runs_the_sample_first,
    runs_nothing_first_when_lengths_are_known,
    carries_what_planning_believed,
    belongs_to_its_workload,
    repeats_itself,
    is_blind_to_unsampled_lengths,
)


def same_plans(one: Plan, other: Plan) -> None:
    for name in ("order", "rank", "is_first", "is_visible", "expected_output", "density"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name
    assert (one.root_density, one.workload_hash, one.meta) == (
        other.root_density,
        other.workload_hash,
        other.meta,
    )


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_keeps_its_promises(policy: str, promise: Callable[[str, Workload], None]) -> None:
    @given(workloads())
    @settings(deadline=None, max_examples=25)
    def holds(workload: Workload) -> None:
        promise(policy, workload)

    holds()


def test_a_policy_in_front_of_others_changes_no_random_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workload = from_lengths([4] * 40, [3] * 40)
    before = plan_for("random", workload, share=1.0, seed=5).order.tolist()
    assert before == np.random.default_rng((5, 1)).permutation(40).tolist()
    rows = {"another": make._POLICIES["fcfs"]._replace(stream=99), **make._POLICIES}
    monkeypatch.setattr(make, "_POLICIES", rows)
    monkeypatch.setattr(make, "POLICIES", tuple(rows))
    assert plan_for("random", workload, share=1.0, seed=5).order.tolist() == before


def test_no_two_policies_draw_the_same_numbers() -> None:
    streams = {name: row.stream for name, row in make._POLICIES.items()}
    assert len(set(streams.values())) == len(streams)
    ours = {"fcfs": 0, "random": 1, "dfs": 2, "blend": 3, "paced": 4}  # as plans were made by them
    assert streams.items() >= ours.items()


# ---- what each policy is for


def blended_pool() -> Workload:
    """30 chats, 10 known videos and 30 prompts with short answers behind two prefixes."""
    rng = np.random.default_rng(5)
    units = [[100 + i % 2] * 32 + [1000 + i] * 8 for i in range(30)]
    shared = from_lengths(
        [40 * 16] * 30,
        [2] * 30,
        source="quiz",
        prompts=Prompts(
            np.arange(0, 31 * 40, 40),
            np.array(units).ravel(),
            np.zeros(30, np.int32),
            np.full(1, 16, np.int32),
            ("hashes",),
        ),
    )
    chats = from_lengths(rng.integers(50, 900, 30), rng.integers(50, 300, 30), source="chat")
    videos = from_lengths([60] * 10, [9_000] * 10, source="video", is_known=True)
    return pool([chats, videos, shared])


def test_fcfs_keeps_the_rows_order() -> None:
    plan = plan_for("fcfs", blended_pool(), share=1.0)
    assert plan.order.tolist() == list(range(70))
    assert plan.admission == IN_ORDER


def test_dfs_takes_source_after_source_and_prefix_after_prefix() -> None:
    plan = plan_for("dfs", blended_pool(), share=1.0)
    quiz = [*range(40, 70, 2), *range(41, 70, 2)]
    assert plan.order.tolist() == [*range(40), *quiz]


def test_random_differs_by_seed_only() -> None:
    workload = blended_pool()
    one, other = (plan_for("random", workload, seed=seed) for seed in (1, 2))
    assert one.order.tolist() != other.order.tolist()
    assert one.is_first.tolist() == other.is_first.tolist()


def test_blend_goes_from_compute_heavy_to_memory_heavy() -> None:
    workload = blended_pool()
    plan = plan_for("blend", workload, share=1.0)
    assert plan.admission == DUAL_SCAN
    assert (np.diff(plan.density) <= 0).all()
    assert plan.density[0] > plan.root_density > plan.density[-1]
    assert set(plan.order[:30].tolist()) == set(range(40, 70))
    assert set(plan.order[-10:].tolist()) == set(range(30, 40))


def test_blend_reports_what_it_did_to_the_tree() -> None:
    report = plan_for("blend", blended_pool(), share=1.0).meta["arrange"]
    assert report == {
        "leaves_split": 0,
        "subtrees_split": 0,
        "share_of_leaves_split": 0.0,
        "threshold": 0,
        "rounds": 0,
        "sharing_before": 28 * 512,
        "sharing_after": 28 * 512,
        "nodes": 42,
    }


def test_a_pool_that_is_all_sample_has_nothing_left_to_blend() -> None:
    workload = from_lengths([5, 6, 7], [1, 2, 3])
    lengths = learn(workload, 0.5, least=32)
    costs = closed_form(SYSTEM, workload.prompt_len, lengths.expected)
    ground = Groundwork(workload, sort_prompts(workload), lengths, costs, BlendSettings())
    plan = make_plan("blend", ground, 0, {})
    assert plan.is_first.all()
    assert plan.order.tolist() == [0, 1, 2]
    assert plan.root_density > 0


def test_the_plan_file_of_a_seed_is_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one.parquet", "two.parquet")]
    for path in paths:
        write_plan(plan_for("blend", blended_pool()), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_an_unknown_policy_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown policy 'blnd'; nearest known: blend"):
        plan_for("blnd", from_lengths([5], [1]))


@given(workloads(), st.sampled_from((1.0, 0.9)))
@settings(deadline=None, max_examples=50)
def test_settings_reach_the_split(workload: Workload, kept: float) -> None:
    lengths = learn(workload, 1.0)
    costs = RequestCosts(
        workload.prompt_len.astype(np.float64), lengths.expected.astype(np.float64), 1.0
    )
    rule = BlendSettings(SplitRule(kept_sharing=kept, worth=0.0), block_tokens=1)
    plan = make_plan(
        "blend", Groundwork(workload, sort_prompts(workload), lengths, costs, rule), 0, {}
    )
    report = plan.meta["arrange"]
    assert report["sharing_after"] >= kept * report["sharing_before"]
    if kept == 1.0:
        assert report["rounds"] == 0


def test_plans_made_from_what_several_share_are_those_made_alone(tmp_path: Path) -> None:
    """In threads, in any order of asking."""
    workload = blended_pool()
    lengths = learn(workload, 0.3)
    costs = closed_form(SYSTEM, workload.prompt_len, lengths.expected)
    ground = Groundwork(workload, sort_prompts(workload), lengths, costs, BlendSettings())
    with ThreadPoolExecutor(3) as pool:
        asked = ["paced", "blend", "dfs", "paced", "random", "fcfs"]
        plans = list(pool.map(lambda p: make_plan(p, ground, 7, {"origin": ["test"]}), asked))
    for plan in plans:
        write_plan(plan, tmp_path / "shared.parquet")
        write_plan(plan_for(plan.policy, workload, seed=7), tmp_path / "alone.parquet")
        shared, alone = ((tmp_path / f"{n}.parquet").read_bytes() for n in ("shared", "alone"))
        assert shared == alone
