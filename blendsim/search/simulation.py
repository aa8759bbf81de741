"""Simulating a plan that was made before, in one world or in several."""

from typing import NamedTuple

from blendsim.plan import Plan, require_same_replicas, require_same_workload
from blendsim.report.metrics import Row
from blendsim.request import Workload
from blendsim.search.caveats import caveats
from blendsim.search.problem import prepare
from blendsim.search.trial import block_size, find_bounds, find_engine, find_facts, run_trial
from blendsim.search.world_run import seconds_in_each
from blendsim.settings import Settings
from blendsim.steplog import StepLog
from blendsim.wording import Say


class Simulation(NamedTuple):
    """What simulating a plan gives."""

    row: Row
    log: StepLog  # on true lengths where the trace has them
    notes: list[str]  # what was guessed or extrapolated
    worlds: list[float]  # seconds in each world that the sample allows, ascending; where asked for
    caveats: list[str]  # as a Choice's


def simulate_plan(
    workload: Workload,
    plan: Plan,
    settings: Settings,
    progress: Say = lambda _: None,
    worlds: int = 0,
) -> Simulation:
    """Simulate a plan that was made before, and in so many `worlds` that what planning sees leaves
    possible: none where it sees every length. Raises PlanMismatch if it is for another workload or,
    unless the settings name pools, for another number of replicas.
    """
    if not settings.cluster.is_disaggregated:  # pools deal out the plan of one, or refuse it
        require_same_replicas(plan, settings.dp)
    require_same_workload(plan, workload)
    problem = prepare(workload, settings, progress)
    flavour = find_engine(problem, settings.engine)
    progress(f"simulating {plan.policy}")
    block = block_size(problem, [flavour])
    limits = find_bounds(problem, flavour.token_budget, block)
    trial = run_trial(problem, plan, plan.policy, flavour, limits, find_facts(problem, limits.work))
    notes = [*problem.notes, *trial.notes]
    seconds: list[float] = []
    if worlds:
        progress(f"simulating {plan.policy} in {worlds} worlds")
        seconds = seconds_in_each(problem, plan, flavour, range(worlds))
    return Simulation(trial.row, trial.log, notes, seconds, caveats(settings, plan))
