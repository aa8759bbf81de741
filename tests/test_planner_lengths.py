"""What planning may know of output lengths: the sample, the estimates, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import estimates, group_of
from strategies import workloads

from blendsim.planner import lengths as lengths_module
from blendsim.planner.cut_lengths import SourceLengths, as_limits
from blendsim.planner.lengths import (
    PRIOR_OUTPUT,
    PRIOR_SHARE,
    Lengths,
    choose_sample,
    estimate,
    expect_lengths,
)
from blendsim.planner.tree import pool_tree
from blendsim.prefix import sort_prompts
from blendsim.request import Prompts, Workload, from_lengths, pool


def expect(
    workload: Workload, share: float, seed: int = 0, least: int = 32, guess: int | None = None
) -> Lengths:
    tree = pool_tree(workload, sort_prompts(workload))
    return expect_lengths(workload, tree, share, np.random.default_rng(seed), least, guess=guess)


def two_sources(first: int, second: int) -> Workload:
    """`first` requests that answer 10 tokens and `second` that answer 1,000."""
    return pool(
        [
            from_lengths([50] * first, [10] * first, source="short"),
            from_lengths([50] * second, [1000] * second, source="long"),
        ]
    )


def test_each_source_gives_its_share_and_at_least_32() -> None:
    workload = two_sources(10_000, 20)
    found = expect(workload, 0.01)
    assert np.bincount(workload.source[found.is_sampled]).tolist() == [100, 20]


def test_small_sources_are_sampled_to_32() -> None:
    found = expect(two_sources(500, 40), 0.01)
    assert found.is_sampled.sum() == 64


def test_known_requests_are_not_sampled() -> None:
    workload = pool(
        [from_lengths([5] * 40, [2] * 40, is_known=True), from_lengths([5] * 40, [2] * 40)]
    )
    found = expect(workload, 0.5)
    assert not found.is_sampled[:40].any()
    assert found.is_visible[:40].all()


def test_all_lengths_are_known_at_a_share_of_one() -> None:
    workload = two_sources(10, 10)
    found = expect(workload, 1.0)
    assert not found.is_sampled.any()
    assert found.is_visible.all()
    assert found.expected.tolist() == workload.output_len.tolist()


def test_requests_without_a_length_cannot_be_sampled() -> None:
    workload = without_outputs(two_sources(100, 40), np.arange(140) >= 100)
    found = expect(workload, 0.5)
    assert not found.is_sampled[100:].any()
    assert found.is_sampled.sum() == 50


def without_outputs(workload: Workload, rows: np.ndarray) -> Workload:
    return replace(
        workload,
        has_output=workload.has_output & ~rows,
        output_len=np.where(rows, 0, workload.output_len),
        is_known=workload.is_known & ~rows,
    )


def test_unsampled_requests_take_their_own_source_s_mean() -> None:
    workload = two_sources(500, 500)
    found = expect(workload, 0.1)
    assert found.expected.tolist() == [10] * 500 + [1000] * 500
    assert found.notes == ()


def test_a_subtree_without_a_sample_takes_its_nearest_sibling_s_mean() -> None:
    # prompts 0-1 begin with 1 2, prompts 2-3 with 1 3, prompt 4 with 9
    tokens = [[1, 2, 5], [1, 2, 6], [1, 3, 5], [1, 3, 6], [9, 9, 9]]
    prompts = Prompts(
        np.arange(0, 18, 3),
        np.array(tokens, np.int32).ravel(),
        np.zeros(5, np.int32),
        np.ones(1, np.int32),
        ("tokens",),
    )
    workload = from_lengths([3] * 5, [7, 99, 99, 99, 40], prompts=prompts)
    tree = pool_tree(workload, sort_prompts(workload))
    visible = np.array([True, False, False, False, True])
    assert estimate(workload, tree, visible).expected.tolist() == [7, 7, 7, 7, 40]


def test_known_videos_say_nothing_about_chats() -> None:
    workload = pool(
        [
            from_lengths([5] * 9, [16_000] * 9, source="video", is_known=True),
            without_outputs(from_lengths([5] * 9, [3] * 9, source="chat"), np.ones(9, np.bool_)),
        ]
    )
    found = expect(workload, 0.5)
    assert found.expected[9:].tolist() == [PRIOR_OUTPUT] * 9
    assert "guess" in found.notes[0]


def test_the_prior_is_a_share_of_max_tokens() -> None:
    bare = without_outputs(from_lengths([5, 5, 5], [1, 1, 1]), np.ones(3, np.bool_))
    workload = replace(bare, output_limit=np.array([1000, 2, 0]))
    found = expect(workload, 0.5)
    assert found.expected.tolist() == [int(1000 * PRIOR_SHARE), 1, PRIOR_OUTPUT]
    assert found.notes[0].startswith("3 requests have no output length")


def test_a_guess_that_is_given_takes_the_place_of_the_prior_and_of_others_means() -> None:
    bare = without_outputs(from_lengths([5, 5, 5], [1, 1, 1]), np.ones(3, np.bool_))
    workload = replace(bare, output_limit=np.array([1000, 2, 0]))
    found = expect(workload, 0.5, guess=40)
    assert found.expected[1] == 2
    assert abs(found.expected.mean() - 40) <= 0.5  # rounded
    assert abs(found.expected[2] - found.expected[0]) <= 1
    assert found.notes == (
        "3 requests have no output length to learn from: 40 tokens are expected, as was asked for, "
        "in the mean of what max_tokens leave",
    )
    short = replace(bare, output_limit=np.array([7, 2, 39]))
    assert expect(short, 0.5, guess=40).expected.tolist() == [7, 2, 39]
    half = without_outputs(two_sources(100, 40), np.arange(140) >= 100)
    assert expect(half, 0.5, guess=77).expected.tolist() == [10] * 100 + [77] * 40


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ((39, 39), ", or max_tokens where that is less"),
        ((1, 0), ", in the mean of what max_tokens leave"),
        ((41, 0), ", in the mean of what max_tokens leave"),
        ((40, 40), ""),
        ((900, 900), ""),
        ((0, 0), ""),
    ],
)
def test_a_guess_is_said_to_be_cut_where_max_tokens_cut_it(
    limits: tuple[int, int], told: str
) -> None:
    bare = without_outputs(from_lengths([5, 5], [1, 1]), np.ones(2, np.bool_))
    found = expect(replace(bare, output_limit=np.array(limits)), 0.5, guess=40)
    assert found.notes[0].endswith(f"40 tokens are expected, as was asked for{told}")


def test_guesses_are_told_for_one_request_and_for_thousands() -> None:
    bare = without_outputs(from_lengths([5] * 1_200, [1] * 1_200), np.ones(1_200, np.bool_))
    assert expect(bare, 0.5).notes[0].startswith("1,200 requests have no output length to learn")
    alone = without_outputs(from_lengths([5], [1]), np.ones(1, np.bool_))
    assert expect(alone, 0.5).notes[0].startswith("1 request has no output length to learn")
    beside = without_outputs(two_sources(100, 1), np.arange(101) == 100)
    assert expect(beside, 0.5).notes[0].startswith("1 request of sources without a visible output")
    assert " is expected to answer as" in expect(beside, 0.5).notes[0]


def test_a_source_without_lengths_takes_the_other_samples_mean() -> None:
    workload = without_outputs(two_sources(100, 40), np.arange(140) >= 100)
    found = expect(workload, 0.5)
    assert found.expected[100:].tolist() == [10] * 40
    assert found.notes[0].startswith("40 requests of sources without")


def test_an_estimate_never_exceeds_max_tokens() -> None:
    workload = two_sources(100, 100)
    capped = replace(workload, output_limit=np.full(200, 64))
    found = expect(capped, 0.2)
    assert found.expected[~found.is_visible].max() == 64


def under_limits(workload: Workload, is_visible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the lengths seen as if all had had the highest limit of their group's others, and what
    the limit of each request leaves of a mean under that (tests/test_lengths_cut.py).
    """
    value, share = workload.output_len.astype(np.float64), np.ones(len(workload))
    limit = as_limits(workload.output_limit)
    group = np.array(group_of(workload))
    is_limit = workload.is_known & (workload.output_len == limit)
    limit_seen = np.where(workload.is_known, np.inf, limit)
    for each in set(group.tolist()):
        seen = np.flatnonzero((group == each) & is_visible & ~is_limit)
        sampled = seen[~workload.is_known[seen]]
        seen = sampled if len(sampled) else seen
        unseen = np.flatnonzero((group == each) & ~is_visible)
        if not len(seen) or not len(unseen):
            continue
        most = limit[unseen].max()
        lengths = SourceLengths.of(value[seen], limit_seen[seen], np.ones(len(seen)))
        share[unseen] = lengths.mean_below(limit[unseen]) / lengths.mean_below(np.array([most]))
        for row in seen:
            goes_on = limit_seen[row] <= value[row] < most
            told = lengths.mean_of_longer(value[[row]], most)[0]
            value[row] = told if goes_on else min(value[row], most)
    return value, share


@given(workloads(), st.data())
@settings(deadline=None)
def test_estimates_are_means_of_the_nearest_prompts(
    workload: Workload, data: st.DataObject
) -> None:
    n = len(workload)
    asked = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    is_visible = workload.is_known | (asked & workload.has_output)
    tree = pool_tree(workload, sort_prompts(workload))
    found = estimate(workload, tree, is_visible).expected
    uncut, share = under_limits(workload, is_visible)
    for row, value in enumerate(estimates(workload, is_visible, uncut)):
        if value is None:
            continue
        limit = int(workload.output_limit[row])
        if not is_visible[row]:
            value = min(value * share[row], limit or np.inf)
        assert found[row] == pytest.approx(max(value, 1.0), abs=0.5 + 1e-9)


@given(workloads(), st.sampled_from((0.0, 0.3, 0.9)), st.integers(0, 3))
@settings(deadline=None)
def test_unsampled_lengths_do_not_change_what_is_expected(
    workload: Workload, share: float, seed: int
) -> None:
    found = expect(workload, share, seed, least=2)
    hidden = workload.has_output & ~found.is_visible
    other = replace(workload, output_len=np.where(hidden, 77_777, workload.output_len))
    again = expect(other, share, seed, least=2)
    for one, two in zip(found, again, strict=True):
        assert np.array_equal(one, two)


@given(workloads(), st.sampled_from((0.0, 0.2, 0.5, 1.0)), st.integers(0, 5))
@settings(deadline=None)
def test_a_sample_holds_as_many_of_each_group_as_asked(
    workload: Workload, share: float, least: int
) -> None:
    group = workload.source
    chosen = choose_sample(workload, group, share, np.random.default_rng(1), least)
    candidates = workload.has_output & ~workload.is_known
    assert not (chosen & ~candidates).any()
    for source in set(group.tolist()):
        size = int((candidates & (group == source)).sum())
        asked = max(int(np.ceil(share * size)), min(least, size)) if 0 < share < 1 else 0
        assert (chosen & (group == source)).sum() == asked


def test_every_unknown_request_is_equally_likely_to_be_sampled() -> None:
    workload = from_lengths([5] * 100, [1] * 100)
    rng = np.random.default_rng(0)
    group = np.zeros(100, np.int32)
    counts = sum(choose_sample(workload, group, 0.4, rng).astype(int) for _ in range(500))
    assert abs(counts - 200).max() < 60  # 5.5 standard deviations


def test_the_plain_twin_finds_the_same_means() -> None:
    arguments = (
        np.array([-1, 0, 1, 1, 0]),
        np.array([0, 0, 0, 2, 4]),
        np.array([6, 4, 2, 4, 6]),
        np.array([0.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0]),
        np.array([0.0, 3.0, 8.0, 8.0, 8.0, 8.0, 8.0]),
    )
    expected = [np.nan, 4.0, 4.0, 4.0, np.nan]
    for twin in (lengths_module._deepest_means, lengths_module._deepest_means.py_func):
        np.testing.assert_array_equal(twin(*arguments), expected)
