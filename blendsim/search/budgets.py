"""Token budgets to try beside an engine's own: which, and when another one is worth taking.

Orders do not depend on the budget, so a plan is made once and only run again.
"""

from concurrent.futures import Executor

from blendsim.plan import Plan
from blendsim.search.problem import Problem
from blendsim.search.trial import find_engine
from blendsim.search.world_run import seconds_in
from blendsim.serving.flavour import Flavour
from blendsim.settings import AUTO

BUDGETS = (512, 1_024, 2_048, 4_096, 8_192)  # tokens a step that are tried
#: Share of the predicted seconds that another budget must gain to be taken. Drawn lengths are one
#: world of many, and from one to the next variations of a plan move by 0.2 to 2 % against each
#: other (judging.py): this keeps out the smaller part of what may be chance, no more.
WORTH = 0.005


def covered_budgets(problem: Problem) -> list[int]:
    """The asked token budget alone, else all that the kernel profile reaches."""
    asked = problem.settings.token_budget
    return [asked] if asked else [n for n in BUDGETS if n <= problem.model.coverage.tokens]


def other_budgets(problem: Problem, own: int) -> list[int]:
    """Those beside the engine's `own` that the best policy is tried at: none for a policy or a
    budget that is asked for, nor where prefill and decode have pools of their own, since those take
    long to simulate.
    """
    settings = problem.settings
    if settings.planner != AUTO or settings.token_budget or settings.cluster.is_disaggregated:
        return []
    least = settings.knobs.max_num_active_seqs or 1  # every running request decodes a token a step
    return [n for n in covered_budgets(problem) if n != own and n >= least]


def better_engine(
    problem: Problem, plan: Plan, flavour: Flavour, seconds: float, pool: Executor
) -> Flavour | None:
    """The engine at the other token budget that is fastest by prediction, if it gains enough over
    the `seconds` predicted for `flavour`. True lengths are not looked at.
    """
    budgets = other_budgets(problem, flavour.token_budget)
    engines = [find_engine(problem, flavour.name, budget) for budget in budgets]
    tried = list(pool.map(lambda engine: seconds_in(problem, plan, engine, problem.drawn), engines))
    best = min(range(len(tried)), key=lambda i: tried[i], default=None)
    return None if best is None or tried[best] > seconds * (1 - WORTH) else engines[best]
