"""A plan's run in one world or in several, for its seconds or whether it preempts: no step log is
built.
"""

from blendsim.arrays import Ints
from blendsim.cores import on_all_cores
from blendsim.plan import Plan
from blendsim.search.problem import Problem, with_worlds
from blendsim.serving.flavour import Flavour
from blendsim.sim.timing import Timed, time_plan


def timed_in(problem: Problem, plan: Plan, flavour: Flavour, output_len: Ints) -> Timed:
    """The plan on the problem's machine if requests answer with (n,) `output_len`."""
    settings = problem.settings
    return time_plan(
        plan,
        problem.workload,
        output_len,
        problem.prompts,
        problem.model,
        flavour,
        settings.cluster,
        settings.host,
    )


def seconds_in(problem: Problem, plan: Plan, flavour: Flavour, output_len: Ints) -> float:
    """Its seconds."""
    return timed_in(problem, plan, flavour, output_len).seconds


def seconds_in_each(problem: Problem, plan: Plan, flavour: Flavour, numbers: range) -> list[float]:
    """`seconds_in` of the possible worlds of these numbers, ascending; none where lengths leave
    only one world.
    """
    worlds = with_worlds(problem, numbers.stop).worlds[numbers.start : numbers.stop]
    return sorted(on_all_cores(lambda world: seconds_in(problem, plan, flavour, world), worlds))
