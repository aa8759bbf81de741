"""Judging schedules by several possible worlds: who is given up, who is best, what is chance."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blendsim.arrays import Floats
from blendsim.search.judging import GIVEN_UP, JUDGING_WORLDS, Verdict, judge, sure_gain


class Runs:
    """Seconds by schedule and world, and who asked for them."""

    def __init__(self, seconds: Floats) -> None:
        self.seconds = seconds
        self.asked: list[tuple[int, int]] = []

    def __call__(self, pairs: list[tuple[int, int]]) -> list[float]:
        self.asked += pairs
        return [float(self.seconds[key, world]) for key, world in pairs]

    def judge(self, keys: Sequence[int], best: Floats | None = None) -> Verdict:
        return judge(keys, self.seconds.shape[1], self, best)


def made(seed: int, keys: int = 6, worlds: int = JUDGING_WORLDS) -> Runs:
    """Worlds that differ a lot, schedules that differ little and not everywhere alike."""
    rng = np.random.default_rng(seed)
    of_world = rng.lognormal(5.0, 0.5, worlds)
    of_key = rng.normal(0.0, 0.02, keys)[:, None]
    return Runs(of_world * np.exp(of_key + rng.normal(0.0, 0.01, (keys, worlds))))


@given(st.integers(0, 200))
def test_seconds_are_the_geometric_mean_of_all_worlds(seed: int) -> None:
    runs = made(seed)
    verdict = runs.judge(range(6))
    whole = np.exp(np.log(runs.seconds).mean(axis=1))
    kept = ~np.isnan(verdict.logs).any(axis=1)
    assert kept.any()
    assert np.allclose(np.array(verdict.seconds)[kept], whole[kept])
    assert np.isclose(np.exp(verdict.best.mean()), whole[kept].min())


@given(st.integers(0, 200))
def test_who_is_given_up_is_behind_the_best(seed: int) -> None:
    verdict = made(seed).judge(range(6))
    gone = np.isnan(verdict.logs).any(axis=1)
    assert (np.array(verdict.seconds)[gone] > np.exp(verdict.best.mean())).all()


def test_a_schedule_far_behind_runs_once() -> None:
    runs = Runs(np.outer([100.0, 110.0], np.ones(8)))
    verdict = runs.judge([0, 1])
    assert [world for key, world in runs.asked if key == 1] == [0]
    assert [world for key, world in runs.asked if key == 0] == list(range(8))
    assert verdict.seconds == pytest.approx([100.0, 110.0])


def test_nobody_runs_a_world_twice() -> None:
    runs = made(3)
    runs.judge(range(6))
    assert len(runs.asked) == len(set(runs.asked))


@pytest.mark.parametrize("share", [0.3, 0.45])
def test_a_small_disadvantage_takes_some_worlds_to_add_up(share: float) -> None:
    """It is looked at after one world, after two and after four."""
    behind = np.exp(share * GIVEN_UP)
    runs = Runs(np.outer([100.0, 100.0 * behind], np.ones(8)))
    runs.judge([0, 1])
    assert sum(key == 1 for key, _ in runs.asked) == 4


def test_later_batches_are_held_against_the_best_of_earlier_ones() -> None:
    runs = Runs(np.outer([100.0, 90.0, 95.0], np.ones(8)))
    first = runs.judge([0])
    second = runs.judge([1], first.best)
    assert np.exp(second.best.mean()) == pytest.approx(90.0)
    runs.asked.clear()
    third = runs.judge([2], second.best)
    assert runs.asked == [(2, 0)]
    assert third.seconds == pytest.approx([95.0])
    assert np.array_equal(third.best, second.best)


def test_a_later_schedule_is_held_against_the_best_in_the_same_worlds() -> None:
    """Its first world is the longest: there everybody takes longer than the best in the mean."""
    worlds = np.array([1_000.0] + [10.0] * 7)
    runs = Runs(np.outer([1.0, 0.99, 1.2], worlds))
    first = runs.judge([0])
    runs.asked.clear()
    second = runs.judge([1, 2], first.best)
    typical = 10.0 * 100.0 ** (1 / 8)
    assert second.seconds == pytest.approx([0.99 * typical, 1.2 * typical])
    assert runs.asked == [(1, 0), (2, 0), *((1, k) for k in range(1, 8))]


def test_one_world_is_plain_seconds() -> None:
    assert Runs(np.array([[3.0], [2.0], [7.0]])).judge([0, 1, 2]).seconds == pytest.approx(
        [3.0, 2.0, 7.0]
    )


def test_the_best_world_of_many_does_not_outweigh_the_others() -> None:
    """A schedule that wins much in one long world and loses in all others is not the best."""
    usual = np.full(8, 100.0)
    usual[0] = 1_000.0
    lucky = usual * 1.01
    lucky[0] = 960.0
    assert lucky.mean() < usual.mean()
    seconds = Runs(np.array([usual, lucky])).judge([0, 1]).seconds
    assert seconds[0] < seconds[1]


def test_what_may_be_chance_is_no_sure_gain() -> None:
    usual = np.log(np.full(8, 100.0))
    steady, erratic = usual - 0.01, usual - 0.01 + 0.05 * np.array([1, -1, 1, -1, 1, -1, 1, -1])
    assert sure_gain(usual, steady) == pytest.approx(0.01)
    assert sure_gain(usual, erratic) < 0.0
    assert sure_gain(usual, usual) == 0.0
    assert sure_gain(usual, np.append(steady[:-1], np.nan)) == -np.inf


def test_of_schedules_that_differ_by_chance_one_in_25_gains_surely() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0.0, 0.01, (2_000, JUDGING_WORLDS))
    gains = np.array([sure_gain(np.zeros(JUDGING_WORLDS), each) for each in noise])
    assert 0.03 < (gains > 0.0).mean() < 0.06  # t with 7 degrees of freedom above 2: 4.3 %


def test_who_is_given_up_does_not_depend_on_the_others_of_a_batch() -> None:
    runs = made(5)
    best = runs.judge([0]).best
    together = runs.judge(range(1, 6), best).seconds
    assert together == [runs.judge([key], best).seconds[0] for key in range(1, 6)]


def test_a_sure_gain_is_the_mean_less_two_standard_errors() -> None:
    gains = np.array([0.01, 0.03, 0.02, 0.06])
    error = np.sqrt(((gains - 0.03) ** 2).sum() / 3 / 4)
    assert sure_gain(np.zeros(4), -gains) == pytest.approx(0.03 - 2 * error)
