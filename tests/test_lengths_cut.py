"""Output lengths that max_tokens cut, and what is expected and drawn under other limits."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blendsim.planner.cut_lengths import CutLengths, SourceLengths, as_limits, means_under
from blendsim.planner.lengths import RULES, draw, expect_lengths
from blendsim.planner.tree import pool_tree
from blendsim.prefix import sort_prompts
from blendsim.request import Workload, from_lengths


@st.composite
def samples(draw_from: st.DrawFn) -> SourceLengths:
    """1 to 12 lengths of 1 to 8 tokens, some cut, with weights."""
    n = draw_from(st.integers(1, 12))
    value = np.array(draw_from(st.lists(st.integers(1, 8), min_size=n, max_size=n)))
    is_cut = draw_from(st.lists(st.booleans(), min_size=n, max_size=n))
    weight = draw_from(st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=n, max_size=n))
    return SourceLengths.of(value, np.where(is_cut, value, np.inf), np.array(weight))


def to_the_right(found: SourceLengths) -> np.ndarray:
    """Efron's way, one length after the other: who was cut gives all to who is longer."""
    mass = found.weight / found.weight.sum()
    for v in sorted(set(found.value.tolist())):
        longer = found.value > v
        cut = found.is_cut & (found.value == v)
        if longer.any():
            share = found.weight * longer / (found.weight * longer).sum()
            mass = np.where(cut, 0.0, mass) + share * mass[cut].sum()
    return mass


@given(samples())
def test_mass_is_what_redistribution_to_the_right_gives(found: SourceLengths) -> None:
    np.testing.assert_allclose(found.mass(), to_the_right(found), atol=1e-12)


def beyond(found: SourceLengths, room: float) -> float:
    """Tokens by which an exponential answer goes on, by adding up its survival."""
    mean = found.value.sum() / max(1, (~found.is_cut).sum())
    steps = np.linspace(0.0, min(room, 60.0 * mean), 200_001)
    return float(np.trapezoid(np.exp(-steps / mean), steps))


@given(samples(), st.sampled_from([1.0, 3.0, 8.0, 9.5, 1e9]))
def test_means_under_a_limit(found: SourceLengths, limit: float) -> None:
    is_open = found.is_cut & (found.value == found.value.max())
    ends = np.minimum(found.value, limit)
    if limit > found.value.max():
        ends = ends + np.where(is_open, beyond(found, limit - found.value.max()), 0.0)
    mean = (to_the_right(found) * ends).sum()
    assert found.mean_below(np.array([limit]))[0] == pytest.approx(mean, rel=1e-4)
    for tokens in (2.0, 6.0):
        longer = found.value > tokens
        mass = to_the_right(found) * longer
        told = found.mean_of_longer(np.array([tokens]), limit)[0]
        if mass.sum() > 0.0 and limit > tokens:
            assert told == pytest.approx((mass * ends).sum() / mass.sum(), rel=1e-4)


@given(samples(), st.integers(1, 6))
def test_answers_go_on_as_the_longer_ones(found: SourceLengths, tokens: int) -> None:
    """All that are longer than `tokens`, as often as the mass says; open-ended ones go on."""
    n = 4_000
    start = np.full(n, float(tokens))
    ends = found.go_on(start, np.full(n, np.inf), np.random.default_rng(0))
    mass = to_the_right(found) * (found.value > tokens)
    assert (ends > tokens).all()
    if mass.sum() > 0.0:
        is_open = found.is_cut & (found.value == found.value.max())
        for v in sorted(set(found.value[(mass > 0.0) & ~is_open].tolist())):
            likely = mass[(found.value == v) & ~is_open].sum() / mass.sum()
            assert (ends == v).mean() == pytest.approx(likely, abs=5.0 * 0.5 / np.sqrt(n))
        beyond_all = (ends > found.value.max()).mean()
        likely = mass[is_open].sum() / mass.sum()
        assert beyond_all == pytest.approx(likely, abs=5.0 * 0.5 / np.sqrt(n))


def natural(n: int, seed: int = 0) -> np.ndarray:
    """Lengths of some 300 tokens in the mean, if nothing cuts them."""
    return np.maximum(1, np.random.default_rng(seed).exponential(300, n).astype(np.int64))


def mixed(limits: tuple[int, ...], n: int = 8_000) -> Workload:
    """One source whose requests have these limits by turns (0: none)."""
    limit = np.array(limits)[np.arange(n) % len(limits)]
    output = np.minimum(natural(n), np.where(limit > 0, limit, 1 << 30))
    return replace(from_lengths([100] * n, output), output_limit=limit)


def beliefs(workload: Workload, rule: str, share: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """What is expected of the requests that are not seen, and one world: (n,) of all."""
    tree = pool_tree(workload, sort_prompts(workload))
    lengths = expect_lengths(workload, tree, share, np.random.default_rng(1), rule=rule)
    return lengths.expected, draw(workload, tree, lengths, np.random.default_rng(2), rule=rule)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("limits", [(16, 4_096), (100, 300, 0), (1, 2_000), (256,), (50, 400)])
def test_every_limit_s_requests_are_as_long_as_they_are(rule: str, limits: tuple[int, ...]) -> None:
    workload = mixed(limits)
    for told in beliefs(workload, rule):
        for limit in limits:
            mine = workload.output_limit == limit
            true = workload.output_len[mine].mean()
            assert told[mine].mean() == pytest.approx(true, rel=0.1)
        if 0 not in limits:
            assert (told <= workload.output_limit).all()


@pytest.mark.parametrize("rule", RULES)
def test_one_limit_for_all_says_what_it_said(rule: str) -> None:
    """Answers that were cut there are no longer for others, either."""
    expected, drawn = beliefs(mixed((256,)), rule)
    free = replace(mixed((256,)), output_limit=np.zeros(8_000, np.int64))
    expected_free, drawn_free = beliefs(free, rule)
    np.testing.assert_array_equal(expected, expected_free)
    np.testing.assert_array_equal(drawn, drawn_free)


def test_requests_that_end_at_their_limits_are_expected_to() -> None:
    """Lengths that are forced are all cut, and only the longest ends somewhere unknown."""
    n = 2_000
    output = natural(n)
    workload = replace(from_lengths([100] * n, output), output_limit=output)
    for told in beliefs(workload, RULES[0]):
        assert told.sum() == pytest.approx(output.sum(), rel=0.02)


def test_nothing_is_done_where_no_limit_matters() -> None:
    none = np.zeros(0, np.int64)
    source, value = np.array([0, 0, 1]), np.array([5, 9, 7])
    free = np.full(3, np.inf)
    assert CutLengths.of(source, value, free, np.ones(3), source, free).lengths == {}
    high = np.array([10.0, 10.0, 10.0])
    assert CutLengths.of(source, value, high, np.ones(3), source, high).lengths == {}
    assert CutLengths.of(none, none, np.zeros(0), np.zeros(0), source, high).lengths == {}
    low = np.array([8.0, 10.0, 10.0])
    assert [*CutLengths.of(source, value, high, np.ones(3), source, low).lengths] == [0]


@given(
    st.lists(st.sampled_from([1, 16, 256, 4_096, 0]), min_size=1, max_size=20),
    st.floats(1.0, 3_000.0),
)
def test_a_guess_is_the_mean_of_what_limits_leave(limits: list[int], mean: float) -> None:
    limit = as_limits(np.array(limits))
    told = means_under(limit, mean)
    assert (told <= limit * (1 + 1e-12)).all()
    assert told.mean() == pytest.approx(min(mean, limit.mean()), rel=1e-6)
    order = np.argsort(limit)
    assert (np.diff(told[order]) >= -1e-9).all(), "who may be longer is expected to be"


def test_a_guess_is_met_by_the_pool() -> None:
    """The mean of an earlier batch, given for this one."""
    workload = replace(mixed((1, 4_096)), has_output=np.zeros(8_000, np.bool_))
    tree = pool_tree(workload, sort_prompts(workload))
    mean = int(workload.output_len.mean())
    lengths = expect_lengths(workload, tree, 0.0, np.random.default_rng(1), guess=mean)
    assert lengths.expected.mean() == pytest.approx(mean, rel=0.01)
    drawn = draw(workload, tree, lengths, np.random.default_rng(2))
    assert drawn.mean() == pytest.approx(mean, rel=0.05)
    assert lengths.notes[0].startswith("8,000 requests have no output length to learn from: ")
