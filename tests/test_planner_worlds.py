"""Possible worlds: as far from what is visible as a sample may be from its pool."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import workloads

from blendsim.planner.lengths import (
    PRIOR_DOUBT,
    PRIOR_OUTPUT,
    RULES,
    SHRUNK,
    SUBTREE_MEAN,
    expect_lengths,
)
from blendsim.planner.outlook import possible_worlds
from blendsim.planner.tree import pool_tree
from blendsim.prefix import sort_prompts
from blendsim.request import Ints, Workload, from_lengths
from blendsim.settings import Settings


def worlds_of(
    workload: Workload, share: float, count: int = 8, seed: int = 0, rule: str = SUBTREE_MEAN
) -> tuple[Ints, ...]:
    tree = pool_tree(workload, sort_prompts(workload))
    rng = np.random.default_rng(seed)
    lengths = expect_lengths(workload, tree, share, rng, 1, rule)
    return possible_worlds(workload, tree, Settings().system, lengths, count, seed, rule)


@pytest.mark.parametrize("rule", RULES)
def test_worlds_differ_as_a_sample_of_that_size_does(rule: str) -> None:
    """Rubin's weights: the mean's standard deviation is s/√(n + 1)."""
    outputs = np.random.default_rng(1).lognormal(5, 0.7, 4_000).astype(np.int64) + 1
    workload = from_lengths([100] * 4_000, outputs)
    means = np.array([world.mean() for world in worlds_of(workload, 0.01, 400, rule=rule)])
    n = 40
    sampled = expect_lengths(
        workload,
        pool_tree(workload, sort_prompts(workload)),
        0.01,
        np.random.default_rng(0),
        1,
        rule,
    ).is_sampled
    assert sampled.sum() == n
    expected = outputs[sampled].std() / np.sqrt(n + 1)
    assert abs(means.std() / expected - 1) < 0.15
    assert abs(means.mean() / outputs[sampled].mean() - 1) < 0.02


def test_each_source_draws_its_worlds_from_its_own_sample() -> None:
    short, long = np.tile([10, 30], 500), np.tile([1_000, 3_000], 500)
    workload = from_lengths([50] * 2_000, np.append(short, long))
    workload = replace(workload, source=np.repeat([0, 1], 1_000).astype(np.int32))
    worlds = worlds_of(replace(workload, origin=("a", "b")), 0.05)
    for world in worlds:
        assert world[:1_000].max() <= 30
        assert world[1_000:].min() >= 1_000


@given(workload=workloads(), seed=st.integers(0, 5), rule=st.sampled_from(RULES))
def test_hidden_lengths_change_no_world(workload: Workload, seed: int, rule: str) -> None:
    tree = pool_tree(workload, sort_prompts(workload))
    lengths = expect_lengths(workload, tree, 0.3, np.random.default_rng(seed), 1, rule)
    system = Settings().system
    hidden = workload.has_output & ~lengths.is_visible
    changed = replace(workload, output_len=np.where(hidden, 9_999, workload.output_len))
    first = possible_worlds(workload, tree, system, lengths, 3, seed, rule)
    again = possible_worlds(changed, tree, system, lengths, 3, seed, rule)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for world in first:
        seen = lengths.is_visible
        assert np.array_equal(world[seen], workload.output_len[seen])
        assert world.min() >= 1


def test_worlds_without_a_sample_differ_in_the_mean_by_a_factor_of_two() -> None:
    workload = from_lengths([100] * 2_000, np.ones(2_000, np.int64))
    workload = replace(workload, has_output=np.zeros(2_000, np.bool_))
    means = np.log([world.mean() for world in worlds_of(workload, 0.01, 400)])
    assert abs(means.std() / PRIOR_DOUBT - 1) < 0.15
    assert abs(means.mean() - np.log(PRIOR_OUTPUT)) < 0.15


def test_sources_without_a_sample_are_doubted_each_by_itself() -> None:
    workload = from_lengths([100] * 2_000, np.ones(2_000, np.int64))
    workload = replace(
        workload,
        has_output=np.zeros(2_000, np.bool_),
        source=np.repeat([0, 1], 1_000).astype(np.int32),
        source_names=("a", "b"),
    )
    worlds = worlds_of(workload, 0.01, 200)
    halves = np.log([[world[:1_000].mean(), world[1_000:].mean()] for world in worlds])
    assert abs(np.corrcoef(halves.T)[0, 1]) < 0.25


def test_no_world_where_all_is_known() -> None:
    workload = from_lengths([100] * 50, np.arange(1, 51))
    assert worlds_of(workload, 1.0) == ()
    assert len(worlds_of(workload, 0.1)) == 8
    assert len(worlds_of(workload, 0.1, rule=SHRUNK)) == 8


def test_worlds_are_not_alike_and_repeat_by_their_seed() -> None:
    outputs = np.random.default_rng(2).integers(1, 900, 400)
    workload = from_lengths([100] * 400, outputs)
    worlds = worlds_of(workload, 0.05)
    assert len({world.tobytes() for world in worlds}) == len(worlds)
    again = worlds_of(workload, 0.05)
    assert all(np.array_equal(a, b) for a, b in zip(worlds, again, strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_a_few_lengths_are_doubted_though_they_are_alike(rule: str) -> None:
    """As if a guess that is off by a factor of two were one more of them; a sample is not."""

    def spread(seen: int) -> float:
        outputs = np.full(4_000, 200)
        known = replace(from_lengths([100] * 4_000, outputs), has_output=np.arange(4_000) < seen)
        known = replace(known, output_len=np.where(known.has_output, outputs, 0))
        means = [world.mean() for world in worlds_of(known, 1.0, 200, rule=rule)]
        return float(np.log(means).std())

    one, ten, enough = spread(1), spread(10), spread(32)
    assert 0.25 < one < PRIOR_DOUBT
    assert 0.03 < ten < one / 2
    assert enough < 1e-12
