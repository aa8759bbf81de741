"""Which of the systems that were planned for meets the limits not by luck: where not all lengths
are known a predicted time is that of one world of many, and a deadline that is met in it may be
missed in others.
"""

from collections import Counter
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from blendsim.plan import Plan
from blendsim.planner.make import Groundwork
from blendsim.report.rental import Goal, RentalRow
from blendsim.search.prices import Prices
from blendsim.search.problem import (
    Kind,
    Problem,
    kind_of,
    lay_ground,
    moved,
    plan_policy,
    with_settings,
)
from blendsim.search.spread import Spread, spread
from blendsim.search.trial import engine_of
from blendsim.settings import Settings
from blendsim.wording import Say


class Outcome(NamedTuple):
    """A candidate and what became of it."""

    settings: Settings  # with the token budget and the running limit that are best there
    row: RentalRow


class Tried(NamedTuple):
    """An outcome whose plan was made and run in other worlds."""

    outcome: Outcome
    plan: Plan
    spread: Spread


def most_reliable(
    base: Problem,
    done: list[Outcome],
    goal: Goal,
    prices: Prices | None,
    progress: Say,
) -> Tried | None:
    """Sort what became of the candidates and plan the first of them, None if that misses a limit by
    prediction. Who is first is run in other worlds, and behind the others then if that makes it
    doubtful, until one stays first: a world takes a run, so that those behind are not run.
    """

    def rank(outcome: Outcome) -> tuple[float, ...]:
        return outcome.row.rank(goal.objective)

    @lru_cache(maxsize=1)  # candidates that follow each other are often of one kind
    def lay(kind: Kind) -> tuple[Problem, Groundwork]:
        there = moved(base, next(o.settings for o in done if kind_of(o.settings) == kind))
        return there, lay_ground(there)

    def try_in_worlds(outcome: Outcome) -> Tried:
        settings, row = outcome
        progress(f"planning for {row.system}")
        alike, ground = lay(kind_of(settings))
        there = with_settings(alike, settings)
        # NOTE: made again, since the plans of all systems together are more than memory may hold.
        plan = plan_policy(there, row.row.policy, ground=ground)
        plan = replace(plan, meta={**plan.meta, "predicted_seconds": row.row.predicted_seconds})
        found = spread(there, plan, engine_of(there, row.row), progress)
        return Tried(Outcome(settings, _with_misses(row, found, goal, prices)), plan, found)

    best: Tried | None = None
    done.sort(key=rank)
    while not done[0].row.misses and done[0].row.worlds is None:
        tried = try_in_worlds(done[0])
        done[0] = tried.outcome
        done.sort(key=rank)
        if best is None or rank(tried.outcome) <= rank(best.outcome):
            best = tried
    assert best is None or best.outcome is done[0], "the plan that is kept is the first one's"
    return best


def _with_misses(row: RentalRow, found: Spread, goal: Goal, prices: Prices | None) -> RentalRow:
    """The row with its seconds in other worlds, and in how many of them it misses the limits."""
    missed: Counter[str] = Counter()
    for seconds in found.seconds:
        bill = None if prices is None else prices.bill(row.gpu, row.row.gpus, seconds)
        missed.update(goal.missed(seconds, None if bill is None else bill.cost))
    return replace(row, worlds=tuple(found.seconds), misses_in=dict(missed))
