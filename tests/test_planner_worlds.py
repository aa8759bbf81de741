"""Possible worlds: as far from what is visible as a sample may be from its pool."""

from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import workloads

from blendsim.arrays import Ints
from blendsim.planner import lengths as lengths_module
from blendsim.planner.lengths import (
    PRIOR_DOUBT,
    PRIOR_OUTPUT,
    RULES,
    SHRUNK,
    SUBTREE_MEAN,
    Lengths,
    draw,
    estimate,
    expect_lengths,
)
from blendsim.planner.outlook import possible_worlds
from blendsim.planner.tree import pool_tree
from blendsim.prefix import sort_prompts
from blendsim.request import Workload, from_lengths, pool
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
    """Rubin's weights: the mean's standard deviation is s/√(n + 1), but for the longest."""
    outputs = np.random.default_rng(1).lognormal(5, 0.7, 4_000).astype(np.int64) + 1
    workload = from_lengths([100] * 4_000, outputs)
    with mock.patch("blendsim.planner.lengths._redraw_peaks"):
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


@pytest.mark.parametrize(("seen", "weight"), [(1, 1 / 2), (3, 1 / 4)])
def test_a_guess_weighs_as_one_more_of_few_lengths(seen: int, weight: float) -> None:
    """One that is off by a factor of 2 to the power of a normal number is too long by
    e^((ln 2)²/2) − 1 in the mean.
    """
    group = np.repeat(np.arange(20_000), seen)
    doubt = lengths_module._little_doubt(
        SimpleNamespace(group=group), np.arange(len(group)), np.random.default_rng(0)
    )
    assert doubt.mean() - 1 == pytest.approx(weight * np.expm1(PRIOR_DOUBT**2 / 2), rel=0.1)


def redrawn(workload: Workload, drawn: Ints, is_seen: Ints, seed: int, doubt: bool) -> Ints:
    """`drawn` with the longest drawn anew, where only lengths that `is_seen` are."""
    tree = pool_tree(workload, sort_prompts(workload))
    found = np.flatnonzero(is_seen[tree.order])
    drawn = drawn.copy()
    lengths_module._redraw_peaks(
        drawn, workload, tree, found, np.random.default_rng(seed), is_doubted=doubt
    )
    return drawn


def test_each_source_has_longest_answers_of_its_own() -> None:
    """Of 16 lengths the four longest are above the fifth: 13 to 16 above 12, by 2.5 in the mean;
    in the other source all are a hundred times as long.
    """
    n, seen = 8_000, np.arange(1, 17)
    outputs = [np.append(unit * seen, np.full(n, 16 * unit)) for unit in (1, 100)]
    workload = pool(
        [from_lengths([50] * (16 + n), out, source=f"{k}") for k, out in enumerate(outputs)]
    )
    is_seen = np.tile(np.arange(16 + n) < 16, 2)
    drawn = redrawn(workload, workload.output_len, is_seen, 0, False)[~is_seen]
    assert drawn[:n].mean() == pytest.approx(12 + 2.5, rel=0.01)
    assert drawn[n:].mean() == pytest.approx(1_200 + 250, rel=0.01)


def test_doubt_of_few_peaks_makes_answers_longer_in_the_mean() -> None:
    """Of four lengths the longest two are above the third, by m in the mean. With one more they
    make 3·m over a gamma of 3, and one over a gamma of 3 is ½ in the mean.
    """
    workload = from_lengths([50] * 104, [10, 100, 300, 500, *[1_000] * 100])
    is_seen = np.arange(104) < 4
    more = [
        redrawn(workload, workload.output_len, is_seen, seed, True)[4:].mean() - 100
        for seed in range(2_000)
    ]
    assert np.mean(more) == pytest.approx(1.5 * 300, rel=0.1)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("is_doubted", [False, True])
def test_the_longest_are_above_a_threshold_by_an_exponential(rule: str, is_doubted: bool) -> None:
    """Of 100 seen the ten longest are above the eleventh by 500 in the mean: 1 ... 10 × 1,000 / 11.
    Half of the others draw as they did, and one in a hundred is longer than all that were seen.
    """
    peaks = 1_000 + np.arange(1, 11) * 1_000 // 11
    outputs = np.concatenate([np.full(40, 10), np.full(49, 50), [1_000], peaks, np.full(20_000, 7)])
    workload = from_lengths([100] * len(outputs), outputs)
    tree = pool_tree(workload, sort_prompts(workload))
    is_visible = np.arange(len(outputs)) < 100
    expected, notes = estimate(workload, tree, is_visible, rule)
    lengths = Lengths(expected, expected, is_visible, is_visible, "", notes)
    above = []
    for seed in range(20 if is_doubted else 2):
        rng = np.random.default_rng(seed)
        drawn = draw(workload, tree, lengths, rng, rule, is_doubted)[100:]
        assert set(drawn[drawn <= 1_000].tolist()) <= {10, 50, 1_000}
        above.append(drawn[drawn > 1_000] - 1_000)
        if not is_doubted:
            assert len(above[-1]) == pytest.approx(2_000, rel=0.1)
            assert (drawn > outputs.max()).mean() == pytest.approx(
                0.1 * np.exp(-909 / 500), rel=0.2
            )
    means = [more.mean() for more in above]
    spread = np.std(means) / np.mean(means)
    assert np.mean(means) == pytest.approx(peaks.mean() - 1_000, rel=0.25 if is_doubted else 0.05)
    assert (0.15 < spread < 0.6) if is_doubted else spread < 0.05


def test_answers_that_a_limit_ends_are_not_longer_than_it() -> None:
    outputs = np.append(np.random.default_rng(2).integers(10, 900, 950), np.full(50, 1_024))
    worlds = worlds_of(
        from_lengths([100] * 1_000, np.random.default_rng(3).permutation(outputs)), 0.3
    )
    assert {world.max() for world in worlds} == {1_024}


def test_what_is_expected_knows_nothing_of_longer_answers() -> None:
    outputs = np.random.default_rng(1).lognormal(5, 0.7, 4_000).astype(np.int64) + 1
    workload = from_lengths([100] * 4_000, outputs)
    tree = pool_tree(workload, sort_prompts(workload))
    rng = np.random.default_rng(0)
    lengths = expect_lengths(workload, tree, 0.01, rng, 1, SUBTREE_MEAN)
    longest = outputs[lengths.is_sampled].max()
    assert lengths.expected.max() == longest
    assert max(world.max() for world in worlds_of(workload, 0.01)) > longest
