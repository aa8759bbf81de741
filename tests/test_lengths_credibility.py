"""Credibility: each group's mean mixed with its parent's, by variances that the sample shows."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blendsim.planner import credibility
from blendsim.planner.credibility import Belief, Groups, believe


def groups_of(
    parent: Sequence[int], samples: Sequence[Sequence[float]]
) -> tuple[Groups, np.ndarray]:
    """Groups whose node k has `samples[k]` directly below it, with one bin for all. A layer is the
    nodes of one top node with equally many ancestors.
    """
    top, level = [], []
    for k, up in enumerate(parent):
        top.append(k if up < 0 else top[up])
        level.append(0 if up < 0 else level[up] + 1)
    names = sorted(set(zip(top, level, strict=True)))
    return (
        Groups(
            parent=np.array(parent, np.int64),
            layer=np.array([names.index(key) for key in zip(top, level, strict=True)], np.int64),
            above=np.array([names.index((t, e - 1)) if e else -1 for t, e in names], np.int64),
            home=np.repeat(np.arange(len(parent)), [len(own) for own in samples]),
            value=np.array([value for own in samples for value in own], np.float64),
        ),
        np.zeros(sum(map(len, samples)), np.int64),
    )


def belief_of(parent: Sequence[int], samples: Sequence[Sequence[float]]) -> Belief:
    groups, bins = groups_of(parent, samples)
    every = np.ones(len(bins), np.bool_)
    return believe(groups, bins, 1, every, np.zeros(len(groups.above), np.bool_))


def slow_means(
    groups: Groups, bins: np.ndarray, used: np.ndarray
) -> tuple[list[float], dict[tuple[int, int], float]]:
    """The same once more with lists: means of nodes, and of bins that have samples."""
    nodes = range(len(groups.parent))
    own: dict[tuple[int, int], list[float]] = {}
    for home, value, bin, ok in zip(groups.home, groups.value, bins, used, strict=True):
        if ok:
            own.setdefault((int(home), int(bin)), []).append(float(value))

    def all_of(node: int) -> list[float]:
        return [value for child in children(node) for value in child]

    def children(node: int) -> list[list[float]]:
        found = [values for (home, _), values in own.items() if home == node]
        found += [all_of(k) for k in nodes if groups.parent[k] == node]
        return [values for values in found if values]

    def squares(values: list[float], middle: float) -> float:
        return math.fsum((value - middle) ** 2 for value in values)

    def average(values: list[float]) -> float:
        return math.fsum(values) / len(values)

    def ratio(layer: int) -> float:
        if layer < 0:
            return math.inf
        within = between = freedom = steps = spread = 0.0
        for node in nodes:
            families = children(node) if groups.layer[node] == layer else []
            if not families:
                continue
            together = all_of(node)
            for values in families:
                within += squares(values, average(values))
                freedom += len(values) - 1
                between += len(values) * (average(values) - average(together)) ** 2
            steps += len(families) - 1
            spread += len(together) - sum(len(v) ** 2 for v in families) / len(together)
        if freedom == 0 or spread == 0:
            return ratio(int(groups.above[layer]))
        variance = within / freedom
        apart = (between - steps * variance) / spread
        return variance / apart if apart > 0 else math.inf

    def mixed(values: list[float], parent_mean: float, layer: int) -> float:
        if not values:
            return parent_mean
        z = len(values) / (len(values) + ratio(layer))
        return z * average(values) + (1 - z) * parent_mean

    means: list[float] = []
    for node in nodes:
        up, values = int(groups.parent[node]), all_of(node)
        if up < 0:
            means.append(average(values) if values else math.nan)
        else:
            means.append(mixed(values, means[up], int(groups.layer[up])))
    of_bins = {
        key: mixed(values, means[key[0]], int(groups.layer[key[0]])) for key, values in own.items()
    }
    return means, of_bins


@st.composite
def families(draw: st.DrawFn) -> tuple[Groups, np.ndarray, np.ndarray]:
    """Groups, bins and which samples are used."""
    m = draw(st.integers(1, 7))
    parent = [-1] + [draw(st.integers(-1, k - 1)) for k in range(1, m)]
    values = st.lists(st.sampled_from((1.0, 2.0, 30.0, 500.0)), max_size=4)
    groups, _ = groups_of(parent, [draw(values) for _ in range(m)])
    e = len(groups.home)
    bins = draw(st.lists(st.integers(0, 2), min_size=e, max_size=e))
    used = draw(st.lists(st.booleans(), min_size=e, max_size=e))
    return groups, np.array(bins, np.int64), np.array(used, np.bool_)


@given(families())
def test_means_are_those_of_the_slow_twin(case: tuple[Groups, np.ndarray, np.ndarray]) -> None:
    groups, bins, used = case
    found = believe(groups, bins, 3, used, np.zeros(len(groups.above), np.bool_))
    means, of_bins = slow_means(groups, bins, used)
    assert found.mean == pytest.approx(means, rel=1e-6, nan_ok=True)
    for (node, bin), mean in of_bins.items():
        assert found.bin_mean[node, bin] == pytest.approx(mean, rel=1e-6)


@given(families())
def test_every_mean_lies_within_the_samples(case: tuple[Groups, np.ndarray, np.ndarray]) -> None:
    groups, bins, used = case
    found = believe(groups, bins, 3, used, np.zeros(len(groups.above), np.bool_))
    for mean in (found.mean, found.bin_mean):
        told = mean[~np.isnan(mean)]
        assert not len(told) or told.min() >= groups.value[used].min() * (1 - 1e-9)
        assert not len(told) or told.max() <= groups.value[used].max() * (1 + 1e-9)
    assert ((found.weight >= 0) & (found.weight <= 1)).all()
    assert ((found.bin_weight >= 0) & (found.bin_weight <= 1)).all()


def test_groups_without_variance_are_believed() -> None:
    found = belief_of([-1, 0, 0], [[], [7.0] * 3, [900.0] * 2])
    assert found.mean[1:].tolist() == [7.0, 900.0]


def test_groups_that_differ_less_than_their_samples_are_not_believed() -> None:
    found = belief_of([-1, 0, 0], [[], [1.0, 100.0], [2.0, 99.0]])
    assert found.weight.tolist() == [1.0, 0.0, 0.0]
    assert found.mean.tolist() == [50.5] * 3


def test_single_samples_say_nothing_of_their_groups() -> None:
    found = belief_of([-1, 0, 0, 0], [[], [1.0], [50.0], [300.0]])
    assert found.mean.tolist() == [117.0] * 4


def test_a_larger_sample_is_believed_more() -> None:
    found = belief_of([-1, 0, 0], [[], [10.0, 30.0], [200.0, 220.0, 180.0, 240.0]])
    assert 0 < found.weight[1] < found.weight[2] < 1


def test_a_layer_without_repeats_takes_the_ratio_above() -> None:
    # Two groups of one sample each hang from node 1: they are believed as node 1 itself would be.
    found = belief_of([-1, 0, 1, 1], [[60.0, 64.0], [], [10.0], [14.0]])
    ratio = 2 * (1 / found.weight[1] - 1)
    assert 0 < ratio < np.inf
    assert found.weight[2] == pytest.approx(1 / (1 + ratio))


def test_a_plain_layer_is_not_mixed() -> None:
    groups, bins = groups_of([-1, 0, 0], [[5.0], [1.0, 100.0], [2.0, 99.0]])
    found = believe(groups, bins, 1, np.ones(5, np.bool_), np.ones(2, np.bool_))
    assert found.mean[1:].tolist() == [50.5, 50.5]
    assert found.bin_mean[:, 0].tolist() == [5.0, 50.5, 50.5]


def test_bins_of_a_plain_layer_are_believed_below_its_top_node_alone() -> None:
    groups, _ = groups_of([-1, 0], [[5.0, 15.0], [1.0, 99.0]])
    bins = np.array([0, 1, 0, 1])
    found = believe(groups, bins, 2, np.ones(4, np.bool_), np.ones(2, np.bool_))
    assert found.bin_mean.tolist() == [[5.0, 15.0], [50.0, 50.0]]


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_how_much_is_believed_does_not_depend_on_the_unit(unit: float) -> None:
    """σ² = 2 in each, and means 4 apart: τ² = (16 − 2) / 2 = 7, so that z = 2 / (2 + 2/7)."""
    samples = [[], [1.0 * unit, 3.0 * unit], [5.0 * unit, 7.0 * unit]]
    assert belief_of([-1, 0, 0], samples).weight[1:] == pytest.approx([0.875, 0.875])


@given(families(), st.booleans())
def test_plain_twins_find_the_same(
    case: tuple[Groups, np.ndarray, np.ndarray], is_plain: bool
) -> None:
    groups, bins, used = case
    plain = np.full(len(groups.above), is_plain)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_sampled", "_scatter", "_ratios", "_mix", "_mix_bins"):
            patch.setattr(credibility, name, getattr(credibility, name).py_func)
        slow = believe(groups, bins, 3, used, plain)
    for one, other in zip(slow, believe(groups, bins, 3, used, plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
