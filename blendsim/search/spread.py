"""How far a predicted time may be off because lengths are not known: the chosen plan in other
worlds that the sample allows.
"""

import os
from concurrent.futures import ThreadPoolExecutor

from blendsim.plan import Plan
from blendsim.search.judging import WORLDS
from blendsim.search.problem import Problem, with_worlds
from blendsim.search.trial import find_engine
from blendsim.search.world_run import seconds_in


def spread(problem: Problem, plan: Plan, token_budget: int, worlds: int = WORLDS) -> list[float]:
    """Seconds of the plan in so many worlds, ascending, at this token budget; none where lengths
    leave only one. Prefill and decode pools take long to simulate and are passed over.
    """
    if problem.settings.cluster.is_disaggregated:
        return []
    flavour = find_engine(problem, problem.settings.engine, token_budget)
    several = with_worlds(problem, worlds).worlds
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # compiled code runs outside the lock
        return sorted(pool.map(lambda world: seconds_in(problem, plan, flavour, world), several))
