"""Choosing a plan: make one with every policy, simulate each, keep the best by prediction.

The choice uses `predicted_seconds`, simulated on what planning may see. The true lengths are
simulated only to report what the choice was worth.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from blendsim.plan import Plan
from blendsim.planner.make import POLICIES
from blendsim.report.advice import advise
from blendsim.report.metrics import Row
from blendsim.report.optimum import Bounds
from blendsim.request import Workload
from blendsim.search.problem import Problem, Progress, plan_policy, prepare
from blendsim.search.trial import Trial, block_size, find_bounds, find_engine, find_facts, run_trial
from blendsim.settings import AUTO, Settings
from blendsim.steplog import StepLog


class Choice(NamedTuple):
    """What planning a pool gives."""

    plan: Plan  # the chosen one
    chosen: Row
    rows: list[Row]  # one a policy, in the order tried
    log: StepLog  # of the chosen plan, on true lengths where the trace has them
    bounds: Bounds
    advice: list[str]  # why this plan, what bounds the pool, what would run almost free beside it
    notes: list[str]  # what was guessed or extrapolated


def choose(workload: Workload, settings: Settings, progress: Progress = lambda _: None) -> Choice:
    """Plan with `settings.planner`, or with every policy for `auto`, and keep the best by
    prediction.
    """
    return choose_for(prepare(workload, settings, progress), progress)


def choose_for(problem: Problem, progress: Progress = lambda _: None) -> Choice:
    """`choose` for a pool that is prepared."""
    trials = try_policies(problem, progress)
    best = min(range(len(trials)), key=lambda i: trials[i].row.predicted_seconds)
    rows = [trial.row for trial in trials]
    least = min(row.reported_seconds for row in rows)
    chosen = replace(rows[best], regret=rows[best].reported_seconds - least)
    rows[best] = chosen
    limits = trials[best].bounds
    plan = trials[best].plan
    plan = replace(plan, meta={**plan.meta, "predicted_seconds": chosen.predicted_seconds})
    return Choice(
        plan=plan,
        chosen=chosen,
        rows=rows,
        log=trials[best].log,
        bounds=limits,
        advice=advise(rows, chosen, limits, problem.model),
        notes=[*problem.workload.notes, *problem.lengths.notes, *trials[best].notes],
    )


def try_policies(problem: Problem, progress: Progress) -> list[Trial]:
    """Plan and simulate every policy that is asked for, two at a time: compiled code runs outside
    the interpreter's lock.
    """
    planner = problem.settings.planner
    policies = POLICIES if planner == AUTO else (planner,)
    flavour = find_engine(problem, problem.settings.engine)
    block = block_size(problem, [flavour])
    facts = find_facts(problem, block)
    progress(f"bounds for {flavour.token_budget} tokens a step")
    limits = find_bounds(problem, flavour.token_budget, block)

    def run(policy: str) -> Trial:
        progress(f"planning and simulating {policy}")
        plan = plan_policy(problem, policy)
        return run_trial(problem, plan, policy, flavour, limits, facts)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, policies))
