"""A plan's run in one world or in several, for its seconds alone: no step log is built."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from blendsim.plan import Plan
from blendsim.request import Ints
from blendsim.search.problem import Problem
from blendsim.serving.flavour import Flavour
from blendsim.sim.timing import run_seconds


def seconds_in(problem: Problem, plan: Plan, flavour: Flavour, output_len: Ints) -> float:
    """Seconds of the plan on the problem's machine if requests answer with (n,) `output_len`."""
    settings = problem.settings
    return run_seconds(
        plan,
        problem.workload,
        output_len,
        problem.prompts,
        problem.model,
        flavour,
        settings.cluster,
        settings.host,
    )


def seconds_in_each(
    problem: Problem, plan: Plan, flavour: Flavour, worlds: Iterable[Ints]
) -> list[float]:
    """`seconds_in` of each of the worlds, ascending."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # compiled code runs outside the lock
        return sorted(pool.map(lambda world: seconds_in(problem, plan, flavour, world), worlds))
