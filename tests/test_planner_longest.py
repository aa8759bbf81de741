"""Prefix order with the longest answers first: what it keeps together, what it sorts, and what that
is worth to engines that take requests from one line.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import workloads
from test_search import mixed_pool

from blendsim import search
from blendsim.arrays import Bools, Ints
from blendsim.perf.measured import IMPORTED
from blendsim.planner.make import LONGEST_FIRST, PACED, POLICIES
from blendsim.planner.orders import dfs, longest
from blendsim.planner.partition import PIECES
from blendsim.planner.tree import PoolTree, pool_tree
from blendsim.prefix import sort_prompts
from blendsim.request import Workload, from_lengths, pool
from blendsim.search import Settings
from blendsim.search.problem import with_settings
from blendsim.search.trial import find_engine
from blendsim.search.world_run import seconds_in

BLOCK = 16


def tree_of(workload: Workload, block_tokens: int = 1) -> PoolTree:
    return pool_tree(workload, sort_prompts(workload), block_tokens)


def all_rows(workload: Workload) -> Bools:
    return np.ones(len(workload), np.bool_)


def families(tree: PoolTree) -> dict[int, list[list[int]]]:
    """Rows below each child of every node, source nodes apart; a leaf is a child by itself."""
    is_source = (tree.parent == 0) & (np.arange(len(tree.parent)) > 0)

    def above(node: int) -> int:
        return 0 if is_source[node] else node

    found: dict[int, list[list[int]]] = {}
    for k in range(1, len(tree.parent)):
        if not is_source[k]:
            rows = tree.order[tree.first[k] : tree.last[k]].tolist()
            found.setdefault(above(int(tree.parent[k])), []).append(rows)
    for i, node in enumerate(tree.leaf_parent.tolist()):
        found.setdefault(above(node), []).append([int(tree.order[i])])
    return found


@given(workloads(), st.integers(0, 2**32 - 1))
def test_prefixes_stay_together_and_the_longest_of_them_comes_first(
    workload: Workload, seed: int
) -> None:
    expected = np.random.default_rng(seed).integers(1, 9, len(workload))
    tree = tree_of(workload)
    order = longest(all_rows(workload), tree, expected)
    assert sorted(order.tolist()) == list(range(len(workload)))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    for children in families(tree).values():
        for rows in children:
            assert np.ptp(place[rows]) == len(rows) - 1  # no other stands between
        by_place = sorted(children, key=lambda rows: place[rows].min())
        largest = [int(expected[rows].max()) for rows in by_place]
        assert largest == sorted(largest, reverse=True)


@given(workloads())
def test_equal_lengths_are_in_prefix_order(workload: Workload) -> None:
    tree, rows = tree_of(workload), all_rows(workload)
    equal = np.full(len(workload), 5)
    assert longest(rows, tree, equal).tolist() == dfs(rows, tree).tolist()


@given(workloads(), st.integers(0, 2**32 - 1))
def test_who_is_not_to_be_ordered_moves_nobody(workload: Workload, seed: int) -> None:
    rng = np.random.default_rng(seed)
    expected, rows = rng.integers(1, 9, len(workload)), rng.random(len(workload)) < 0.5
    tree = tree_of(workload)
    others: Ints = np.where(rows, expected, rng.integers(1, 99, len(workload)))
    order = longest(rows, tree, expected)
    assert sorted(order.tolist()) == np.flatnonzero(rows).tolist()
    assert order.tolist() == longest(rows, tree, others).tolist()


def test_sources_without_prefixes_are_sorted_together() -> None:
    few = from_lengths([10] * 4, [5, 80, 20, 5], source="few")
    many = from_lengths([10] * 3, [90, 1, 30], source="many")
    pooled = pool([few, many])
    order = longest(all_rows(pooled), tree_of(pooled), pooled.output_len)
    assert order.tolist() == [4, 1, 6, 2, 0, 3, 5]


# ---- what it is worth


def chats(n: int = 1_500) -> Workload:
    """Answers of 20 to some thousand tokens, which are known."""
    rng = np.random.default_rng(3)
    return from_lengths(rng.integers(50, 800, n), rng.lognormal(5.5, 1.0, n).astype(int) + 20)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_engines_with_one_line_are_faster_by_it_where_lengths_are_known(engine: str) -> None:
    asked = Settings(engine=engine, gpu="h100", sample=1.0)
    problem = search.prepare(chats(), asked)
    own, plan = find_engine(problem, engine), search.plan_policy(problem, "dfs")
    in_prefix_order = seconds_in(problem, plan, own, problem.true_lengths)
    chosen = search.choose_for(problem).chosen
    assert chosen.policy in LONGEST_FIRST
    assert chosen.seconds < 0.95 * in_prefix_order


def test_it_is_tried_at_lower_running_limits_even_if_nothing_is_preempted() -> None:
    """Short answers are then computed beside long ones all along."""
    asked = Settings(engine="vllm", gpu="h200", profile=IMPORTED, sample=1.0, token_budget=4_096)
    problem = search.prepare(chats(), asked)
    chosen = search.choose_for(problem).chosen
    own = find_engine(problem, "vllm")
    plan = search.plan_policy(problem, "dfs-longest")
    assert chosen.policy in LONGEST_FIRST
    assert chosen.max_running < own.max_running
    assert chosen.recomputed_tokens == 0
    assert chosen.predicted_seconds < seconds_in(problem, plan, own, problem.drawn)


def test_each_of_several_ranks_has_its_part_of_the_longest() -> None:
    asked = Settings(engine="vllm", gpu="h100", sample=1.0, dp=4)
    pooled = mixed_pool(np.random.default_rng(0), 4_000)
    problem = search.prepare(pooled, asked)
    whole = search.plan_policy(with_settings(problem, dp=1), "dfs-longest")
    plan = search.plan_policy(problem, "dfs-longest")
    rank = np.empty(len(plan), np.int64)
    rank[plan.order] = plan.rank
    line = rank[whole.order]
    first = line[: len(line) // PIECES]
    assert set(first.tolist()) == {0, 1, 2, 3}
    seconds = [
        search.choose(pooled, replace(asked, planner=name)).chosen.reported_seconds
        for name in ("dfs", "dfs-longest")
    ]
    assert seconds[1] < seconds[0]


def test_it_is_tried_where_nothing_overlaps() -> None:
    tried = {name: Settings(engine=name).policies for name in ("nanoflow", "vllm", "vllm-planned")}
    assert "dfs-longest" not in tried["nanoflow"]
    assert "dfs-longest" in tried["vllm"]
    assert PACED not in tried["vllm"]
    assert tried["vllm-planned"] == POLICIES
