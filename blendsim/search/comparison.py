"""Comparing systems: every baseline on one pool, each at its own best token budget and at one that
all of them run.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from blendsim.baselines import Baseline
from blendsim.plan import Plan
from blendsim.report.metrics import Row, run_seconds
from blendsim.request import Workload
from blendsim.search.problem import Problem, Progress, plan_policy, prepare
from blendsim.search.trial import find_bounds, find_engine, find_facts, predict, run_trial
from blendsim.serving.flavour import Flavour, find_flavour
from blendsim.settings import Settings

BUDGETS = (512, 1_024, 2_048, 4_096, 8_192)  # tokens a step each baseline is tried at
COMMON_BUDGET = 2_048


class Comparison(NamedTuple):
    """What the baselines are worth on one pool."""

    rows: list[Row]  # one a baseline, named by it, at its best token budget by prediction
    common: list[Row]  # the same baselines at one token budget
    notes: list[str]  # what was guessed or extrapolated


def compare(
    workload: Workload,
    settings: Settings,
    baselines: Sequence[Baseline],
    progress: Progress = lambda _: None,
) -> Comparison:
    """Every one of the baselines on the pool. With a token budget in the settings all run at that.

    All rows stand beside the same bounds: those of the largest budget tried.
    """
    problem = prepare(workload, settings, progress)
    asked = settings.token_budget
    tried = [asked] if asked else [n for n in BUDGETS if n <= problem.model.coverage.tokens]
    policies = sorted({baseline.policy for baseline in baselines})
    facts = find_facts(problem)
    progress(f"bounds for {max(tried)} tokens a step")
    limits = find_bounds(problem, max(tried))

    def make(policy: str) -> Plan:
        progress(f"planning {policy}")
        return plan_policy(problem, policy)

    with ThreadPoolExecutor(2) as pool:  # compiled code runs outside the interpreter's lock
        plans = dict(zip(policies, pool.map(make, policies), strict=True))

        def run(baseline: Baseline) -> tuple[Row, Row, list[str]]:
            progress(f"simulating {baseline.name}")
            plan = plans[baseline.policy]
            best = _best_flavour(problem, plan, baseline, tried)
            trial = run_trial(problem, plan, baseline.name, best, limits, facts)
            common = find_flavour(baseline.engine, asked or COMMON_BUDGET)
            if common == best:
                return trial.row, trial.row, trial.notes
            other = run_trial(problem, plan, baseline.name, common, limits, facts)
            return trial.row, other.row, trial.notes

        done = list(pool.map(run, baselines))
    beyond = [f"{row.policy}: {note}" for row, _, notes in done for note in notes]
    notes = [*workload.notes, *problem.lengths.notes, *beyond]
    return Comparison([row for row, _, _ in done], [row for _, row, _ in done], notes)


def _best_flavour(
    problem: Problem, plan: Plan, baseline: Baseline, budgets: Sequence[int]
) -> Flavour:
    """The baseline's engine at the budget that is fastest by prediction."""
    if len(budgets) == 1:
        return find_engine(problem, baseline.engine)
    tried = [find_flavour(baseline.engine, budget) for budget in budgets]
    seconds = [run_seconds(predict(problem, plan, flavour)) for flavour in tried]
    return tried[seconds.index(min(seconds))]
