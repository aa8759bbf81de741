"""Planning in two stages: whom to answer first, and what that says of the others."""

from dataclasses import replace

import numpy as np

from blendsim import search
from blendsim.request import Workload, from_lengths, pool
from blendsim.search.budgets import TIE

SETTINGS = search.Settings(engine="sequential")


def two_kinds() -> Workload:
    """400 requests of each of two sources, with no length known."""
    one, other = (
        from_lengths([20 + k % 7 for k in range(400)], [1] * 400, source=name)
        for name in ("short", "long")
    )
    both = pool([one, other])
    n = len(both)
    nothing = np.zeros(n, np.int64)
    return replace(both, output_len=nothing, has_output=nothing > 0, output_limit=nothing + 5_000)


def test_a_share_of_every_source_is_answered_first_and_the_same_whenever_asked() -> None:
    workload = two_kinds()
    first = search.first_stage(workload, 0.1, 3)
    assert np.bincount(workload.source[first]).tolist() == [40, 40]
    assert np.array_equal(first, search.first_stage(workload, 0.1, 3))
    assert not np.array_equal(first, search.first_stage(workload, 0.1, 4))


def test_the_rest_is_expected_to_answer_as_its_kind_did() -> None:
    workload = two_kinds()
    first = search.first_stage(workload, 0.1, 0)
    rest = np.flatnonzero(~first)[::-1]
    answered = np.where(workload.source == 0, 10, 1_000)
    problem = search.prepare_rest(workload, SETTINGS, rest, first, answered)
    assert problem.lengths.expected.tolist() == answered[rest].tolist()
    assert problem.drawn.tolist() == answered[rest].tolist()
    assert problem.workload.ids.tolist() == workload.ids[rest].tolist()
    assert problem.workload.prompt_len.tolist() == workload.prompt_len[rest].tolist()
    assert not problem.lengths.is_visible.any()
    assert not problem.lengths.is_sampled.any()
    assert not problem.workload.has_output.any()


def test_worlds_are_as_varied_as_the_sample() -> None:
    workload = two_kinds()
    first = search.first_stage(workload, 0.1, 0)
    answered = np.where(np.arange(len(workload)) % 2, 10, 30)
    rest = np.flatnonzero(~first)
    problem = search.prepare_rest(workload, SETTINGS, rest, first, answered)
    assert set(problem.drawn.tolist()) == {10, 30}
    assert 10 < problem.lengths.expected.min() <= problem.lengths.expected.max() < 30


def test_with_nothing_answered_lengths_are_a_guess_that_is_told() -> None:
    workload = two_kinds()
    nobody = np.zeros(len(workload), np.bool_)
    rows = np.arange(20)
    problem = search.prepare_rest(workload, SETTINGS, rows, nobody, 0 * workload.prompt_len)
    assert set(problem.lengths.expected.tolist()) == {1_250}
    assert "it is a guess" in problem.lengths.notes[0]


def test_the_rest_is_planned_and_chosen_like_any_pool() -> None:
    workload = two_kinds()
    first = search.first_stage(workload, 0.1, 0)
    rest = np.flatnonzero(~first)
    answered = np.where(workload.source == 0, 10, 1_000)
    choice = search.choose_for(search.prepare_rest(workload, SETTINGS, rest, first, answered))
    assert sorted(choice.plan.order.tolist()) == list(range(len(rest)))
    assert not choice.plan.is_first.any()
    least = min(row.predicted_seconds for row in choice.rows)
    assert least <= choice.chosen.predicted_seconds <= least * (1 + TIE)
