"""Token budgets to try beside an engine's own: which, and when another one is worth taking.

Orders do not depend on the budget, so a plan is made once and only run again.
"""

from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np

from blendsim.plan import Plan
from blendsim.request import Ints
from blendsim.search.judging import judge, sure_gain
from blendsim.search.problem import Problem, with_worlds
from blendsim.search.trial import find_engine
from blendsim.search.world_run import seconds_in
from blendsim.serving.flavour import Flavour
from blendsim.settings import AUTO

BUDGETS = (512, 1_024, 2_048, 4_096, 8_192)  # tokens a step that are tried
#: Share of the predicted seconds that another budget must gain to be taken.
WORTH = 0.005
#: In which a budget that gains by prediction must gain too where lengths are not known. Drawn
#: lengths are one world of many: 512 tokens a step gained 1.0 % in one of trace2 on an H200 with
#: 1 % sampled, and lost 2.6 % in the mean of eight others and 9.7 % on the true lengths. Every
#: world costs a run a budget, so there are fewer than a search takes.
WORLDS = 4


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
    the `seconds` predicted for `flavour`; where lengths are not known, the one that surely gains
    most in other possible worlds. True lengths are not looked at.
    """
    budgets = other_budgets(problem, flavour.token_budget)
    engines = [find_engine(problem, flavour.name, budget) for budget in budgets]
    tried = pool.map(lambda engine: seconds_in(problem, plan, engine, problem.drawn), engines)
    gaining: dict[float, Flavour] = {}  # by seconds; of those that take equally long the first
    for engine, took in zip(engines, tried, strict=True):
        if took <= seconds * (1 - WORTH):
            gaining.setdefault(took, engine)
    if not gaining:
        return None
    ranked = [gaining[took] for took in sorted(gaining)]
    worlds = with_worlds(problem, WORLDS).worlds
    return _surest(problem, plan, flavour, ranked, worlds, pool) if worlds else ranked[0]


def _surest(
    problem: Problem,
    plan: Plan,
    usual: Flavour,
    others: Sequence[Flavour],
    worlds: Sequence[Ints],
    pool: Executor,
) -> Flavour | None:
    """Of `others` the engine that surely gains most over the `usual` one in these worlds, if one
    does.
    """

    def run(pairs: Sequence[tuple[Flavour, int]]) -> list[float]:
        return list(
            pool.map(lambda pair: seconds_in(problem, plan, pair[0], worlds[pair[1]]), pairs)
        )

    before = np.log(run([(usual, k) for k in range(len(worlds))]))
    logs = judge(others, len(worlds), run, before).logs
    gains = [sure_gain(before, after) for after in logs]
    best = max(range(len(others)), key=lambda i: gains[i])
    return others[best] if gains[best] > 0.0 else None
