"""How far a predicted time may be off because lengths are not known: a chosen plan in other worlds
that the sample allows, which had no part in choosing it.
"""

from typing import NamedTuple

from blendsim.plan import Plan
from blendsim.planner.outlook import guessed
from blendsim.search import budgets
from blendsim.search.judging import JUDGING_WORLDS
from blendsim.search.problem import Problem, with_worlds
from blendsim.search.world_run import seconds_in_each
from blendsim.serving.flavour import Flavour
from blendsim.wording import Say

_RANGE = range(
    budgets.CHOOSING_WORLDS, budgets.CHOOSING_WORLDS + JUDGING_WORLDS
)  # numbers of worlds; the first ones chose


class Spread(NamedTuple):
    """A plan's times in several worlds."""

    seconds: list[float]  # in each, ascending; none where lengths leave only one world
    hidden: int  # requests whose length is not seen
    guessed: int  # of them those of sources where none is


NO_SPREAD = Spread([], 0, 0)


def with_range(problem: Problem) -> Problem:
    """The problem with all worlds that choosing a plan and `spread` look at, drawn at once. Pools
    of prefill and decode replicas need none.
    """
    if problem.settings.cluster.is_disaggregated:
        return problem
    return with_worlds(problem, _RANGE.stop)


def spread(
    problem: Problem, plan: Plan, flavour: Flavour, progress: Say = lambda _: None
) -> Spread:
    """The plan on this engine in JUDGING_WORLDS worlds that had no part in choosing it. Prefill and
    decode pools take long to simulate and are passed over.
    """
    problem = with_range(problem)
    if problem.settings.cluster.is_disaggregated or not problem.worlds:
        return NO_SPREAD
    progress(f"simulating {plan.policy} with other lengths that the sample allows")
    seconds = seconds_in_each(problem, plan, flavour, _RANGE)
    hidden = int((~problem.lengths.is_visible).sum())
    blind = guessed(problem.workload, problem.tree, problem.lengths)
    return Spread(seconds, hidden, int(blind.sum()))
