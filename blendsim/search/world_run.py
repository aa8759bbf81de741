"""A plan's run in one world or in several, for its seconds or whether it preempts: no step log is
built.
"""

from blendsim.arrays import Ints
from blendsim.cores import on_all_cores
from blendsim.plan import Plan
from blendsim.search.problem import Problem, with_worlds
from blendsim.serving.flavour import Flavour
from blendsim.sim.timing import preempts, time_plan


def seconds_in(problem: Problem, plan: Plan, flavour: Flavour, output_len: Ints) -> float:
    """Seconds of the plan on the problem's machine if requests answer with (n,) `output_len`."""
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


def preempts_in(problem: Problem, plan: Plan, flavour: Flavour, output_len: Ints) -> bool:
    """Whether a request is preempted in the run of `seconds_in`."""
    settings = problem.settings
    return preempts(
        plan,
        problem.workload,
        output_len,
        problem.prompts,
        problem.model,
        flavour,
        settings.cluster,
        settings.host,
    )


def seconds_in_each(problem: Problem, plan: Plan, flavour: Flavour, numbers: range) -> list[float]:
    """`seconds_in` of the possible worlds of these numbers, ascending; none where lengths leave
    only one world.
    """
    worlds = with_worlds(problem, numbers.stop).worlds[numbers.start : numbers.stop]
    return sorted(on_all_cores(lambda world: seconds_in(problem, plan, flavour, world), worlds))
