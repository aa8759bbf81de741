"""Of several policies' runs: which is chosen, and which are tried at other token budgets, too."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from blendsim import search
from blendsim.errors import OversizeError
from blendsim.plan import Plan
from blendsim.planner.make import OVERLAPPED
from blendsim.request import from_lengths
from blendsim.search import budgets
from blendsim.search.budgets import CLOSE, MOST_LEADING, TIE, Contender, better_run, leading_runs
from blendsim.search.problem import Problem
from blendsim.serving.flavour import Flavour, find_flavour
from blendsim.settings import Settings
from blendsim.sim.timing import Timed
from blendsim.traces.limits import without_oversize

OWN = find_flavour("nanoflow").token_budget


def problem_of(sample: float) -> Problem:
    return search.prepare(from_lengths([300] * 80, [20] * 80), Settings(sample=sample))


@pytest.fixture(scope="module")
def known() -> Problem:
    return problem_of(1.0)


@pytest.fixture(scope="module")
def sampled() -> Problem:
    return problem_of(0.1)


def runs(problem: Problem, **seconds: float) -> list[Contender]:
    plan = search.plan_policy(problem, "fcfs")
    return [Contender(policy, plan, seconds.get(policy, 1_000.0)) for policy in OVERLAPPED]


def names(leading: list[Contender]) -> list[str]:
    return [run.policy for run in leading]


def test_known_lengths_choose_the_fastest_however_little_it_gains(known: Problem) -> None:
    leading = leading_runs(known, runs(known, random=100.0, dfs=100.0001))
    assert names(leading) == ["random", "dfs"]


def test_with_sampled_lengths_a_tie_goes_to_who_keeps_prefixes_together(sampled: Problem) -> None:
    near = 100.0 * (1 + 0.9 * TIE)
    assert names(leading_runs(sampled, runs(sampled, random=100.0, dfs=near))) == ["dfs", "random"]
    assert names(leading_runs(sampled, runs(sampled, fcfs=100.0, paced=near))) == ["paced", "fcfs"]
    far = 100.0 * (1 + 1.1 * TIE)
    assert names(leading_runs(sampled, runs(sampled, random=100.0, dfs=far))) == ["random", "dfs"]


def test_who_is_far_behind_is_not_tried_at_other_budgets(known: Problem) -> None:
    in_reach, out = 100.0 * (1 + 0.9 * CLOSE), 100.0 * (1 + 1.1 * CLOSE)
    leading = leading_runs(known, runs(known, paced=100.0, blend=in_reach, dfs=out))
    assert names(leading) == ["paced", "blend"]
    near = {policy: 100.0 + k / 100 for k, policy in enumerate(OVERLAPPED)}
    assert names(leading_runs(known, runs(known, **near))) == list(OVERLAPPED[:MOST_LEADING])


def test_runs_that_take_equally_long_are_one(known: Problem, sampled: Problem) -> None:
    for problem in (known, sampled):
        found = leading_runs(problem, runs(problem, fcfs=100.0, dfs=100.0, blend=100.9))
        assert names(found) == ["dfs", "blend"]
        alike = leading_runs(problem, runs(problem, **dict.fromkeys(OVERLAPPED, 100.0)))
        assert names(alike) == ["dfs"]


def test_the_longest_answers_first_are_tried_wherever_they_come(known: Problem) -> None:
    """They may take much less where fewer run at once; not if they are what another is."""
    race = [*runs(known, dfs=100.0), Contender("dfs-longest", runs(known)[0].plan, 130.0)]
    assert names(leading_runs(known, race)) == ["dfs", "dfs-longest"]
    race[-1] = race[-1]._replace(seconds=100.0)
    assert names(leading_runs(known, race)) == ["dfs"]
    near = {policy: 100.0 + k / 100 for k, policy in enumerate(OVERLAPPED)}
    race = [*runs(known, **near), race[-1]._replace(seconds=100.9)]
    assert names(leading_runs(known, race)) == [*OVERLAPPED[:MOST_LEADING], "dfs-longest"]


def in_worlds(
    monkeypatch: pytest.MonkeyPatch,
    problem: Problem,
    seconds: dict[tuple[str, int], tuple[float, ...]],
) -> tuple[str, int] | None:
    """What is taken of dfs, which is chosen, and random at budgets with these seconds in the drawn
    world and in each of the others; they take 120 at those that are not named.
    """
    count = len(seconds["dfs", OWN]) - 1
    worlds = tuple(np.full(80, k) for k in range(count))
    monkeypatch.setattr(budgets, "with_worlds", lambda p, n: p._replace(worlds=worlds))

    def timed_in(problem: Problem, plan: Plan, flavour: Flavour, lengths: Any) -> Timed:
        told = seconds.get((plan.policy, flavour.token_budget), (120.0,) * (count + 1))
        took = told[0] if lengths is problem.drawn else told[1 + int(lengths[0])]
        return Timed(took, preempts=False)

    monkeypatch.setattr(budgets, "timed_in", timed_in)
    leading = [
        Contender(policy, search.plan_policy(problem, policy), seconds[policy, OWN][0])
        for policy in ("dfs", "random")
    ]
    found = better_run(problem, leading, find_flavour("nanoflow"))
    return None if found is None else (found[0].policy, found[1].token_budget)


def test_another_policy_at_another_budget_has_to_beat_the_chosen_one_there(
    sampled: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {("dfs", OWN): (100.0,) * 5, ("random", OWN): (100.1,) * 5}
    dfs = own | {("dfs", 4_096): (98.0, 98.0, 98.2, 98.0, 98.1)}
    lucky = dfs | {("random", 4_096): (97.6, 97.4, 98.3, 97.3, 98.2)}
    assert in_worlds(monkeypatch, sampled, dfs) == ("dfs", 4_096)
    assert in_worlds(monkeypatch, sampled, lucky) == ("dfs", 4_096)
    surely = dfs | {("random", 4_096): (96.0, 96.0, 96.1, 96.2, 96.0)}
    assert in_worlds(monkeypatch, sampled, surely) == ("random", 4_096)
    alone = own | {("random", 512): (97.0, 97.0, 97.1, 97.2, 97.0)}
    assert in_worlds(monkeypatch, sampled, alone) == ("random", 512)
    assert in_worlds(monkeypatch, sampled, own) is None


def test_a_policy_without_a_place_comes_last_of_those_that_tie(sampled: Problem) -> None:
    plan = search.plan_policy(sampled, "fcfs")
    alike = [Contender("another", plan, 100.0), *runs(sampled, **dict.fromkeys(OVERLAPPED, 100.0))]
    assert names(leading_runs(sampled, alike)) == ["dfs"]
    near = runs(sampled, random=100.0 * (1 + 0.9 * TIE))
    assert names(leading_runs(sampled, [Contender("another", plan, 100.0), *near]))[0] == "random"
    assert names(leading_runs(sampled, [Contender("another", plan, 90.0), *near]))[0] == "another"


def test_another_policy_may_be_the_one_for_another_budget(
    known: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    dfs, paced = (search.plan_policy(known, policy) for policy in ("dfs", "paced"))
    told = {(dfs.policy, 4_096): 99.0, (paced.policy, 4_096): 90.0}

    def timed_in(problem: Problem, plan: Plan, flavour: Flavour, lengths: Any) -> Timed:
        return Timed(told.get((plan.policy, flavour.token_budget), 120.0), preempts=False)

    monkeypatch.setattr(budgets, "timed_in", timed_in)
    leading = [Contender("dfs", dfs, 100.0), Contender("paced", paced, 100.5)]
    found = better_run(known, leading, find_flavour("nanoflow"))
    assert found is not None
    assert (found[0].policy, found[1].token_budget) == ("paced", 4_096)


def test_oversize_requests_are_refused_before_they_are_planned() -> None:
    settings = Settings(model="llama-2-7b")
    workload = from_lengths([300] * 40 + [5_000], [20] * 41)
    with pytest.raises(OversizeError, match="1 of 41 requests are longer than the 4,096 tokens"):
        search.prepare(workload, settings)
    kept = without_oversize(workload, settings.system.longest_request, skip=True)
    assert len(search.prepare(kept, settings).workload) == 40


def test_without_one_length_seen_a_budget_must_gain_in_other_worlds_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workload = from_lengths([300] * 80, [20] * 80)
    blind = search.prepare(replace(workload, has_output=np.zeros(80, np.bool_)), Settings())
    asked = []

    def timed_in(problem: Problem, plan: Plan, flavour: Flavour, lengths: Any) -> Timed:
        is_drawn = lengths is problem.drawn
        asked.append(is_drawn)
        seconds = 100.0 if flavour.token_budget == OWN else 90.0 if is_drawn else 110.0
        return Timed(seconds, preempts=False)

    monkeypatch.setattr(budgets, "timed_in", timed_in)
    found = better_run(blind, runs(blind)[:1], find_flavour("nanoflow"))
    assert found is None
    assert not all(asked)
