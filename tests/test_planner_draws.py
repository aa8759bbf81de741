"""Drawn lengths: a possible world to predict by, as varied as the sample."""

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import was_cut
from strategies import workloads
from test_planner_lengths import two_sources

from blendsim.arrays import Ints
from blendsim.planner import evidence as evidence_module
from blendsim.planner.evidence import evidence, is_unlearned
from blendsim.planner.lengths import (
    PRIOR_OUTPUT,
    PRIOR_SHARE,
    Lengths,
    _means_below,
    draw,
    expect_lengths,
)
from blendsim.planner.tree import PoolTree, pool_tree
from blendsim.prefix import sort_prompts
from blendsim.request import Prompts, Workload, from_lengths, pool


def drawn_of(
    workload: Workload, share: float, seed: int = 0, least: int = 32
) -> tuple[PoolTree, Lengths, Ints]:
    tree = pool_tree(workload, sort_prompts(workload))
    rng = np.random.default_rng(seed)
    lengths = expect_lengths(workload, tree, share, rng, least)
    return tree, lengths, draw(workload, tree, lengths, rng)


def test_draws_have_the_spread_of_the_sample() -> None:
    rng = np.random.default_rng(0)
    outputs = rng.lognormal(4, 1.2, 20_000).astype(np.int64) + 1
    _, lengths, drawn = drawn_of(from_lengths([100] * 20_000, outputs), 0.05)
    sampled = outputs[lengths.is_sampled]
    assert abs(drawn.mean() / sampled.mean() - 1) < 0.03
    assert abs(drawn.std() / sampled.std() - 1) < 0.06
    # All but the 32 longest of a thousand, which are drawn anew.
    threshold = np.sort(sampled)[-33]
    assert set(drawn[drawn < threshold].tolist()) <= set(sampled.tolist())
    assert (drawn > threshold).mean() == pytest.approx(0.032, abs=0.004)


def test_each_source_draws_from_its_own_sample() -> None:
    workload = two_sources(200, 200)
    _, _, drawn = drawn_of(workload, 0.2)
    assert np.array_equal(drawn, workload.output_len)


def test_visible_lengths_are_drawn_as_they_are() -> None:
    workload = from_lengths([10] * 50, np.arange(1, 51))
    _, _, drawn = drawn_of(workload, 1.0)
    assert np.array_equal(drawn, workload.output_len)


def test_each_source_draws_evenly_from_its_own_sample() -> None:
    outputs = [np.arange(4_000) % 4 + base for base in (1, 101)]
    workload = pool([from_lengths([50] * 4_000, out, source=f"{out[0]}") for out in outputs])
    _, lengths, drawn = drawn_of(workload, 0.1)
    for half in (slice(0, 4_000), slice(4_000, None)):
        sampled = workload.output_len[half][lengths.is_sampled[half]]
        hidden = drawn[half][~lengths.is_sampled[half]]
        for length in set(sampled.tolist()):
            assert (hidden == length).mean() == pytest.approx((sampled == length).mean(), abs=0.03)


@pytest.mark.parametrize("limit", [1, 7])
def test_no_draw_exceeds_the_request_s_limit(limit: int) -> None:
    workload = replace(
        from_lengths([10] * 200, [100] * 200), output_limit=np.full(200, limit, np.int64)
    )
    _, lengths, drawn = drawn_of(workload, 0.2)
    assert (drawn[~lengths.is_visible] == limit).all()


@given(workload=workloads(), seed=st.integers(0, 5))
def test_draws_do_not_depend_on_lengths_that_are_not_visible(workload: Workload, seed: int) -> None:
    tree, lengths, drawn = drawn_of(workload, 0.3, seed, least=1)
    hidden = workload.has_output & ~lengths.is_visible
    changed = replace(workload, output_len=np.where(hidden, 9_999, workload.output_len))
    assert np.array_equal(drawn_of(changed, 0.3, seed, least=1)[2], drawn)
    with mock.patch("blendsim.planner.lengths._redraw_peaks"):
        drawn = drawn_of(workload, 0.3, seed, least=1)[2]
    seen = workload.output_len[tree.order[evidence(workload, tree, lengths.is_visible)]]
    is_blind = is_unlearned(workload, tree, lengths.is_visible)
    learned = drawn[~lengths.is_visible & (workload.output_limit == 0) & ~is_blind]
    if not was_cut(workload):  # who was cut goes on (tests/test_lengths_cut.py)
        assert set(learned.tolist()) <= set(seen.tolist())


def test_what_nothing_is_learned_of_is_exponential_about_its_guess() -> None:
    n = 20_000
    workload = replace(two_sources(n, n), output_limit=np.repeat([0, 4_000], n).astype(np.int64))
    workload = replace(workload, has_output=np.zeros(2 * n, np.bool_))
    tree, lengths, drawn = drawn_of(workload, 0.01)
    assert is_unlearned(workload, tree, lengths.is_visible).all()
    plain, cut = drawn[:n], drawn[n:]
    for q in (0.5, 0.9, 0.999):
        assert abs(np.quantile(plain, q) / (-lengths.expected[0] * np.log(1 - q)) - 1) < 0.05
    for half, mean in ((plain, PRIOR_OUTPUT), (cut, 4_000 * PRIOR_SHARE)):
        assert abs(half.mean() / mean - 1) < 0.03
    assert drawn.min() >= 1
    assert drawn[n:].max() == 4_000


def test_one_source_that_is_seen_teaches_the_other_its_mean_and_not_its_lengths() -> None:
    workload = two_sources(400, 4_000)
    workload = replace(workload, has_output=np.arange(len(workload)) < 400)
    tree, lengths, drawn = drawn_of(workload, 0.2)
    assert (
        is_unlearned(workload, tree, lengths.is_visible).tolist() == [False] * 400 + [True] * 4_000
    )
    assert (drawn[:400] == workload.output_len[:400]).all()
    mean = workload.output_len[0]
    assert (lengths.expected[400:] == mean).all()
    assert abs(drawn[400:].std() / mean - 1) < 0.1


def test_plain_twin_finds_the_same_nodes() -> None:
    parent = np.array([-1, 0, 1, 1, 0])
    count = np.array([1, 1, 0, 1, 0])
    kernel = evidence_module.deepest_nodes
    for twin in (kernel, kernel.py_func):
        assert twin(parent, count).tolist() == [-1, 1, 1, 3, -1]


def test_requests_that_share_nothing_do_not_learn_from_those_that_do() -> None:
    """One file, two kinds of work: short answers behind a common prompt, long ones alone."""
    n = 400
    prompts = Prompts(
        np.append(np.arange(n + 1) * 50, np.full(n, n * 50)),
        np.tile(np.arange(50, dtype=np.int32), n),
        np.zeros(2 * n, np.int32),
        np.ones(1, np.int32),
        ("tokens",),
    )
    workload = from_lengths([60] * (2 * n), [2] * n + [900] * n, prompts=prompts)
    _, lengths, drawn = drawn_of(workload, 0.1)
    assert np.array_equal(lengths.expected, workload.output_len)
    assert np.array_equal(drawn, workload.output_len)


@given(
    wanted=st.floats(1.0, 5_000.0),
    limit=st.one_of(st.just(0), st.integers(1, 4_000)),
)
def test_a_mean_under_a_limit_is_what_was_wanted(wanted: float, limit: int) -> None:
    mean = float(_means_below(np.array([wanted]), np.array([limit]))[0])
    if limit == 0:
        assert mean == wanted
    elif wanted >= limit:
        assert np.isinf(mean), "all of them run into the limit"
    else:
        assert mean * -np.expm1(-limit / mean) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("guess", [100, 256, 500, 512, 2_000])
def test_drawn_lengths_have_the_mean_that_is_guessed(guess: int) -> None:
    n = 20_000
    workload = replace(from_lengths([100] * n, [1] * n), has_output=np.zeros(n, np.bool_))
    workload = replace(workload, output_limit=np.full(n, 512))
    tree = pool_tree(workload, sort_prompts(workload))
    rng = np.random.default_rng(0)
    lengths = expect_lengths(workload, tree, 0.01, rng, guess=guess)
    drawn = draw(workload, tree, lengths, rng)
    assert drawn.max() <= 512
    assert abs(drawn.mean() / min(guess, 512) - 1) < 0.03
