"""A limit that a system meets in one world may be missed in others: what is rented meets it in
nearly all that the sample allows.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_search import mixed_pool

from blendsim import search
from blendsim.plan import write_plan
from blendsim.planner import outlook
from blendsim.report.rental import Goal, RentalRow, rental_table
from blendsim.report.rental_advice import limits_missed, rental_advice
from blendsim.request import Workload, from_lengths
from blendsim.search import budgets, problem
from blendsim.search.judging import JUDGING_WORLDS
from blendsim.search.prices import Offer, Prices
from blendsim.search.problem import moved, with_worlds
from blendsim.search.rental import Rental, find_candidates, rent
from blendsim.search.spread import Spread, spread
from blendsim.search.trial import engine_of
from blendsim.settings import Settings

ASKED = Settings(planner="dfs", sample=0.1)
PRICES_OF_H200 = Prices("EUR", (Offer("h200", 3_600.0),), Path("prices.toml"))
PRICES = Prices("EUR", (Offer("a100-80g", 3_600.0),), Path("prices.toml"))  # one a GPU-second


@cache
def sampled_pool() -> Workload:
    return mixed_pool(np.random.default_rng(0), 150)


@cache
def rented(goal: Goal, settings: Settings = ASKED) -> Rental:
    """Of one replica, which costs less, and two, which are faster."""
    return rent(sampled_pool(), find_candidates(settings, ["a100-80g"], [1], [1, 2]), goal, PRICES)


@cache
def alone(dp: int) -> tuple[float, Spread]:
    """Predicted seconds on so many replicas, and the range, as `plan` tells them."""
    scene = search.prepare(sampled_pool(), replace(ASKED, dp=dp))
    choice = search.choose_for(scene)
    return choice.chosen.predicted_seconds, spread(
        scene, choice.plan, engine_of(scene, choice.chosen)
    )


def missed_in(dp: int, count: int) -> float:
    """Seconds above which the plan on so many replicas takes in `count` of its worlds, and in which
    it ends by prediction.
    """
    predicted, found = alone(dp)
    low, high = found.seconds[-count - 1], found.seconds[-count]
    assert predicted < high, "or this says nothing"
    return (max(predicted, low) + high) / 2


def systems(rental: Rental) -> list[int]:
    return [row.dp for row in rental.rows]


def test_the_cheapest_that_meets_the_deadline_in_nearly_all_worlds_is_chosen() -> None:
    deadline = missed_in(dp=1, count=3)
    rental = rented(Goal(deadline, currency="EUR"))
    assert rental.chosen is rental.rows[0]
    assert systems(rental) == [2, 1]
    cheaper = rental.rows[1]
    assert cheaper.misses == ()
    assert cheaper.is_doubtful
    assert cheaper.misses_in == {"deadline": 3}
    assert cheaper.worlds == tuple(alone(1)[1].seconds)
    assert rental.chosen.worlds == tuple(rental.spread.seconds) == tuple(alone(2)[1].seconds)
    assert rental.chosen.misses_in == {}
    assert rental.chosen.cost is not None
    assert cheaper.cost is not None
    assert cheaper.cost < rental.chosen.cost


def test_its_plan_is_the_one_made_for_that_system_alone(tmp_path: Path) -> None:
    for at, goal in enumerate(
        (
            Goal(missed_in(dp=1, count=3), currency="EUR"),
            Goal(missed_in(dp=1, count=3), 2 * missed_in(dp=2, count=4), "EUR"),
        )
    ):
        rental = rented(goal)
        assert rental.chosen is not None
        assert rental.plan is not None
        assert rental.chosen.dp == (2, 1)[at], "the last one that was run, and the first one"
        write_plan(rental.plan, tmp_path / "a")
        settings = replace(ASKED, dp=rental.chosen.dp)
        write_plan(search.choose(sampled_pool(), settings).plan, tmp_path / "b")
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_one_world_of_eight_is_spared() -> None:
    rental = rented(Goal(missed_in(dp=1, count=1), currency="EUR"))
    assert systems(rental) == [1, 2]
    assert rental.rows[0].misses_in == {"deadline": 1}
    assert not rental.rows[0].is_doubtful


def test_who_is_behind_the_chosen_one_is_not_run_in_worlds() -> None:
    for goal in (Goal(currency="EUR"), Goal(9_999.0, currency="EUR")):
        rental = rented(goal)
        assert rental.rows[0].worlds == tuple(alone(1)[1].seconds)
        assert [row.worlds for row in rental.rows[1:]] == [None]
        assert rental.rows[0].misses_in == {}


@pytest.mark.parametrize(("missed", "order"), [(2, [2, 1]), (4, [1, 2])])
def test_where_none_is_reliable_the_one_that_misses_least_often_is_chosen(
    missed: int, order: list[int]
) -> None:
    """One replica is late in three worlds, two cost too much in some."""
    money = 2 * missed_in(dp=2, count=missed)
    goal = Goal(missed_in(dp=1, count=3), money, "EUR")
    rental = rented(goal)
    assert systems(rental) == order
    assert {row.dp: row.misses_in for row in rental.rows} == {
        1: {"deadline": 3},
        2: {"cost": missed},
    }
    chosen = rental.chosen
    assert chosen is rental.rows[0]
    assert rental.plan is not None
    assert len(set(rental.plan.rank.tolist())) == chosen.dp
    told = rental_advice(rental.rows, chosen, goal)
    least = min(missed, 3)
    assert told[0].startswith(
        f"No system meets what is asked reliably. {chosen.system} with dfs is chosen: it meets "
        f"what is asked by prediction, as 2 do, and misses it in {least} of 8 possible worlds, "
        "fewer than any other. Predicted: "
    )
    assert "Next is" not in told[0]
    limit = "the cost limit of " if chosen.dp == 2 else "the deadline of "
    assert [(name[: len(limit)], n) for name, n in limits_missed(chosen, goal).items()] == [
        (limit, least)
    ]


def test_where_all_lengths_are_known_the_prediction_decides() -> None:
    free = rented(Goal(currency="EUR"), replace(ASKED, sample=1.0))
    predicted = free.rows[0].row.predicted_seconds
    rental = rented(Goal(predicted, currency="EUR"), replace(ASKED, sample=1.0))
    assert systems(rental) == [1, 2]
    assert rental.rows[0].worlds == ()
    assert rental.spread.seconds == []


def test_pools_of_prefill_and_decode_replicas_go_by_prediction() -> None:
    settings = replace(ASKED, topology="1P1D")
    rental = rent(sampled_pool(), find_candidates(settings, ["a100-80g"], [1], [1]), Goal(9_999.0))
    assert rental.chosen is not None
    assert rental.chosen.worlds == ()


def test_prompts_are_sorted_and_worlds_drawn_once_for_all_systems(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    goal = Goal(missed_in(dp=1, count=3))  # which prepares the pool for itself
    places = dict.fromkeys(("sort_pool", "look_ahead", "possible_worlds"), problem)
    places |= dict.fromkeys(("sort_prompts", "pool_tree"), outlook)
    counted = dict.fromkeys(places, 0)

    def counting(name: str) -> Any:
        inner = getattr(places[name], name)

        def call(*args: Any) -> Any:
            counted[name] += 1
            return inner(*args)

        return call

    for name, place in places.items():
        monkeypatch.setattr(place, name, counting(name))
    asked = replace(ASKED, planner="auto")
    candidates = find_candidates(asked, ["a100-80g", "h200"], [1], [1, 2])
    rental = rent(sampled_pool(), candidates, goal)
    assert sum(row.worlds is not None for row in rental.rows) >= 1
    assert counted == dict.fromkeys(counted, 1)


def test_worlds_that_a_problem_has_are_the_first_of_more_and_not_drawn_again() -> None:
    bare = search.prepare(sampled_pool(), ASKED)
    few, many = with_worlds(bare, 3), with_worlds(bare, budgets.CHOOSING_WORLDS + JUDGING_WORLDS)
    for one, other in zip(few.worlds, many.worlds, strict=False):
        assert np.array_equal(one, other)
    assert (
        len({world.tobytes() for world in many.worlds}) == budgets.CHOOSING_WORLDS + JUDGING_WORLDS
    )
    assert with_worlds(many, 3) is many
    assert len(with_worlds(few, 5).worlds) == 5


@pytest.mark.parametrize("guess", [None, 15_000])
def test_worlds_of_a_pool_moved_to_another_system_are_those_drawn_there(guess: int | None) -> None:
    """Also where nothing is known of requests whose guess does not fit."""
    unknown = replace(
        sampled_pool(),
        output_len=np.where(sampled_pool().source == 0, 0, sampled_pool().output_len),
        has_output=sampled_pool().source != 0,
    )
    roomy = replace(ASKED, gpu="h200", output_guess=guess)
    tight = replace(ASKED, kv_bytes=2_000_000_000, output_guess=guess)
    there = with_worlds(search.prepare(unknown, tight), 3)
    first = with_worlds(search.prepare(unknown, roomy), 3)
    came = moved(first, tight)
    is_cut = not np.array_equal(came.lengths.expected, first.lengths.expected)
    assert is_cut == (guess is not None)
    assert not np.array_equal(first.worlds, there.worlds), "some answer is cut"
    assert np.array_equal(with_worlds(came, 3).worlds, there.worlds)


def test_worlds_are_about_what_is_predicted_where_a_guess_does_not_fit() -> None:
    blind = from_lengths([100] * 4_000, [1] * 4_000)
    blind = replace(blind, has_output=np.zeros(4_000, np.bool_), output_len=blind.source * 0)
    settings = replace(ASKED, kv_bytes=600_000_000, output_guess=15_000)
    problem = with_worlds(search.prepare(blind, settings), 12)
    room = settings.system.longest_request - 100
    assert problem.lengths.expected.max() == room < 5_000
    means = [world.mean() for world in problem.worlds]
    # An exponential of mean θ that is cut at the room has the mean θ·(1 − exp(−room/θ)).
    likely = 15_000 * -np.expm1(-room / 15_000)
    assert problem.drawn.mean() == pytest.approx(likely, rel=0.02)
    assert np.median(means) == pytest.approx(likely, rel=0.1), "and their doubt is about it"


def a_row(gpu: str, misses_in: dict[str, int], **given: Any) -> RentalRow:
    """A row of the table that was run in eight worlds."""
    row = rented(Goal(currency="EUR")).rows[0]
    return replace(row, gpu=gpu, misses_in=misses_in, worlds=(1.0,) * 8, **given)


@pytest.mark.parametrize("goal", [Goal(9.0, currency="EUR"), Goal(None, 9.0, "EUR"), Goal(9.0)])
def test_what_was_passed_over_is_told_with_how_often_it_misses(goal: Goal) -> None:
    rows = [a_row("a", {"deadline": 1}), a_row("b", {"deadline": 3})]
    told = rental_advice(rows, rows[0], goal)
    assert "it is the only one that meets what is asked." in told[0]
    assert "is chosen: it meets what is asked." in rental_advice(rows[:1], rows[0], goal)[0]
    assert told[1] == (
        "b tp 1 dp 1 would come before it by prediction, but misses what is asked in 3 of 8 "
        "possible worlds."
    )
    rows.append(a_row("c", {"deadline": 2, "cost": 5}))
    assert rental_advice(rows, rows[0], goal)[1] == (
        "2 others would come before it by prediction, but miss what is asked in 3 to 5 of 8 "
        "possible worlds."
    )
    assert not any("by prediction" in line for line in rental_advice(rows[:1], rows[0], goal))


def test_the_table_shows_in_how_many_worlds_a_doubtful_row_misses() -> None:
    rows = [
        a_row("a", {"deadline": 1}),
        a_row("b", {"deadline": 3, "cost": 2}),
        a_row("c", {"deadline": 4}, misses=("deadline",)),
    ]
    lines = rental_table(rows, rows[0], Goal(9.0, 9.0, "EUR"), 140)
    ends = [line.rstrip().split("  ")[-1].strip() for line in lines[-3:]]
    assert ends == ["–", "deadline 3/8, cost 2/8", "deadline"]


def test_the_only_one_by_prediction_is_told_as_that() -> None:
    rows = [a_row("a", {"deadline": 3}), a_row("b", {}, misses=("deadline",))]
    told = rental_advice(rows, rows[0], Goal(9.0))
    assert (
        "is the only one that meets what is asked by prediction, and misses it in 3 of 8" in told[0]
    )
    rows = [a_row("a", {"deadline": 3}), a_row("b", {"deadline": 3})]
    told = rental_advice(rows, rows[0], Goal(9.0))
    assert "as 2 do, and misses it in 3 of 8 possible worlds, no more than any other" in told[0]
    rows[1] = a_row("b", {"deadline": 4})
    assert "3 of 8 possible worlds, fewer than any" in rental_advice(rows, rows[0], Goal(9.0))[0]


def test_formats_of_one_gpu_are_tried_one_after_the_other() -> None:
    """The first meets the deadline by luck, so that the other is tried, too."""
    asked = replace(ASKED, gpu="h200")
    found = {}
    for name in ("none", "fp8"):
        scene = search.prepare(sampled_pool(), replace(asked, quantization=name))
        choice = search.choose_for(scene)
        worlds = spread(scene, choice.plan, engine_of(scene, choice.chosen)).seconds
        found[name] = (choice.chosen.predicted_seconds, worlds)
    predicted, worlds = found["none"]
    assert predicted < worlds[-3], "or this says nothing"
    deadline = (max(predicted, worlds[-4]) + worlds[-3]) / 2
    assert found["fp8"][0] < deadline
    candidates = find_candidates(asked, ["h200"], [1], [1], ["none", "fp8"])
    rental = rent(sampled_pool(), candidates, Goal(deadline, currency="EUR"), PRICES_OF_H200)
    assert len(rental.rows) == 2
    assert rental.chosen is rental.rows[0]
