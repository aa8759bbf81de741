"""Search: plan a pool with every policy, simulate each plan, choose by prediction.

The choice uses `predicted_seconds`, simulated on what planning may see. The true lengths are
simulated only to report what the choice was worth.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import NamedTuple

import numpy as np

from blendsim import __version__
from blendsim.baselines import BASELINES, Baseline
from blendsim.perf.density import RequestCosts, closed_form, pool_density, profiled, table_density
from blendsim.perf.model import StepModel, step_model
from blendsim.plan import Plan, require_same_workload
from blendsim.planner.blend import BlendSettings
from blendsim.planner.lengths import Lengths, draw, expect_lengths
from blendsim.planner.make import POLICIES, make_plan
from blendsim.planner.partition import partition
from blendsim.planner.tree import pool_tree
from blendsim.prefix import SortedPrompts, shareable_tokens, shared_tokens, sort_prompts
from blendsim.report.advice import advise
from blendsim.report.metrics import PoolFacts, Row, outside_notes, run_seconds, summarise
from blendsim.report.optimum import Bounds, bounds
from blendsim.request import Ints, Workload
from blendsim.serving.flavour import Flavour, find_flavour
from blendsim.settings import AUTO, Settings
from blendsim.sim.run import simulate
from blendsim.steplog import StepLog

Progress = Callable[[str], None]


class Choice(NamedTuple):
    """What planning a pool gives."""

    plan: Plan  # the chosen one
    chosen: Row
    rows: list[Row]  # one a policy, in the order tried
    log: StepLog  # of the chosen plan, on true lengths where the trace has them
    bounds: Bounds
    advice: list[str]  # why this plan, what bounds the pool, what would run almost free beside it
    notes: list[str]  # what was guessed or extrapolated


class Problem(NamedTuple):
    """A pool on a system: all that planning and simulating it needs, computed once."""

    workload: Workload
    prompts: SortedPrompts
    settings: Settings
    model: StepModel
    lengths: Lengths
    drawn: Ints  # (n,) outputs to predict by: as varied as the sample, true where visible
    costs: RequestCosts  # of the expected lengths, in closed form

    @property
    def true_lengths(self) -> Ints:
        """Output lengths to report on: the trace's, or the drawn ones where it gives none."""
        return np.where(self.workload.has_output, self.workload.output_len, self.drawn)


def prepare(workload: Workload, settings: Settings, progress: Progress = lambda _: None) -> Problem:
    """Sort prompts, sample and estimate output lengths, build the step model."""
    system = settings.system
    model = step_model(system, settings.overlap)
    progress("sorting prompts by prefix")
    prompts = sort_prompts(workload)
    progress("estimating output lengths")
    rng = np.random.default_rng(settings.seed)
    tree = pool_tree(workload, prompts)
    lengths = expect_lengths(workload, tree, settings.sample, rng)
    # What cannot be served is not expected either: a request has the room its prompt leaves.
    room = np.maximum(1, system.longest_request - workload.prompt_len)
    lengths = lengths._replace(expected=np.minimum(lengths.expected, room))
    drawn = np.minimum(draw(workload, tree, lengths, rng), room)
    # NOTE: the closed form counts KV held for d steps, p·d + d²/2, which is what dual scan divides;
    # the profile's d − 1 reads would give a request with one output token no memory at all.
    costs = closed_form(system, workload.prompt_len, lengths.expected)
    return Problem(workload, prompts, settings, model, lengths, drawn, costs)


def plan_policy(problem: Problem, policy: str) -> Plan:
    """The plan of one policy, over all replicas."""
    plan = make_plan(
        policy,
        problem.workload,
        problem.prompts,
        problem.lengths,
        problem.costs,
        BlendSettings(),
        problem.settings.seed,
        {
            "origin": list(problem.workload.origin),
            "settings": asdict(problem.settings),
            "overlap": problem.model.overlap,
            "profile": "/".join(
                (problem.settings.gpu, problem.model.system.model.name, f"tp{problem.settings.tp}")
            ),
            "blendsim": __version__,
        },
    )
    if problem.settings.dp == 1:
        return plan
    # Ranks get equal work, not equal prompts: what a request shares with others is computed once.
    costs, block = problem.costs, problem.model.system.block_tokens
    saved = shared_tokens(problem.workload, problem.prompts, block) * costs.seconds_per_shared_token
    return partition(plan, costs._replace(compute=costs.compute - saved), problem.settings.dp)


def choose(workload: Workload, settings: Settings, progress: Progress = lambda _: None) -> Choice:
    """Plan with `settings.planner`, or with every policy for `auto`, and keep the best by
    prediction.
    """
    problem = prepare(workload, settings, progress)
    policies = POLICIES if settings.planner == AUTO else (settings.planner,)
    trials = _try_all(
        problem, [Baseline(policy, policy, settings.engine) for policy in policies], progress
    )
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
        notes=[*workload.notes, *problem.lengths.notes, *trials[best].notes],
    )


class Comparison(NamedTuple):
    """What the baselines are worth on one pool."""

    rows: list[Row]  # one a baseline, named by it
    notes: list[str]  # what was guessed or extrapolated


def compare(
    workload: Workload, settings: Settings, progress: Progress = lambda _: None
) -> Comparison:
    """Every baseline on the pool."""
    problem = prepare(workload, settings, progress)
    trials = _try_all(problem, BASELINES, progress)
    beyond = [f"{trial.row.policy}: {note}" for trial in trials for note in trial.notes]
    notes = [*workload.notes, *problem.lengths.notes, *beyond]
    return Comparison([trial.row for trial in trials], notes)


class Simulation(NamedTuple):
    """What simulating a plan gives."""

    row: Row
    log: StepLog  # on true lengths where the trace has them
    notes: list[str]


def simulate_plan(
    workload: Workload, plan: Plan, settings: Settings, progress: Progress = lambda _: None
) -> Simulation:
    """Simulate a plan that was made before. Raises PlanMismatch if it is for another workload."""
    require_same_workload(plan, workload)
    problem = prepare(workload, settings, progress)
    flavour = _flavour(problem, settings.engine)
    progress(f"simulating {plan.policy}")
    trial = _run(problem, plan, plan.policy, flavour, _bounds(problem, flavour), _facts(problem))
    notes = [*workload.notes, *problem.lengths.notes, *trial.notes]
    return Simulation(trial.row, trial.log, notes)


class _Trial(NamedTuple):
    plan: Plan
    row: Row
    log: StepLog
    bounds: Bounds
    notes: list[str]


def _try_all(problem: Problem, baselines: Sequence[Baseline], progress: Progress) -> list[_Trial]:
    """Plan and simulate each, two at a time: compiled code runs outside the interpreter's lock."""
    facts = _facts(problem)
    limits: dict[Flavour, Bounds] = {}
    for baseline in baselines:
        flavour = _flavour(problem, baseline.engine)
        if flavour not in limits:
            progress(f"bounds for {flavour.token_budget} tokens a step")
            limits[flavour] = _bounds(problem, flavour)

    def run(baseline: Baseline) -> _Trial:
        flavour = _flavour(problem, baseline.engine)
        progress(f"planning and simulating {baseline.name}")
        plan = plan_policy(problem, baseline.policy)
        return _run(problem, plan, baseline.name, flavour, limits[flavour], facts)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, baselines))


def _run(
    problem: Problem, plan: Plan, name: str, flavour: Flavour, limits: Bounds, facts: PoolFacts
) -> _Trial:
    """Simulate a plan on what planning may see and, where they differ, on the true lengths."""
    truth = problem.true_lengths
    workload, prompts, model = problem.workload, problem.prompts, problem.model
    host = problem.settings.host
    log = simulate(plan, workload, problem.drawn, prompts, model, flavour, host=host)
    predicted = run_seconds(log)
    if not np.array_equal(truth, problem.drawn):
        log = simulate(plan, workload, truth, prompts, model, flavour, host=host)
    row = summarise(
        name,
        problem.workload,
        truth,
        predicted,
        log,
        limits,
        problem.model.system.kv_blocks,
        facts,
    )
    return _Trial(plan, row, log, limits, outside_notes(log, problem.model.coverage))


def _flavour(problem: Problem, engine: str) -> Flavour:
    """The engine at the asked token budget; ProfileError if the profile does not reach that far."""
    flavour = find_flavour(engine, problem.settings.token_budget, problem.settings.eviction)
    problem.model.coverage.require(flavour.token_budget)
    return flavour


def _bounds(problem: Problem, flavour: Flavour) -> Bounds:
    return bounds(
        problem.workload,
        problem.true_lengths,
        problem.prompts,
        problem.model,
        flavour.token_budget,
        problem.settings.dp,
    )


def _facts(problem: Problem) -> PoolFacts:
    workload, prompts, system = problem.workload, problem.prompts, problem.model.system
    truth = problem.true_lengths
    closed = closed_form(system, workload.prompt_len, truth)
    measured = profiled(problem.model, workload.prompt_len, truth)
    shareable = shareable_tokens(workload, prompts, system.block_tokens)
    return PoolFacts(
        table_density(closed, shareable_tokens(workload, prompts) / workload.prompt_len.sum()),
        pool_density(measured, shareable),
        shareable,
    )
