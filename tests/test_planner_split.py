"""Layer-wise sort, splitting and merging: worked examples, slow twins, the paper's conditions."""

import math
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import SlowTree, shared_tokens
from strategies import costs_of, workloads

from blendsim.errors import BlendsimError, InputError
from blendsim.perf.density import RequestCosts
from blendsim.planner import arrange as arrange_module
from blendsim.planner import layers as layers_module
from blendsim.planner import outliers as outliers_module
from blendsim.planner import tree as tree_module
from blendsim.planner.arrange import arrange, neighbours_common
from blendsim.planner.blend import BlendSettings, blend
from blendsim.planner.split import Split, SplitRule, split
from blendsim.planner.tree import PoolTree, pool_tree
from blendsim.prefix import sort_prompts
from blendsim.request import Prompts, Workload, from_lengths

UNLIMITED = SplitRule(kept_sharing=0.0, worth=0.0)
RULES = (
    SplitRule(),
    UNLIMITED,
    SplitRule(kept_sharing=0.0, worth=0.0, threshold=4),
    SplitRule(kept_sharing=0.5, worth=0.0),
    SplitRule(kept_sharing=0.8, worth=0.01),
)


def six_leaves() -> tuple[Workload, RequestCosts]:
    """Four requests behind the same 10 tokens, the last of them very memory-heavy, and two alone.

    Of the shared 10 tokens each of the four pays 2.5 s, 7.5 s are saved:
    row         0       1       2       3        4      5
    compute   20.0    10.0    10.0    20.0     30.0   20.0
    memory     2.0     2.0     2.5   200.0     10.0   20.0
    density   10.0     5.0     4.0     0.1      3.0    1.0
    """
    heads = [[*range(10), 20 + i] for i in range(4)]
    units = [*heads, [30], [31]]
    prompts = Prompts(
        np.cumsum([0, *map(len, units)]).astype(np.int64),
        np.array([unit for row in units for unit in row], np.int32),
        np.zeros(6, np.int32),
        np.ones(1, np.int32),
        ("tokens",),
    )
    workload = from_lengths([11, 11, 11, 11, 1, 1], [1] * 6, prompts=prompts)
    compute = np.array([27.5, 17.5, 17.5, 27.5, 30.0, 20.0])
    memory = np.array([2.0, 2.0, 2.5, 200.0, 10.0, 20.0])
    return workload, RequestCosts(compute, memory, 1.0)


def split_pool(workload: Workload, costs: RequestCosts, rule: SplitRule) -> tuple[PoolTree, Split]:
    tree = pool_tree(workload, sort_prompts(workload))
    return tree, split(
        tree,
        costs.compute[tree.order],
        costs.memory[tree.order],
        costs.seconds_per_token,
        rule,
    )


def densities(done: Split) -> list[float]:
    return done.layers.leaf_density[done.layers.sequence].tolist()


def test_without_splitting_the_outlier_drags_its_subtree_to_the_end() -> None:
    workload, costs = six_leaves()
    tree, done = split_pool(workload, costs, SplitRule(kept_sharing=1.0))
    assert tree.order[done.layers.sequence].tolist() == [4, 5, 0, 1, 2, 3]
    assert densities(done) == pytest.approx([3.0, 1.0, 10.0, 5.0, 4.0, 0.1])
    # Σcompute 60 over Σmemory 206.5 is the subtree's density, left of nothing but itself
    assert done.layers.node_density[2] == pytest.approx(60 / 206.5)


def test_a_split_that_gains_next_to_nothing_has_no_price() -> None:
    workload, costs = six_leaves()
    tiny = RequestCosts(costs.compute * 1e-42, costs.memory * 1e-42, 1e-42)
    _, done = split_pool(workload, tiny, UNLIMITED)  # cost / gain is beyond single precision
    assert done.leaves_moved == 0


def test_outlier_leaf_moves_to_its_end() -> None:
    workload, costs = six_leaves()
    tree, done = split_pool(workload, costs, UNLIMITED)
    assert tree.order[done.layers.sequence].tolist() == [0, 1, 2, 4, 5, 3]
    # three share the 10 tokens now, and the outlier pays for all of its prompt
    saved = 10 - 10 / 3
    assert densities(done) == pytest.approx(
        [(27.5 - saved) / 2, (17.5 - saved) / 2, (17.5 - saved) / 2.5, 3.0, 1.0, 27.5 / 200]
    )
    assert (done.leaves_moved, done.subtrees_moved, done.threshold, done.rounds) == (1, 0, 10, 1)


def test_the_gain_of_the_outlier_is_what_its_siblings_win() -> None:
    # Work by leaf: 22, 12, 12.5, 220 in the subtree, 40 each alone; 346.5 in all. The outlier is
    # where it belongs, its siblings are 80 too far right: they belong at 11, 28 and 40.25. Without
    # the outlier they will stand where 40/6.5 belongs, between 5.0 at 28 and 10.0 at 11.
    workload, costs = six_leaves()
    _, done = split_pool(workload, costs, SplitRule(kept_sharing=1.0))
    displaced = outliers_module.displacements(done.layers, done.costs)
    assert displaced * 346.5 == pytest.approx([-80, -80, -80, 0, 46.5, 46.5])
    shape = (done.parent, done.leaf_parent)
    top = outliers_module.top_nodes(*shape)
    rising = np.argsort(done.layers.leaf_density, kind="stable")
    gain, _ = outliers_module._gains(*shape, top, done.costs, done.layers, rising, displaced)
    belongs = (22 * 11 + 12 * 28 + 12.5 * 40.25) / 46.5
    after = 28 + (40 / 6.5 - 5.0) / 5.0 * (11 - 28)
    assert gain[3 + 3] == pytest.approx(46.5 * (80**2 - (belongs - after) ** 2) / 346.5**2)


def test_a_split_that_gains_less_than_it_recomputes_is_left() -> None:
    workload, costs = six_leaves()
    _, done = split_pool(workload, costs, SplitRule(kept_sharing=0.5))
    assert (done.leaves_moved, done.subtrees_moved) == (0, 0)


def test_a_split_above_the_threshold_is_left() -> None:
    workload, costs = six_leaves()
    _, done = split_pool(workload, costs, SplitRule(kept_sharing=0.0, worth=0.0, threshold=9))
    assert done.rounds == 0


def test_a_split_beyond_the_sharing_budget_is_left() -> None:
    workload, costs = six_leaves()  # 30 tokens are shared, a split costs 10
    _, kept = split_pool(workload, costs, SplitRule(kept_sharing=0.7, worth=0.0))
    _, spent = split_pool(workload, costs, SplitRule(kept_sharing=0.6, worth=0.0))
    assert (kept.leaves_moved, spent.leaves_moved) == (0, 1)


def test_leaving_a_source_costs_nothing() -> None:
    workload = from_lengths([1, 1, 1], [1, 1, 1])
    costs = RequestCosts(np.array([1.0, 3.0, 2.0]), np.ones(3), 1.0)
    tree, done = split_pool(workload, costs, SplitRule(kept_sharing=1.0))
    assert tree.order[done.layers.sequence].tolist() == [1, 2, 0]


@given(workloads(), st.data(), st.sampled_from(RULES))
@settings(deadline=None, max_examples=100)
def test_splitting_agrees_with_its_slow_twin(
    workload: Workload, data: st.DataObject, rule: SplitRule
) -> None:
    costs = data.draw(costs_of(workload))
    tree, done = split_pool(workload, costs, rule)
    twin = SlowTree(tree, costs)
    moved = twin.split(rule, int(tree.common.sum()))
    assert len(set(moved)) == len(moved), "a leaf or subtree is split at most once"
    assert done.layers.sequence.tolist() == twin.sequence()
    assert densities(done) == pytest.approx(twin.densities())
    assert done.leaves_moved == sum(kind == "leaf" for kind, _ in moved)
    assert done.subtrees_moved == sum(kind == "node" for kind, _ in moved)


@given(workloads(most=20), st.data())
@settings(deadline=None)
def test_without_a_limit_densities_never_rise(workload: Workload, data: st.DataObject) -> None:
    _, done = split_pool(workload, data.draw(costs_of(workload)), UNLIMITED)
    assert (np.diff(densities(done)) <= 0).all()


@given(workloads(most=20), st.data(), st.integers(0, 20))
@settings(deadline=None)
def test_splitting_ends_sorted_or_with_every_other_split_above_the_threshold(
    workload: Workload, data: st.DataObject, threshold: int
) -> None:
    costs = data.draw(costs_of(workload))
    rule = SplitRule(kept_sharing=0.0, worth=0.0, threshold=threshold)
    tree, done = split_pool(workload, costs, rule)
    assert done.threshold <= threshold
    displaced = outliers_module.displacements(done.layers, done.costs)
    left = outliers_module._split_costs(
        done.parent, done.leaf_parent, tree.depth, done.costs.leaves
    )[len(done.parent) :]
    assert (left[(displaced != 0) & (left > 0)] > threshold).all()


@given(workloads(most=20), st.data(), st.sampled_from((1.0, 0.9, 0.5)))
@settings(deadline=None)
def test_the_sharing_asked_for_is_kept(
    workload: Workload, data: st.DataObject, kept: float
) -> None:
    costs = data.draw(costs_of(workload))
    tree = pool_tree(workload, sort_prompts(workload))
    done = arrange(tree, costs, SplitRule(kept_sharing=kept, worth=0.0), 1)
    assert done.sharing_before == tree.common.sum()
    measured = sum(shared_tokens(workload, a, b) for a, b in pairwise(done.order))
    assert done.sharing_after == measured
    assert done.sharing_after >= kept * done.sharing_before


@given(workloads(most=20), st.data(), st.sampled_from(RULES), st.integers(1, 5))
@settings(deadline=None)
def test_merged_nodes_are_adjacent_small_and_never_denser_than_the_one_before(
    workload: Workload, data: st.DataObject, rule: SplitRule, size: int
) -> None:
    costs = data.draw(costs_of(workload))
    tree = pool_tree(workload, sort_prompts(workload))
    single, merged = (arrange(tree, costs, rule, most) for most in (1, size))
    assert merged.order.tolist() == single.order.tolist()
    assert merged.nodes <= single.nodes
    assert (np.diff(single.density) <= 1e-9).all()
    assert (np.diff(merged.density) <= 1e-9).all()
    runs = np.diff(np.flatnonzero(np.diff(merged.density, prepend=np.inf, append=-np.inf)))
    whole = np.diff(np.flatnonzero(np.diff(single.density, prepend=np.inf, append=-np.inf)))
    assert runs.max() <= max(size, whole.max())


def test_small_neighbours_become_one_node_up_to_the_size() -> None:
    node = np.array([0, 1, 1, 2, 3, 3, 3, 3, 4])
    merged = [0, 0, 0, 1, 2, 2, 2, 2, 3]
    for twin in (arrange_module._merge, arrange_module._merge.py_func):
        assert twin(node, 3).tolist() == merged


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.randoms())
def test_common_prefixes_of_any_sequence_are_minima_in_between(
    values: list[int], random: object
) -> None:
    common = np.array([0, *values[1:]])
    sequence = np.random.default_rng(random.randint(0, 99)).permutation(len(common))  # type: ignore[attr-defined]
    expected = [min(common[min(a, b) + 1 : max(a, b) + 1]) for a, b in pairwise(sequence)]
    assert neighbours_common(common, sequence).tolist() == [0, *expected]


@given(workloads(), st.data(), st.sampled_from(RULES))
@settings(deadline=None)
def test_plain_twins_deal_price_and_choose_alike(
    workload: Workload, data: st.DataObject, rule: SplitRule
) -> None:
    costs = data.draw(costs_of(workload))
    tree, done = split_pool(workload, costs, rule)
    n, m = len(tree.order), len(tree.parent)
    ranked = np.random.default_rng(0).permutation(n + m)
    price = np.random.default_rng(1).uniform(0, 1, n + m)
    price[price > 0.5] = np.inf
    shape = (done.parent, done.leaf_parent)
    for kernel, arguments in (
        (layers_module._deal, (*shape, done.costs.leaves, ranked)),
        (outliers_module._node_sums, (*shape, costs.compute[tree.order])),
        (outliers_module._split_costs, (*shape, tree.depth, done.costs.leaves)),
        (outliers_module.top_nodes, shape),
        (outliers_module._best_of_paths, (*shape, price)),
    ):
        assert kernel.py_func(*arguments).tolist() == kernel(*arguments).tolist()
    leaves = (costs.compute[tree.order], costs.memory[tree.order], 1.0)
    twin = tree_module._spread_costs.py_func(*shape, tree.depth, *leaves)
    assert [column.tolist() for column in twin] == [column.tolist() for column in done.costs]


def test_a_pool_of_ten_is_not_merged_into_one_node() -> None:
    workload = from_lengths([1] * 10, [1] * 10)
    costs = RequestCosts(np.arange(10, 0, -1.0), np.ones(10), 1.0)
    done = blend(workload, sort_prompts(workload), np.ones(10, np.bool_), costs, BlendSettings())
    assert done.nodes == 10


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"kept_sharing": 2}, "split rule: kept_sharing 2 is out of range; give 0 to 1"),
        ({"kept_sharing": -0.1}, "split rule: kept_sharing -0.1 is out of range; give 0 to 1"),
        ({"worth": -1.0}, "split rule: worth -1.0 is out of range; give 0 to 1,000,000,000"),
        ({"worth": math.nan}, "split rule: worth nan is out of range; give 0 to 1,000,000,000"),
        ({"threshold": -5}, "split rule: threshold -5 is out of range; give 0 to 1,000,000,000"),
        ({"threshold": 1.5}, "SplitRule: threshold = 1.5 is not of type int; mend it"),
        ({"worth": "much"}, "SplitRule: worth = 'much' is not of type float; mend it"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_in_a_line(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        SplitRule(**given)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"block_tokens": 0}, "blend: block_tokens 0 is out of range; give 1 to 1,000,000,000"),
        ({"merge_size": 0}, "blend: merge_size 0 is out of range; give 1 to 1,000,000,000"),
        ({"least_nodes": 0}, "blend: least_nodes 0 is out of range; give 1 to 1,000,000,000"),
        ({"split": 0.5}, "BlendSettings: split = 0.5 is not of type SplitRule; mend it"),
        ({"ends": "nope"}, "unknown ends 'nope'; nearest known: both, dense, memory"),
        ({"ends": None}, "BlendSettings: ends = None is not of type str; mend it"),
    ],
)
def test_blend_settings_that_cannot_be_are_refused_in_a_line(
    given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BlendsimError, match=f"^{re.escape(sentence)}$"):
        BlendSettings(**given)


def test_rules_at_the_ends_of_their_ranges_are_taken_and_numbers_of_any_kind() -> None:
    nothing = SplitRule(kept_sharing=1, worth=0, threshold=np.int64(0))
    assert nothing == SplitRule(kept_sharing=1.0, worth=0.0, threshold=0)
    assert type(nothing.kept_sharing) is float
    assert BlendSettings(nothing, block_tokens=1, merge_size=1, least_nodes=1).split == nothing
