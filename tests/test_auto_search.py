"""`auto` with time to search: all policies and what is found beside them, never behind a policy."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_schedule_search import same, settings_of
from test_search import mixed_pool

from blendsim import search
from blendsim.errors import InputError
from blendsim.planner.make import OVERLAPPED
from blendsim.report.metrics import Row
from blendsim.request import Workload
from blendsim.search.auto_search import Searched, choose_and_search
from blendsim.search.judging import JUDGING_WORLDS
from blendsim.search.schedule_search import SEARCHED, Effort
from blendsim.search.schedule_search import search as find
from blendsim.settings import Settings

FEW = Effort(evaluations=45)
KNOWN = Settings(sample=1.0)
NO_BOUNDS = {
    "optimum_seconds": 0.0,
    "share_of_optimum": 0.0,
    "reachable_seconds": 0.0,
    "share_of_reachable": 0.0,
    "regret": None,
}


@pytest.fixture(scope="module")
def workload() -> Workload:
    return mixed_pool(np.random.default_rng(0), 150)  # in which a search finds something


@pytest.fixture(scope="module")
def done(workload: Workload) -> Searched:
    return choose_and_search(workload, Settings(), FEW)


def without_bounds(row: Row) -> Row:
    return replace(row, **NO_BOUNDS)  # type: ignore[arg-type]


def test_rows_are_all_policies_and_the_searched_schedule(done: Searched) -> None:
    assert [row.policy for row in done.choice.rows] == [*OVERLAPPED, SEARCHED]


def test_policies_are_those_of_auto_without_a_search(workload: Workload, done: Searched) -> None:
    alone = search.choose(workload, Settings()).rows
    policies = done.choice.rows[: len(alone)]
    assert list(map(without_bounds, policies)) == list(map(without_bounds, alone))


def test_choice_is_never_behind_a_policy_by_prediction(workload: Workload, done: Searched) -> None:
    assert done.found.seconds <= min(done.found.fixed_seconds.values())
    chosen = choose_and_search(workload, KNOWN, FEW).choice
    least = min(row.predicted_seconds for row in chosen.rows)
    assert chosen.chosen.predicted_seconds == least
    assert chosen.plan.meta["predicted_seconds"] == least


def test_advice_says_by_how_much_in_how_many_worlds(done: Searched) -> None:
    second = min(done.found.fixed_seconds.values())
    margin = second / done.found.seconds - 1
    assert done.choice.advice[0].startswith(
        f"search is chosen: typically {done.found.seconds:,.1f} s in {JUDGING_WORLDS} worlds that "
        f"the sample allows, {margin:.1%} faster than "
    )


def test_search_goes_on_from_the_race_of_the_policies(workload: Workload, done: Searched) -> None:
    assert done.found.leaderboard == find(workload, Settings(), FEW).leaderboard
    both = choose_and_search(workload, KNOWN, FEW)
    alone = find(workload, KNOWN, FEW)
    assert both.found.leaderboard == alone.leaderboard
    again = alone.tally.whole - both.found.tally.whole
    policies = {row.predicted_seconds for row in both.choice.rows if row.policy != SEARCHED}
    assert again == len(policies), "none run twice"


def test_the_plan_is_the_one_that_search_finds(
    workload: Workload, done: Searched, tmp_path: Path
) -> None:
    assert same(find(workload, Settings(), FEW).plan, done.choice.plan, tmp_path)


def test_simulating_the_plan_gives_what_was_predicted(workload: Workload, done: Searched) -> None:
    row = search.simulate_plan(workload, done.choice.plan, settings_of(done.choice.plan)).row
    assert row.predicted_seconds == done.choice.chosen.predicted_seconds
    assert row.seconds == done.choice.chosen.seconds


def test_all_rows_stand_beside_one_bound(done: Searched) -> None:
    budgets = {row.token_budget for row in done.choice.rows}
    assert len(budgets) > 1, "or this says nothing"
    assert len({row.reachable_seconds for row in done.choice.rows}) == 1
    assert done.choice.bounds.reachable == done.choice.chosen.reachable_seconds
    for row in done.choice.rows:
        assert row.share_of_reachable == row.reachable_seconds / row.reported_seconds <= 1
        assert row.share_of_optimum == row.optimum_seconds / row.reported_seconds <= 1


def test_regret_is_against_every_row(done: Searched) -> None:
    chosen = done.choice.chosen
    least = min(row.reported_seconds for row in done.choice.rows)
    assert chosen.regret == chosen.reported_seconds - least


def test_unsampled_lengths_do_not_change_a_byte(
    workload: Workload, done: Searched, tmp_path: Path
) -> None:
    seen = np.zeros(len(workload), np.bool_)
    seen[done.choice.plan.order] = done.choice.plan.is_visible
    assert 0 < seen.sum() < len(workload)
    other = np.where(seen, workload.output_len, 1 + workload.output_len[::-1] % 97)
    second = choose_and_search(replace(workload, output_len=other), Settings(), FEW)
    assert same(done.choice.plan, second.choice.plan, tmp_path)
    assert done.choice.chosen.seconds != second.choice.chosen.seconds


def test_budget_that_ends_at_once_leaves_the_best_policy(workload: Workload) -> None:
    hurried = choose_and_search(workload, KNOWN, Effort(budget_seconds=1e-9))
    # Beside the policies `choose` tries other budgets, of which nothing was left to search.
    own = KNOWN.flavour().token_budget
    alone = search.choose(workload, replace(KNOWN, token_budget=own))
    assert not hurried.found.is_searched
    assert hurried.found.tally.whole == 0
    assert [row.policy for row in hurried.choice.rows] == list(OVERLAPPED)
    assert hurried.choice.chosen == alone.chosen
    assert np.array_equal(hurried.choice.plan.order, alone.plan.order)


def test_budget_that_ends_at_once_compares_the_policies_in_all_worlds(workload: Workload) -> None:
    found = choose_and_search(workload, Settings(), Effort(budget_seconds=1e-9)).found
    assert not found.is_searched
    assert found.seconds == min(found.fixed_seconds.values())
    assert found.tally.whole > JUDGING_WORLDS, "one policy in all, the others in one at least"


def test_one_policy_is_not_searched_on() -> None:
    with pytest.raises(InputError, match="--planner dfs takes one"):
        choose_and_search(mixed_pool(np.random.default_rng(0), 5), Settings(planner="dfs"), FEW)
