"""Ranks that are to end together: shares of a plan found by simulating what planning may see."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from blendsim import search
from blendsim.arrays import Floats
from blendsim.plan import Plan
from blendsim.request import Workload, from_lengths, pool
from blendsim.search import balance, problem
from blendsim.search.balance import balanced
from blendsim.search.problem import plan_whole, with_settings
from blendsim.sim.timing import rank_ends, time_plan


def long_and_short(n: int) -> Workload:
    """Few long answers beside many short ones: who gets the longest makes the most steps."""
    answers = np.linspace(200, 8_000, n // 10).astype(np.int64)
    few = from_lengths(np.full(n // 10, 100), answers, source="long")
    many = from_lengths(np.full(n, 1_500), np.full(n, 20), source="short")
    return pool([few, many])


def prepared(workload: Workload, **asked: object) -> search.Problem:
    return search.prepare(workload, search.Settings(**{"sample": 1.0, "dp": 3, **asked}))  # type: ignore[arg-type]


def ends_of(scene: search.Problem, plan: Plan) -> Floats:
    flavour, dp = scene.settings.flavour(), scene.settings.dp
    world = scene.true_lengths
    return rank_ends(plan, world, scene.workload, scene.prompts, scene.model, flavour, dp)


def cut_equally(scene: search.Problem, policy: str, monkeypatch: pytest.MonkeyPatch) -> Plan:
    with monkeypatch.context() as patched:
        patched.setattr(balance, "ROUNDS", 0)
        return search.plan_policy(scene, policy)


@pytest.mark.parametrize("policy", ["dfs", "blend", "paced"])
def test_the_last_rank_ends_sooner_than_with_equal_work(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = prepared(long_and_short(1_000))
    plan, even = search.plan_policy(scene, policy), cut_equally(scene, policy, monkeypatch)
    plan.check()
    assert ends_of(scene, plan).max() < 0.95 * ends_of(scene, even).max()
    assert np.array_equal(search.plan_policy(scene, policy).rank, plan.rank)  # again the same


def test_ranks_are_balanced_by_what_planning_may_see() -> None:
    """Other true lengths of those that it does not see, and it is the same plan."""
    workload = long_and_short(2_000)
    scene = prepared(workload, sample=0.05)
    hidden = ~scene.lengths.is_visible
    other = np.where(hidden, workload.output_len[::-1], workload.output_len)
    plan = search.plan_policy(scene, "dfs")
    again = search.plan_policy(scene._replace(workload=replace(workload, output_len=other)), "dfs")
    assert not np.array_equal(other, workload.output_len)
    assert np.array_equal(again.order, plan.order)
    assert np.array_equal(again.rank, plan.rank)


def test_one_plan_for_every_token_budget() -> None:
    scene = prepared(long_and_short(300))
    small = with_settings(scene, token_budget=512)
    whole = plan_whole(scene, "dfs")
    plan, other = problem.over_replicas(scene, whole), problem.over_replicas(small, whole)
    assert np.array_equal(plan.rank, other.rank)


def test_ranks_that_steal_get_equal_work(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = prepared(long_and_short(300), steals=True)
    plan, even = search.plan_policy(scene, "dfs"), cut_equally(scene, "dfs", monkeypatch)
    assert np.array_equal(plan.rank, even.rank)


def test_the_last_of_the_ends_is_when_the_run_ends() -> None:
    scene = prepared(long_and_short(100))
    plan, flavour = search.plan_policy(scene, "dfs"), scene.settings.flavour()
    world, around = scene.true_lengths, (scene.prompts, scene.model, flavour)
    assert ends_of(scene, plan).max() == time_plan(plan, scene.workload, world, *around).seconds


class Stub:
    """Plans that are known by their shares alone: rank r ends at `pace[r]` times its share, in
    another world at that of one of the `others`.
    """

    def __init__(self, pace: list[float], *others: list[float]) -> None:
        self.pace, self.others, self.tried = np.array(pace), others, 0
        plan = search.plan_policy(prepared(from_lengths([9] * 4, [9] * 4), dp=1), "dfs")
        self.plan = plan

    def cut(self, shares: Floats | None) -> Plan:
        self.tried += 1
        share = np.ones(len(self.pace)) if shares is None else shares
        return replace(self.plan, meta={"shares": share.tolist()})

    def ends(self, plan: Plan) -> Floats:
        found: Floats = self.pace * np.array(plan.meta["shares"])
        return found

    def ends_elsewhere(self, plans: Sequence[Plan]) -> Floats:
        return np.array([np.array(self.others) * plan.meta["shares"] for plan in plans])

    def shares(self) -> list[float]:
        elsewhere = self.ends_elsewhere if self.others else None
        found = balanced(self.cut, self.ends, len(self.pace), elsewhere)
        return list(found.meta["shares"])


def test_shares_go_by_the_pace_of_ranks() -> None:
    assert Stub([3.0, 1.0]).shares() == pytest.approx([0.5, 1.5], rel=0.05)


def test_ranks_that_end_together_are_cut_once() -> None:
    stub = Stub([1.0, 1.005])
    assert stub.shares() == [1.0, 1.0]
    assert stub.tried == 1


def test_what_gains_nothing_leaves_equal_shares() -> None:
    """The longest request alone decides when its rank ends."""
    stub = Stub([1.0, 1.0, 3.0])
    stub.ends = lambda plan: np.array([1.0, 1.0, 3.0])  # type: ignore[method-assign]
    assert stub.shares() == [1.0, 1.0, 1.0]


def test_of_several_worlds_each_has_to_gain() -> None:
    assert Stub([3.0, 1.0], [2.8, 1.1], [2.0, 0.9]).shares() != [1.0, 1.0]
    assert Stub([3.0, 1.0], [2.8, 1.1], [1.0, 1.4]).shares() == [1.0, 1.0]
