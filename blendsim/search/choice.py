"""Choosing a plan: make one with every policy, simulate each, keep the best by prediction, at
another token budget or a lower running limit if that pays. Orders of one's own take part like
policies.

The choice uses `predicted_seconds`, simulated on what planning may see. The true lengths are
simulated only to report what the choice was worth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from blendsim.cores import on_all_cores
from blendsim.plan import Plan
from blendsim.planner.make import dearest_first
from blendsim.planner.own import Order
from blendsim.report.advice import Judged, advise, ends_told
from blendsim.report.metrics import Row, beside, with_regret
from blendsim.report.optimum import Bounds
from blendsim.report.small_steps import with_small_steps
from blendsim.request import Workload
from blendsim.search.budgets import Contender, better_run, leading_runs, tries_others
from blendsim.search.caveats import caveats
from blendsim.search.own import own_plans
from blendsim.search.problem import Problem, lay_ground, plan_policy, prepare
from blendsim.search.trial import (
    Trial,
    block_size,
    find_bounds,
    find_engine,
    find_facts,
    run_at_limits,
    run_trial,
    widest,
)
from blendsim.settings import Settings
from blendsim.sim.run import require_modelled
from blendsim.steplog import StepLog
from blendsim.wording import Say


class Choice(NamedTuple):
    """What planning a pool gives."""

    plan: Plan  # the chosen one
    chosen: Row
    #: One a policy, in the order tried, and one an order of one's own; the last one is at another
    #: token budget or running limit, if that is the chosen one.
    rows: list[Row]
    log: StepLog  # of the chosen plan, on true lengths where the trace has them
    bounds: Bounds
    advice: list[str]  # why this plan, what bounds the pool, what would run almost free beside it
    notes: list[str]  # what was guessed or extrapolated
    caveats: list[str]  # whether the engine can follow the plan, and what its steps are priced by


def choose(
    workload: Workload,
    settings: Settings,
    progress: Say = lambda _: None,
    own: Mapping[str, Order] | None = None,
) -> Choice:
    """Plan with `settings.planner`, or with every policy for `auto`, and keep the best by
    prediction; for `auto` at the token budget and, where the engine preempts, the running limit
    that are best for it, unless they are asked for.

    `own` are orders of the workload's rows by their names, which take part as policies do
    (`planner.own.reordered`). Of several ranks each runs the requests that it has by `dfs`.
    """
    return choose_for(prepare(workload, settings, progress), progress, own)


def choose_for(
    problem: Problem,
    progress: Say = lambda _: None,
    own: Mapping[str, Order] | None = None,
) -> Choice:
    """`choose` for a pool that is prepared."""
    trials = try_policies(problem, progress, own)
    runs = [
        Contender(trial.row.policy, trial.plan, trial.row.predicted_seconds) for trial in trials
    ]
    leading = leading_runs(problem, runs)
    at = [run.policy for run in runs].index(leading[0].policy)
    other = _at_other_limits(problem, leading, trials[at], progress)
    if other is not None:
        at = len(trials)
        trials.append(other)
    best = trials[at]
    limits = widest((trial.row.token_budget, trial.bounds) for trial in trials)
    rows = [beside(trial.row, trial.log, limits) for trial in trials]
    rows[at] = chosen = with_regret(rows[at], rows)
    plan = best.plan
    plan = replace(plan, meta={**plan.meta, "predicted_seconds": chosen.predicted_seconds})
    return Choice(
        plan=plan,
        chosen=chosen,
        rows=rows,
        log=best.log,
        bounds=limits,
        advice=advice_on(problem, rows, chosen, limits, best.log),
        notes=[*problem.notes, *best.notes],
        caveats=caveats(problem.settings, plan),
    )


def advice_on(
    problem: Problem,
    rows: Sequence[Row],
    chosen: Row,
    limits: Bounds,
    log: StepLog,
    judged: Judged | None = None,
) -> list[str]:
    """Sentences for the user on the choice among `rows`, whose run `log` is of: with when ranks
    end, if there are several that do not meet, and on steps of few tokens where its time goes to
    them.
    """
    settings, model = problem.settings, problem.model
    ends = ends_told(log) if settings.dp > 1 and not model.system.is_joined else []
    overlaps = settings.flavour().overlaps
    advice = advise(rows, chosen, limits, model, judged, ends, overlaps=overlaps)
    return with_small_steps(advice, log, limits, model, chosen.token_budget, chosen.kv_use)


def try_policies(
    problem: Problem, progress: Say, own: Mapping[str, Order] | None = None
) -> list[Trial]:
    """Plan and simulate every policy that is asked for, and every order of one's `own`, on all
    cores.
    """
    policies = (*problem.settings.policies, *(own or ()))
    flavour = find_engine(problem, problem.settings.engine)
    system = problem.model.system
    require_modelled(flavour, problem.settings.cluster, problem.settings.host, system)
    block = block_size(problem, [flavour])
    progress(f"bounds for {flavour.token_budget} tokens a step")
    limits = find_bounds(problem, flavour.token_budget, block)
    facts = find_facts(problem, limits.work)
    ground = lay_ground(problem)
    made = own_plans(problem, own, ground)

    def run(policy: str) -> Trial:
        progress(f"planning and simulating {policy}")
        plan = made.get(policy)
        if plan is None:
            plan = plan_policy(problem, policy, ground=ground)
        return run_trial(problem, plan, policy, flavour, limits, facts)

    order = dearest_first(policies)
    trials = dict(zip(order, on_all_cores(run, order), strict=True))
    return [trials[policy] for policy in policies]


def _at_other_limits(
    problem: Problem, leading: Sequence[Contender], best: Trial, progress: Say
) -> Trial | None:
    """One of the `leading` policies' plans at another token budget or running limit, if that is
    worth it.
    """
    flavour = find_engine(problem, problem.settings.engine)
    if not tries_others(problem, flavour):
        return None
    names = ", ".join(run.policy for run in leading)
    progress(f"simulating {names} at other token budgets and running limits")
    better = better_run(problem, leading, flavour)
    if better is None:
        return None
    run, engine = better
    limits = best.bounds
    if engine.token_budget > flavour.token_budget:
        progress(f"bounds for {engine.token_budget} tokens a step")
        limits = find_bounds(problem, engine.token_budget, block_size(problem, [flavour]))
    return run_at_limits(problem, run.plan, run.policy, engine, limits, best.facts)[1]
