"""`auto` at another token budget: taken where it gains enough, told, and kept by the plan."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run_json
from test_schedule_search import settings_of

from blendsim import search
from blendsim.perf.measured import IMPORTED
from blendsim.plan import Plan, write_plan
from blendsim.planner.make import OVERLAPPED
from blendsim.report.advice import NEAR
from blendsim.report.rental import Goal
from blendsim.report.tables import policy_labels, policy_table
from blendsim.request import Workload, from_lengths
from blendsim.search import budgets
from blendsim.search.budgets import (
    BUDGETS,
    WORTH,
    Contender,
    better_run,
    other_budgets,
    smaller_budgets,
)
from blendsim.search.choice import Choice
from blendsim.search.problem import Problem
from blendsim.search.rental import find_candidates, rent
from blendsim.serving.flavour import Flavour, find_flavour
from blendsim.serving.knobs import Knobs
from blendsim.settings import Settings
from blendsim.sim.timing import Timed

OWN = find_flavour("nanoflow").token_budget
A100, H200 = Settings(sample=1.0), Settings(sample=1.0, gpu="h200", profile=IMPORTED)


def prompts(n: int = 200) -> Workload:
    """Long prompts and short answers: an A100 prefills them fastest in large steps, and these few
    an H200 in small ones.
    """
    return from_lengths([3_000] * n, [20] * n)


@pytest.fixture(scope="module", params=[A100, H200], ids=["larger", "smaller"])
def settings(request: pytest.FixtureRequest) -> Settings:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def choice(settings: Settings) -> Choice:
    return search.choose(prompts(), settings)


def at(workload: Workload, settings: Settings, policy: str, budget: int) -> float:
    """Predicted seconds of the policy where that token budget is asked for."""
    asked = replace(settings, planner=policy, token_budget=budget)
    return search.choose(workload, asked).chosen.predicted_seconds


def test_the_best_policy_takes_the_budget_that_is_best_for_it(
    settings: Settings, choice: Choice
) -> None:
    chosen = choice.chosen
    seconds = {n: at(prompts(), settings, chosen.policy, n) for n in BUDGETS}
    assert chosen.token_budget == min(seconds, key=lambda n: seconds[n]) != OWN
    assert chosen.predicted_seconds == seconds[chosen.token_budget] < (1 - WORTH) * seconds[OWN]


def test_the_chosen_row_comes_behind_those_of_the_race(choice: Choice) -> None:
    race = choice.rows[:-1]
    assert [row.policy for row in race] == list(OVERLAPPED)
    assert {row.token_budget for row in race} == {OWN}
    assert choice.rows[-1] is choice.chosen
    least = min(row.predicted_seconds for row in race)
    alike = {row.policy for row in race if row.predicted_seconds == least}
    assert choice.chosen.policy in alike


def test_rows_stand_beside_the_bounds_of_the_largest_budget(
    settings: Settings, choice: Choice
) -> None:
    most = max(row.token_budget for row in choice.rows)
    asked = replace(settings, planner="dfs", token_budget=most)
    assert choice.bounds == search.choose(prompts(), asked).bounds
    for row in choice.rows:
        assert row.reachable_seconds == choice.bounds.reachable
        assert row.share_of_reachable == row.reachable_seconds / row.reported_seconds <= 1
        assert row.share_of_optimum == row.optimum_seconds / row.reported_seconds <= 1


def test_shares_are_of_the_run_that_is_reported_where_few_lengths_are_given() -> None:
    """Its seconds are those of the lengths that are given, drawn ones for the others."""
    workload = from_lengths([3_000] * 200, [5 + k % 30 for k in range(200)])
    partly = replace(workload, has_output=np.arange(200) % 2 == 0)
    choice = search.choose(partly, Settings(sample=0.1))
    assert len(choice.rows) == len(OVERLAPPED) + 1
    assert any("on the 100 output lengths that are given and" in note for note in choice.notes)
    for row in choice.rows:
        assert row.seconds == row.reported_seconds != row.predicted_seconds
        assert row.optimum_seconds == pytest.approx(row.share_of_optimum * row.seconds)
        tokens = row.tokens_per_second * row.reachable_seconds / row.share_of_reachable
        assert tokens == pytest.approx(tokens_of(choice))
        assert row.share_of_reachable <= 1


def tokens_of(choice: Choice) -> float:
    """Tokens of the chosen run, which ends with its log."""
    end = float((choice.log.time("start") + choice.log.time("seconds")).max())
    return choice.chosen.tokens_per_second * end


def test_the_plan_names_its_budget_and_runs_as_predicted(
    settings: Settings, choice: Choice
) -> None:
    kept = settings_of(choice.plan)
    assert kept == replace(settings, token_budget=choice.chosen.token_budget)
    assert choice.plan.meta["predicted_seconds"] == choice.chosen.predicted_seconds
    row = search.simulate_plan(prompts(), choice.plan, kept).row
    assert row.predicted_seconds == choice.chosen.predicted_seconds
    assert row.seconds == choice.chosen.seconds
    assert row.token_budget == choice.chosen.token_budget


def test_the_same_pool_gives_the_same_bytes(
    settings: Settings, choice: Choice, tmp_path: Path
) -> None:
    again = search.choose(prompts(), settings)
    write_plan(choice.plan, tmp_path / "a")
    write_plan(again.plan, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert again.rows == choice.rows


def test_what_gains_too_little_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = search.choose(prompts(), A100)
    own = min(row.predicted_seconds for row in usual.rows[:-1])
    gain = 1 - usual.chosen.predicted_seconds / own
    monkeypatch.setattr(budgets, "WORTH", gain * 1.001)
    assert search.choose(prompts(), A100).rows == [
        replace(row, regret=0.0 if row.policy == usual.chosen.policy else None)
        for row in at_own(usual)
    ]
    monkeypatch.setattr(budgets, "WORTH", gain * 0.999)
    assert search.choose(prompts(), A100).chosen == usual.chosen


def at_own(choice: Choice) -> list[Any]:
    """The race's rows, beside the bounds of the engine's own budget."""
    asked = replace(A100, token_budget=OWN)
    return [replace(row, regret=None) for row in search.choose(prompts(), asked).rows]


def test_unsampled_lengths_do_not_change_the_budget(tmp_path: Path) -> None:
    settings, workload = Settings(), prompts(400)
    first = search.choose(workload, settings)
    assert first.chosen.token_budget != OWN, "or this says nothing"
    seen = np.zeros(len(workload), np.bool_)
    seen[first.plan.order] = first.plan.is_visible
    assert 0 < seen.sum() < len(workload)
    other = replace(workload, output_len=np.where(seen, workload.output_len, 900))
    second = search.choose(other, settings)
    write_plan(first.plan, tmp_path / "a")
    write_plan(second.plan, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert first.chosen.seconds != second.chosen.seconds


@pytest.mark.parametrize(
    "asked",
    [{"token_budget": OWN}, {"token_budget": 512}, {"planner": "dfs"}, {"topology": "1P1D"}],
)
def test_what_is_asked_for_is_kept(asked: dict[str, Any]) -> None:
    settings = replace(A100, **asked)
    rows = search.choose(prompts(40), settings).rows
    assert {row.token_budget for row in rows} == {settings.token_budget or OWN}
    assert len({row.policy for row in rows}) == len(rows)


def test_no_budget_is_below_the_running_limit_that_is_asked_for() -> None:
    knobs = Knobs(max_num_active_seqs=1_000)
    problem = search.prepare(prompts(40), replace(A100, engine="vllm", knobs=knobs))
    assert other_budgets(problem, OWN) == [1_024, 4_096, 8_192]
    assert search.choose_for(problem).chosen.predicted_seconds > 0


def test_rows_of_one_policy_are_told_apart(choice: Choice) -> None:
    name = f"{choice.chosen.policy}, {choice.chosen.token_budget:,}"
    assert policy_labels(choice.rows) == [*OVERLAPPED, name]
    marked = [line for line in policy_table(choice.rows, choice.chosen, 120) if line[0] == "*"]
    assert len(marked) == 1
    assert marked[0].startswith(f"* {name} ")


def test_advice_compares_with_the_own_budget_and_the_next_policy(choice: Choice) -> None:
    chosen, race = choice.chosen, choice.rows[:-1]
    usual = next(row for row in race if row.policy == chosen.policy)
    others = [row for row in race if row is not usual]
    second = min(others, key=lambda row: row.predicted_seconds)
    budget = usual.predicted_seconds / chosen.predicted_seconds - 1
    order = second.predicted_seconds / usual.predicted_seconds - 1  # both at the engine's own
    assert choice.advice[0] == (
        f"{chosen.policy} at {chosen.token_budget:,} tokens a step is chosen: predicted "
        f"{chosen.predicted_seconds:,.1f} s, {budget:.1%} faster than at the engine's own 2,048, "
        f"where it is {f'{order:.1%} faster than' if order >= 5e-4 else 'as fast as'} "
        f"{second.policy}, the next best policy."
    )
    # Paced steps are of other sizes than the budget: where that helps it is told of no order.
    seconds = [row.predicted_seconds for row in race]
    is_alike = max(seconds) / min(seconds) - 1 < NEAR
    assert ("all policies lie within 0.1%" in choice.advice[2]) == is_alike


def test_each_system_to_rent_runs_at_its_best_budget(tmp_path: Path) -> None:
    candidates = find_candidates(Settings(sample=1.0), ["a100-80g", "h200"], [1], [2, 1])
    rental = rent(prompts(), candidates, Goal())
    for row in rental.rows:
        settings = replace(A100, gpu=row.gpu, dp=row.dp, profile=IMPORTED)  # of all or of none
        alone = search.choose(prompts(), settings)
        assert row.row.token_budget == alone.chosen.token_budget
        assert row.row.predicted_seconds == alone.chosen.predicted_seconds
        assert row.row.reachable_seconds == pytest.approx(alone.bounds.reachable, rel=1e-5)
        changed = row.row.token_budget != OWN
        assert row.policy == row.row.policy + f", {row.row.token_budget:,}" * changed
        if row is rental.chosen:
            assert changed, "or the plan says nothing"
            assert rental.plan is not None
            write_plan(rental.plan, tmp_path / "a")
            write_plan(alone.plan, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_run_keeps_the_budget_its_engine_has() -> None:
    workload = prompts()
    nothing = np.zeros(len(workload), np.int64)
    blind = replace(workload, output_len=nothing, has_output=nothing > 0, output_limit=nothing + 20)
    seen = nothing == 0
    for asked, budget in ((None, OWN), (4_096, 4_096)):
        settings = replace(Settings(), token_budget=asked)
        rest = search.prepare_rest(blind, settings, np.arange(100), seen, nothing + 20)
        choice = search.choose_for(rest)
        assert {row.token_budget for row in choice.rows} == {budget}
        assert len(choice.rows) == len(OVERLAPPED)


def test_commands_tell_and_keep_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ["num_prefill_tokens,num_decode_tokens", *["3000,20"] * 200]
    Path("trace.csv").write_text("\n".join(lines) + "\n")
    made = run_json("plan", "--trace", "trace.csv", "-o", "plan.parquet")
    assert made["token_budget"] == 4_096
    assert [row["policy"] for row in made["rows"]] == [*OVERLAPPED, made["policy"]]
    assert [row["chosen"] for row in made["rows"]] == [False] * len(OVERLAPPED) + [True]
    assert [row["token_budget"] for row in made["rows"]] == [OWN] * len(OVERLAPPED) + [4_096]
    again = run_json("simulate", "plan.parquet")
    for key in ("predicted_seconds", "seconds", "token_budget", "reachable_seconds"):
        assert again[key] == made[key], key


def test_a_pool_whose_steps_are_small_keeps_the_engine_s_own_budget() -> None:
    choice = search.choose(from_lengths([2] * 40, [300 + k for k in range(40)]), A100)
    assert [row.policy for row in choice.rows] == list(OVERLAPPED)
    assert choice.plan.meta["settings"]["token_budget"] is None
    assert choice.advice[0].endswith("the next best.")


class Told:
    """Seconds of a plan that are told instead of simulated, by token budget and world."""

    def __init__(self, drawn: dict[int, float], worlds: dict[int, list[float]]) -> None:
        self.drawn = drawn
        self.worlds = worlds
        self.asked: list[int] = []  # budgets, of runs in worlds

    def __call__(self, problem: Problem, plan: Plan, flavour: Flavour, lengths: Any) -> Timed:
        budget = flavour.token_budget
        if lengths is problem.drawn:
            return Timed(self.drawn[budget], preempts=False)
        self.asked.append(budget)
        return Timed(self.worlds[budget][int(lengths[0])], preempts=False)

    def better(self, monkeypatch: pytest.MonkeyPatch, is_known: bool) -> int | None:
        """The budget that is taken beside the engine's own, if another one is."""
        problem = search.prepare(prompts(40), A100)
        count = 0 if is_known else len(self.worlds[OWN])
        worlds = tuple(np.full(40, k) for k in range(count))
        monkeypatch.setattr(budgets, "with_worlds", lambda p, n: p._replace(worlds=worlds[:n]))
        monkeypatch.setattr(budgets, "timed_in", self)
        own, plan = find_flavour("nanoflow"), search.plan_policy(problem, "fcfs")
        taken = better_run(problem, [Contender("fcfs", plan, self.drawn[OWN])], own)
        return None if taken is None else taken[1].token_budget


LUCKY = {256: 120.0, 384: 103.0, 512: 98.0, 1_024: 99.0, OWN: 100.0, 4_096: 99.6, 8_192: 103.0}


def test_a_budget_that_gains_in_one_world_only_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worlds = {
        512: [98.0, 92.0, 84.0, 121.0],
        1_024: [99.5, 89.2, 79.0, 119.0],
        OWN: [100.0, 90.0, 80.0, 120.0],
    }
    told = Told(LUCKY, worlds)
    assert told.better(monkeypatch, is_known=True) == 512
    assert told.asked == []
    assert told.better(monkeypatch, is_known=False) == 1_024
    # Only what gains by prediction is run in worlds, the engine's own in all of them.
    assert set(told.asked) == {512, 1_024, OWN}
    assert told.asked.count(OWN) == budgets.CHOOSING_WORLDS == 4


def test_no_budget_is_taken_whose_gain_may_be_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    worlds = {
        512: [98.0, 92.0, 78.4, 123.0],
        1_024: [98.0, 91.5, 78.0, 120.5],
        OWN: [100.0, 90.0, 80.0, 120.0],
    }
    gains = np.log(worlds[OWN]) - np.log(worlds[1_024])
    assert gains.mean() > 0.0, "in the mean it gains"
    assert Told(LUCKY, worlds).better(monkeypatch, is_known=False) is None


def test_a_large_gain_in_every_world_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    worlds = {n: [share * s for s in (1.0, 2.0, 3.0, 4.0)] for n, share in ((512, 0.7), (OWN, 1.0))}
    worlds[1_024] = [0.9 * s for s in worlds[OWN]]
    assert Told(LUCKY, worlds).better(monkeypatch, is_known=False) == 512


@pytest.mark.parametrize(
    ("at_192", "at_128", "taken"), [(80.0, 85.0, 192), (85.0, 80.0, 128), (89.9, 95.0, 256)]
)
def test_where_the_least_budget_is_best_smaller_ones_are_tried(
    monkeypatch: pytest.MonkeyPatch, at_192: float, at_128: float, taken: int
) -> None:
    """They too have to gain enough. Where another one is best nobody runs them: `LUCKY` has no
    seconds for them.
    """
    least = LUCKY | {256: 90.0, 192: at_192, 128: at_128}
    assert Told(least, {}).better(monkeypatch, is_known=True) == taken


def test_asked_for_or_too_small_none_is_tried() -> None:
    problem = search.prepare(prompts(40), A100)
    assert smaller_budgets(problem, 256) == [192, 128]
    assert smaller_budgets(problem, 384) == []
    asked = search.prepare(prompts(40), replace(A100, token_budget=256))
    assert smaller_budgets(asked, 256) == []
    knobs = Knobs(max_num_active_seqs=150)
    many = search.prepare(prompts(40), replace(A100, engine="vllm", knobs=knobs))
    assert smaller_budgets(many, 256) == [192]
