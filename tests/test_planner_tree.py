"""The pool's tree under source nodes, and what each request costs when prefixes are shared."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import fair_costs, group_of, shared_tokens
from strategies import costs_of, workloads

from blendsim.perf.density import RequestCosts
from blendsim.planner import tree as tree_module
from blendsim.planner.tree import (
    DENSEST,
    density,
    node_costs,
    pool_tree,
)
from blendsim.prefix import sort_prompts, subset
from blendsim.request import Workload, from_lengths, pool, select


def test_a_source_without_text_is_one_top_level_subtree() -> None:
    workload = pool(
        [from_lengths([9, 5], [1, 1], source="a"), from_lengths([7, 3], [1, 1], source="b")]
    )
    tree = pool_tree(workload, sort_prompts(workload))
    assert tree.order.tolist() == [0, 1, 2, 3]
    assert tree.parent.tolist() == [-1, 0, 0]
    assert tree.depth.tolist() == [0, 0, 0]
    assert tree.first.tolist() == [0, 0, 2]
    assert tree.last.tolist() == [4, 2, 4]
    assert tree.leaf_parent.tolist() == [1, 1, 2, 2]


@given(workloads(), st.sampled_from((1, 4, 16)))
@settings(deadline=None)
def test_the_tree_is_laid_out_soundly(workload: Workload, block: int) -> None:
    tree = pool_tree(workload, sort_prompts(workload), block)
    n, m = len(workload), len(tree.parent)
    assert sorted(tree.order.tolist()) == list(range(n))
    assert (tree.first[0], tree.last[0]) == (0, n)
    for k in range(1, m):
        up = tree.parent[k]
        assert up < k
        assert tree.first[up] <= tree.first[k] < tree.last[k] <= tree.last[up]
        is_source = up == 0
        assert (tree.depth[k] == 0) == is_source
        assert is_source or tree.depth[k] > tree.depth[up]
    for i in range(n):
        hangs = tree.leaf_parent[i]
        assert hangs > 0
        assert tree.first[hangs] <= i < tree.last[hangs]
        inner = [k for k in range(m) if tree.parent[k] == hangs]
        assert not any(tree.first[k] <= i < tree.last[k] for k in inner)
        if i:
            shared = shared_tokens(workload, tree.order[i - 1], tree.order[i])
            assert tree.common[i] == shared // block * block
    sources = np.flatnonzero(tree.parent == 0)
    for k in sources:
        assert len(set(tree.group[tree.first[k] : tree.last[k]].tolist())) == 1
    assert len(sources) == len(set(tree.group.tolist()))


@given(workloads())
@settings(deadline=None)
def test_a_shared_subtree_belongs_to_the_source_with_most_of_it(workload: Workload) -> None:
    tree = pool_tree(workload, sort_prompts(workload))
    expected = group_of(workload)
    assert tree.group.tolist() == [expected[row] for row in tree.order]


@given(workloads(), st.data())
@settings(deadline=None)
def test_a_part_of_the_prompts_is_sorted_as_if_it_were_all(
    workload: Workload, data: st.DataObject
) -> None:
    n = len(workload)
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    part = subset(sort_prompts(workload), np.flatnonzero(keep))
    alone = sort_prompts(select(workload, keep))
    assert part.order.tolist() == np.flatnonzero(keep)[alone.order].tolist()
    assert part.common.tolist() == alone.common.tolist()


def test_nothing_kept_is_an_empty_tree() -> None:
    workload = from_lengths([4, 5], [1, 1])
    part = subset(sort_prompts(workload), np.zeros(0, np.int64))
    tree = pool_tree(workload, part)
    assert len(tree.order) == 0
    assert tree.parent.tolist() == [-1]


@given(workloads(), st.data(), st.sampled_from((1, 4, 16)))
@settings(deadline=None)
def test_a_shared_token_is_paid_for_once_in_equal_parts(
    workload: Workload, data: st.DataObject, block: int
) -> None:
    costs = data.draw(costs_of(workload))
    tree = pool_tree(workload, sort_prompts(workload), block)
    found = node_costs(tree, costs)
    fair = np.array(fair_costs(workload, costs, block))[tree.order]
    assert found.leaf_compute == pytest.approx(fair)
    for k in range(len(tree.parent)):
        below = slice(tree.first[k], tree.last[k])
        assert found.compute[k] == pytest.approx(fair[below].sum())
        assert found.memory[k] == pytest.approx(costs.memory[tree.order][below].sum())
        assert found.leaves[k] == tree.last[k] - tree.first[k]
    root = density(found.compute[:1], found.memory[:1])[0]
    saved = float(tree.common.sum()) * costs.seconds_per_token
    compute, memory = float(costs.compute.sum()) - saved, float(costs.memory.sum())
    assert root == pytest.approx(compute / memory if memory else float("inf"))


@given(workloads(), st.data())
@settings(deadline=None)
def test_the_plain_twin_spreads_costs_alike(workload: Workload, data: st.DataObject) -> None:
    costs = data.draw(costs_of(workload))
    tree = pool_tree(workload, sort_prompts(workload))
    rows = (costs.compute[tree.order], costs.memory[tree.order])
    twin = tree_module._spread_costs.py_func(
        tree.parent, tree.leaf_parent, tree.depth, *rows, costs.seconds_per_token
    )
    for plain, compiled in zip(twin, node_costs(tree, costs), strict=True):
        assert plain.tolist() == compiled.tolist()


def test_density_stays_finite_for_requests_that_read_nothing() -> None:
    values = density(np.array([2.0, 2.0, 0.0]), np.array([4.0, 0.0, 0.0]))
    assert values.tolist() == [0.5, DENSEST, 0.0]


def test_costs_of_one_answer_token_without_memory_still_plan() -> None:
    workload = from_lengths([4, 5], [1, 1])
    costs = RequestCosts(np.ones(2), np.zeros(2), 0.1)
    found = node_costs(pool_tree(workload, sort_prompts(workload)), costs)
    assert density(found.compute, found.memory).tolist() == [DENSEST, DENSEST]
