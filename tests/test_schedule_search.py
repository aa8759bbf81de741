"""Searching a schedule: never behind a fixed policy, honest about lengths, repeatable."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_search import mixed_pool

from blendsim import cores, search
from blendsim.cli.searching import effort_told
from blendsim.errors import InputError
from blendsim.plan import Plan, write_plan
from blendsim.planner.make import OVERLAPPED
from blendsim.request import Workload
from blendsim.search import evaluation, judging
from blendsim.search.judging import JUDGING_WORLDS
from blendsim.search.schedule_search import SEARCHED, Effort, Found
from blendsim.search.schedule_search import search as find
from blendsim.search.sweep import SAMPLING
from blendsim.settings import Settings, remembered

FEW = Effort(evaluations=45)
KNOWN = Settings(sample=1.0)
ORDERS = Settings(sample=1.0, engine="vllm")  # little else to vary


@pytest.fixture(scope="module")
def workload() -> Workload:
    return mixed_pool(np.random.default_rng(4), 150)  # in which a search finds something


@pytest.fixture(scope="module")
def found(workload: Workload) -> Found:
    """With a sample, so in several worlds."""
    return find(workload, Settings(), replace(FEW, is_swept=True))


@pytest.fixture(scope="module")
def known(workload: Workload) -> Found:
    return find(workload, KNOWN, FEW)


def settings_of(plan: Plan) -> Settings:
    return remembered(plan.meta["settings"], "plan")


def same(a: Plan, b: Plan, folder: Path) -> bool:
    """Whether two plans are the same bytes."""
    write_plan(a, folder / "a.parquet")
    write_plan(b, folder / "b.parquet")
    return (folder / "a.parquet").read_bytes() == (folder / "b.parquet").read_bytes()


def test_found_plan_is_not_behind_any_policy_of_auto(workload: Workload, known: Found) -> None:
    rows = search.choose(workload, KNOWN).rows
    assert known.chosen.predicted_seconds <= min(row.predicted_seconds for row in rows)
    policies = rows[: len(OVERLAPPED)]  # behind them one at another token budget, if that pays
    assert known.fixed_seconds == {row.policy: row.predicted_seconds for row in policies}


def test_the_rows_of_a_search_stand_beside_the_same_bounds(workload: Workload) -> None:
    """Of the larger token budget of the two: shares of one bound are as the seconds are."""
    made = find(workload, replace(KNOWN, token_budget=None), FEW)
    fixed, chosen = made.rows
    assert fixed.token_budget != chosen.token_budget, "or this says nothing"
    assert fixed.reachable_seconds == chosen.reachable_seconds
    assert fixed.optimum_seconds == chosen.optimum_seconds
    assert chosen.share_of_reachable == chosen.reachable_seconds / chosen.reported_seconds


def test_found_plan_is_not_behind_a_policy_in_the_worlds_either(found: Found) -> None:
    assert found.worlds == JUDGING_WORLDS
    assert found.fixed_seconds.keys() == set(OVERLAPPED)
    assert found.seconds <= min(found.fixed_seconds.values())


@pytest.mark.parametrize("which", ["found", "known"])
def test_search_gains_on_a_pool_that_has_something_to_gain(
    which: str, request: pytest.FixtureRequest
) -> None:
    made: Found = request.getfixturevalue(which)
    assert made.seconds < min(made.fixed_seconds.values())
    assert [row.policy for row in made.rows][-1] == SEARCHED


def test_simulating_the_found_plan_gives_what_was_predicted(
    workload: Workload, found: Found, known: Found
) -> None:
    for made in (found, known):
        row = search.simulate_plan(workload, made.plan, settings_of(made.plan)).row
        assert row.predicted_seconds == made.plan.meta["predicted_seconds"]
        assert row.predicted_seconds == made.chosen.predicted_seconds
        assert row.seconds == made.chosen.seconds
    assert known.chosen.predicted_seconds == known.seconds == known.leaderboard[0].seconds


def test_plan_tells_how_it_was_found(found: Found) -> None:
    told = found.plan.meta["search"]
    assert told["evaluations"] == found.tally.evaluations == 45
    assert told["worlds"] == JUDGING_WORLDS
    chosen = next(entry for entry in found.leaderboard if entry.seconds == found.seconds)
    assert settings_of(found.plan).planner == chosen.values["policy"]
    assert settings_of(found.plan).token_budget == chosen.values["token budget"]


def test_leaderboard_rises(found: Found) -> None:
    seconds = [entry.seconds for entry in found.leaderboard]
    assert seconds == sorted(seconds)
    assert len(seconds) > 10


def test_sensitivities_meet_at_the_chosen_schedule(found: Found) -> None:
    assert len(found.sensitivities) >= 4
    assert SAMPLING not in [each.axis for each in found.sensitivities], "32 are sampled anyway"
    for each in found.sensitivities:
        assert each.seconds[each.chosen] == found.seconds
        assert len(each.seconds) == len(each.labels)
    assert found.tally.swept > 0


def test_unsampled_lengths_do_not_change_a_byte(workload: Workload, tmp_path: Path) -> None:
    first = find(workload, Settings(seed=3), FEW)
    seen = np.zeros(len(workload), np.bool_)
    seen[first.plan.order] = first.plan.is_visible
    assert 0 < seen.sum() < len(workload)
    changed = replace(
        workload, output_len=np.where(seen, workload.output_len, 1 + workload.output_len[::-1] % 97)
    )
    second = find(changed, Settings(seed=3), FEW)
    assert same(first.plan, second.plan, tmp_path)
    assert first.leaderboard == second.leaderboard
    assert first.chosen.seconds != second.chosen.seconds


def test_threads_change_nothing(
    workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = find(workload, Settings(), FEW)
    monkeypatch.setattr(cores, "usable_cores", lambda: 1)
    one = find(workload, Settings(), FEW)
    assert same(many.plan, one.plan, tmp_path)
    assert many.leaderboard == one.leaderboard


def test_what_a_budget_stopped_can_be_repeated_by_its_number(
    workload: Workload, tmp_path: Path
) -> None:
    stopped = find(workload, Settings(), Effort(budget_seconds=0.5))
    assert stopped.tally.evaluations >= 4
    again = find(workload, Settings(), Effort(evaluations=stopped.tally.evaluations))
    assert same(stopped.plan, again.plan, tmp_path)


def test_large_pools_are_tried_in_small_first(
    workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "LEAST_REQUESTS", 30)
    thinned = find(workload, KNOWN, FEW)
    assert thinned.tally.thinned > 0
    assert thinned.tally.whole + thinned.tally.thinned <= 45
    assert min(entry.seconds for entry in thinned.leaderboard) == thinned.chosen.predicted_seconds
    unsure = find(workload, Settings(), FEW)
    assert unsure.tally.thinned > thinned.tally.thinned, "in several worlds"
    assert unsure.seconds <= min(unsure.fixed_seconds.values())


def test_equal_plans_are_simulated_once(known: Found) -> None:
    assert known.tally.whole < known.tally.evaluations


def test_what_chance_may_give_is_not_taken(
    workload: Workload, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "SURE", 1e9)
    kept = find(workload, Settings(), FEW)
    assert not kept.is_searched
    assert kept.chosen.policy == min(kept.fixed_seconds, key=lambda name: kept.fixed_seconds[name])
    assert kept.leaderboard == found.leaderboard


def test_what_gains_in_other_worlds_only_by_luck_is_not_taken(
    workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the worlds to confirm it in, what was found takes as long as the policy."""
    monkeypatch.setattr(
        evaluation.Evaluator, "logs_in", lambda self, points, worlds: [np.zeros(len(worlds))] * 2
    )
    kept = find(workload, Settings(), FEW)
    assert not kept.is_searched
    assert not kept.leaderboard[0].is_fixed


def test_fewer_evaluations_are_the_first_of_more(workload: Workload) -> None:
    """Whoever is given up, whichever batch is cut."""
    more = {(str(e.values), e.seconds) for e in find(workload, Settings(), FEW).leaderboard}
    for count in (23, 31):
        less = find(workload, Settings(), Effort(evaluations=count)).leaderboard
        assert {(str(e.values), e.seconds) for e in less} <= more


def test_without_worlds_the_drawn_lengths_decide(workload: Workload) -> None:
    plain = find(workload, Settings(), replace(FEW, worlds=0))
    rows = search.choose(workload, Settings()).rows
    assert plain.fixed_seconds == {row.policy: row.predicted_seconds for row in rows}
    assert plain.worlds == 0


def test_sweep_that_sees_something_faster_says_so(workload: Workload, found: Found) -> None:
    swept = find(workload, KNOWN, replace(FEW, evaluations=20, is_swept=True))
    seen = min(min(each.seconds) for each in swept.sensitivities if each.axis != SAMPLING)
    is_missed = any("a longer search may take it" in note for note in swept.notes)
    assert is_missed == (seen < swept.seconds)
    assert not any("may take it" in note for note in found.notes), "it may be chance"


def test_larger_samples_are_tried_in_the_same_world() -> None:
    """A quarter and half of the share would sample as many: 32 of either source."""
    large = mixed_pool(np.random.default_rng(4), 4_000)
    found = find(large, Settings(engine="vllm"), Effort(evaluations=4, is_swept=True))
    samples = found.sensitivities[-1]
    assert samples.axis == SAMPLING
    assert samples.labels == ["0.0025", "0.01", "0.02", "0.04"]
    assert samples.chosen == 1
    assert len(set(samples.seconds)) == 4
    assert max(samples.seconds) < 1.5 * found.chosen.predicted_seconds


def test_known_lengths_leave_nothing_to_sample(workload: Workload) -> None:
    known = find(workload, Settings(sample=1.0), Effort(evaluations=4, is_swept=True))
    assert SAMPLING not in [each.axis for each in known.sensitivities]


def test_all_lengths_known_make_prediction_and_simulation_the_same(workload: Workload) -> None:
    known = find(workload, Settings(sample=1.0), Effort(evaluations=25))
    assert known.chosen.seconds == known.chosen.predicted_seconds
    assert known.chosen.regret == 0


@pytest.mark.parametrize("settings", [{"dp": 2}, {"engine": "sglang"}, {"topology": "1P1D"}])
def test_other_clusters_and_engines_are_searched_too(
    workload: Workload, settings: dict[str, object]
) -> None:
    chosen = find(workload, Settings(**settings), Effort(evaluations=8))  # type: ignore[arg-type]
    assert chosen.seconds <= min(chosen.fixed_seconds.values())


def test_progress_says_what_is_best_so_far(workload: Workload) -> None:
    said: list[str] = []
    find(workload, Settings(), Effort(evaluations=20), said.append)
    told = [line for line in said if " evaluations, best " in line]
    assert all(
        re.fullmatch(r"\d+ evaluations, best [\d,.]+ s: .* the best policy", t) for t in told
    )
    counts = [int(line.split()[0]) for line in told]
    assert len(counts) > 1
    assert counts == sorted(set(counts))
    assert counts[-1] == 20


def test_effort_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="--evaluations 0 must be at least 1"):
        Effort(evaluations=0)
    with pytest.raises(InputError, match="--budget 0s must be above 0"):
        Effort(budget_seconds=0)
    for worlds in (-1, 1):
        with pytest.raises(InputError, match="worlds: give 0, or as many as have a spread"):
            Effort(worlds=worlds)


def test_a_search_that_has_nothing_new_to_try_ends_and_says_so() -> None:
    alike = mixed_pool(np.random.default_rng(2), 2)
    few = find(alike, ORDERS, Effort(evaluations=2_000))
    assert few.tally.is_spent
    assert not few.tally.is_cut
    assert few.tally.evaluations < 2_000
    assert "Nothing new was left to try." in effort_told(few)
    asked = find(alike, ORDERS, Effort(evaluations=few.tally.evaluations))
    assert not asked.tally.is_spent, "it ended as it was asked to"
    assert asked.leaderboard == few.leaderboard
