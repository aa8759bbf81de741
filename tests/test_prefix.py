"""Prefix order and tree against dictionary tries and all pairs; MMLU's known figures."""

from itertools import permutations

import mmlu
import numpy as np
import pytest
from hypothesis import given, settings
from mmlu import needs_mmlu
from oracles import cached_savings, intervals, prompt_order, shared_tokens, trie_savings
from strategies import workloads

from blendsim import prefix
from blendsim.prefix import build_tree, common_blocks, shareable_tokens, sort_prompts
from blendsim.request import Prompts, Workload, from_lengths


def token_pool(*prompts: list[int]) -> Workload:
    """One request a list of token ids, each answering one token."""
    lengths = [len(prompt) for prompt in prompts]
    units = Prompts(
        np.cumsum([0, *lengths]).astype(np.int64),
        np.array([token for prompt in prompts for token in prompt], np.int32),
        np.zeros(len(prompts), np.int32),
        np.ones(1, np.int32),
        ("tokens",),
    )
    return from_lengths(lengths, [1] * len(prompts), prompts=units)


def test_a_prompt_stands_before_its_continuations() -> None:
    done = sort_prompts(token_pool([1, 2, 3], [1, 2], [0], [1, 2, 2]))
    assert done.order.tolist() == [2, 1, 3, 0]
    assert done.common.tolist() == [0, 0, 2, 2]


def test_units_may_be_any_value_but_the_lowest() -> None:
    units = np.array([-(2**63) + 1, 2**63 - 1, 0], np.int64)
    space = np.zeros(3, np.int32)
    prompts = Prompts(np.array([0, 1, 1, 3]), units, space, np.ones(1, np.int32), ("hashes",))
    done = sort_prompts(from_lengths([1, 5, 2], [1, 1, 1], prompts=prompts))
    assert done.order.tolist() == [1, 0, 2]


def test_the_tree_of_two_conversations() -> None:
    done = sort_prompts(token_pool([1, 2, 3], [1, 2, 4], [1, 5], [6]))
    tree = build_tree(done.common)
    assert done.order.tolist() == [0, 1, 2, 3]
    assert tree.parent.tolist() == [-1, 0, 1]
    assert tree.depth.tolist() == [0, 1, 2]
    assert list(zip(tree.first.tolist(), tree.last.tolist(), strict=True)) == [
        (0, 4),
        (0, 3),
        (0, 2),
    ]
    assert tree.leaf_parent.tolist() == [2, 2, 1, 0]


@given(workloads())
@settings(deadline=None)
def test_the_order_is_lexicographic_then_by_length_then_by_row(workload: Workload) -> None:
    assert sort_prompts(workload).order.tolist() == prompt_order(workload)


@given(workloads())
@settings(deadline=None)
def test_neighbours_minima_are_the_common_prefixes_of_all_pairs(workload: Workload) -> None:
    order, common = sort_prompts(workload)
    for i in range(len(order)):
        for j in range(i + 1, len(order)):
            assert common[i + 1 : j + 1].min() == shared_tokens(workload, order[i], order[j])


@given(workloads())
@settings(deadline=None)
def test_plain_twins_sort_and_measure_alike(workload: Workload) -> None:
    prompts = workload.prompts
    done = sort_prompts(workload)
    order = np.argsort(prompts.space, kind="stable").astype(np.int64)
    bounds = np.flatnonzero(np.diff(prompts.space[order], prepend=-1, append=-1)).astype(np.int64)
    prefix._sort_groups.py_func(prompts.offsets, prompts.units, workload.prompt_len, order, bounds)
    assert order.tolist() == done.order.tolist()
    common = prefix._common_prefixes.py_func(
        prompts.offsets,
        prompts.units,
        prompts.space,
        prompts.unit_tokens,
        workload.prompt_len,
        order,
    )
    assert common.tolist() == done.common.tolist()
    plain = prefix._build_tree.py_func(done.common)
    assert all(
        a.tolist() == b.tolist() for a, b in zip(plain, build_tree(done.common), strict=True)
    )


def test_plain_twins_of_the_small_kernels() -> None:
    units = np.array([1, 2, 3, 1, 2, 4])
    assert prefix._match.py_func(units, 0, 3, 3) == 2
    order = np.array([2, 1, 0])
    prefix._sort_by_length.py_func(np.array([5, 3, 5]), order, 0, 3)
    assert order.tolist() == [1, 0, 2]


@given(workloads())
@settings(deadline=None)
def test_the_tree_holds_every_prefix_that_two_requests_share(workload: Workload) -> None:
    for block in (1, 4, 16):
        common = common_blocks(sort_prompts(workload), block)
        tree = build_tree(common)
        nodes = list(zip(tree.depth.tolist(), tree.first.tolist(), tree.last.tolist(), strict=True))
        assert set(nodes[1:]) == intervals(common.tolist())
        assert len(nodes) == len(set(nodes))
        for k, (depth, first, last) in enumerate(nodes[1:], 1):
            holds = [
                other
                for other, (d, low, high) in enumerate(nodes)
                if d < depth and low <= first and last <= high
            ]
            assert tree.parent[k] == max(holds, key=lambda other: nodes[other][0]) < k
        for i, parent in enumerate(tree.leaf_parent.tolist()):
            holds = [other for other, (_, low, high) in enumerate(nodes) if low <= i < high]
            assert parent == max(holds, key=lambda other: nodes[other][0])


@given(workloads())
@settings(deadline=None)
def test_shareable_tokens_are_what_a_trie_saves(workload: Workload) -> None:
    done = sort_prompts(workload)
    assert shareable_tokens(workload, done) == trie_savings(workload)


@given(workloads())
@settings(deadline=None)
def test_shareable_blocks_are_what_a_boundless_cache_saves(workload: Workload) -> None:
    done = sort_prompts(workload)
    for block in (4, 16):
        saved = cached_savings(workload, done.order.tolist(), block)
        assert shareable_tokens(workload, done, block) == saved


@given(workloads(most=5))
@settings(deadline=None, max_examples=40)
def test_no_other_order_shares_more_blocks(workload: Workload) -> None:
    best = shareable_tokens(workload, sort_prompts(workload), 4)
    for order in permutations(range(len(workload))):
        assert cached_savings(workload, order, 4) <= best


def test_a_chain_of_ten_thousand_turns_needs_no_recursion() -> None:
    turns = 10_000
    common = np.append(0, np.arange(1, turns))
    tree = build_tree(common)
    assert len(tree.parent) == turns
    assert tree.parent.tolist() == list(range(-1, turns - 1))
    assert tree.leaf_parent[-1] == turns - 1


@needs_mmlu
def test_mmlu_shares_8634_of_its_tokens() -> None:
    workload = mmlu.read().trace
    done = sort_prompts(workload)
    total = int(workload.prompt_len.sum())
    assert total == 9_611_004
    assert shareable_tokens(workload, done) / total == pytest.approx(0.8634, abs=0.001)
    assert shareable_tokens(workload, done, 16) / total <= 0.8525
