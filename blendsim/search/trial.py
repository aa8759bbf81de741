"""A trial: one plan on one engine, simulated on what planning may see and on the true lengths, and
put beside the bounds.
"""

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import NamedTuple

import numpy as np

from blendsim.arrays import Ints
from blendsim.perf.density import closed_form, table_density
from blendsim.perf.pricing import price_steps
from blendsim.plan import Plan
from blendsim.prefix import shareable_tokens
from blendsim.report.metrics import Outside, Place, PoolFacts, Row, outside, summarise
from blendsim.report.optimum import Bounds, Work, best_times, bounds, least_work
from blendsim.report.tables import seconds as seconds_told
from blendsim.search.problem import Problem, with_settings
from blendsim.search.world_run import seconds_in
from blendsim.serving.flavour import Flavour
from blendsim.settings import Settings
from blendsim.sim.lock_step import ALONE, LONGEST
from blendsim.sim.run import simulate
from blendsim.steplog import StepLog


class Trial(NamedTuple):
    """A plan and what became of it."""

    plan: Plan
    row: Row
    log: StepLog  # on true lengths where the trace has them
    bounds: Bounds
    facts: PoolFacts
    outside: list[Outside]  # where it was extrapolated
    remarks: list[str]  # what else is to be known of it

    @property
    def notes(self) -> list[str]:
        """All of that in sentences."""
        return [*(each.told() for each in self.outside), *self.remarks]


def find_engine(
    problem: Problem, name: str, token_budget: int | None = None, max_running: int | None = None
) -> Flavour:
    """The engine at this token budget and running limit, else the asked ones; ProfileError if the
    profile does not reach that far.
    """
    flavour = problem.settings.flavour(name, token_budget, max_running)
    problem.model.coverage.require(flavour.token_budget)
    return flavour


def engine_of(problem: Problem, row: Row) -> Flavour:
    """The engine at the limits that the row was run at."""
    return find_engine(problem, row.engine, row.token_budget, row.max_running)


def find_place(settings: Settings, flavour: Flavour) -> Place:
    """What runs of that engine take place on."""
    system = flavour.divide(settings.system)
    limits = flavour.token_budget, flavour.most_running
    return Place(flavour.name, *limits, system, settings.replicas)


def log_in(problem: Problem, plan: Plan, flavour: Flavour, output_len: Ints) -> StepLog:
    """The run whose seconds `world_run.seconds_in` looks at, with its log."""
    return simulate(
        plan,
        problem.workload,
        output_len,
        problem.prompts,
        problem.model,
        flavour,
        problem.settings.cluster,
        host=problem.settings.host,
    )


def run_trial(
    problem: Problem,
    plan: Plan,
    name: str,
    flavour: Flavour,
    limits: Bounds,
    facts: PoolFacts,
    predicted: float | None = None,
) -> Trial:
    """Simulate a plan on what planning may see and, where they differ, on the true lengths.
    `predicted` are the seconds of the first, if they were found before.
    """
    workload, truth = problem.workload, problem.true_lengths
    log = log_in(problem, plan, flavour, truth)
    if np.array_equal(truth, problem.drawn):
        predicted = log.end
    elif predicted is None:
        predicted = seconds_in(problem, plan, flavour, problem.drawn)
    place = find_place(problem.settings, flavour)
    row = summarise(
        name,
        workload,
        truth,
        predicted,
        log,
        limits,
        place,
        facts,
    )
    remarks = []
    lacking = int((~workload.has_output).sum())
    if lacking and row.seconds is not None:
        remarks.append(
            f"seconds are simulated on the {len(workload) - lacking:,} output lengths that are "
            f"given and, for the {lacking:,} others, on drawn ones"
        )
    if flavour.cascade:
        remarks.append(_cascade_note(problem, flavour, log))
    if problem.model.system.is_joined:
        remarks.append(_lock_step_note(problem, log))
    beyond = outside(log, problem.model.coverage)
    return Trial(plan, row, log, limits, facts, beyond, remarks)


def run_at_limits(
    problem: Problem, plan: Plan, name: str, flavour: Flavour, limits: Bounds, facts: PoolFacts
) -> tuple[Problem, Trial]:
    """`run_trial` of a problem and a plan that ask for the token budget and the running limit of
    `flavour`, but for what it has by itself; and that problem.
    """
    there, asked = problem, problem.settings
    if flavour.token_budget != asked.flavour(flavour.name).token_budget:
        there = with_settings(there, token_budget=flavour.token_budget, max_running=None)
    if asked.max_running or flavour.max_running != there.settings.flavour(flavour.name).max_running:
        there = with_settings(there, max_running=flavour.max_running)
    plan = replace(plan, meta={**plan.meta, "settings": asdict(there.settings)})
    return there, run_trial(there, plan, name, flavour, limits, facts)


def _lock_step_note(problem: Problem, log: StepLog) -> str:
    """What waiting takes where replicas share experts."""
    system = problem.model.system
    alone, longest = log.meta[ALONE], log.meta[LONGEST]
    return (
        f"replicas that share experts (--ep {system.joined_gpus}) wait for each other in every "
        f"step: {seconds_told(log.end)} s; each by itself, with experts as if all had as many "
        f"tokens as it, {seconds_told(alone)} s; every step as long as the longest of those, "
        f"{seconds_told(longest)} s (docs/cluster.md)"
    )


def _cascade_note(problem: Problem, flavour: Flavour, log: StepLog) -> str:
    """What cascade attention saved in these steps."""
    costs = replace(flavour, cascade=False).costs(problem.model)
    read, shared = (int(log.count(name).sum()) for name in ("context_tokens", "shared_reads"))
    without = float(price_steps(costs, log.counts).sum())
    saved = 1.0 - float(log.time("seconds").sum()) / without if without else 0.0
    return (
        f"cascade attention, as modelled: {shared / max(read, 1):.1%} of the context that decodes "
        f"read is read for another of them already; the same steps are {saved:.1%} shorter for it"
    )


def block_size(problem: Problem, flavours: Iterable[Flavour]) -> int:
    """Tokens of the smallest KV block among the engines: with it a prefix is shared best."""
    system = problem.model.system
    return min(flavour.divide(system).block_tokens for flavour in flavours)


def find_bounds(problem: Problem, token_budget: int, block_tokens: int) -> Bounds:
    """Both bounds of the pool for engines of up to `token_budget` tokens a step that share KV
    blocks of `block_tokens`.
    """
    model = problem.model
    return bounds(
        problem.workload,
        problem.true_lengths,
        problem.prompts,
        replace(model, system=replace(model.system, block_tokens=block_tokens)),
        token_budget,
        problem.settings.replicas,
        problem.settings.nano_batches or 1,
        problem.settings.cascade,
    )


def widest(found: Iterable[tuple[int, Bounds]]) -> Bounds:
    """Of bounds with the token budgets that they are for, those of the largest, which hold for runs
    at all of them.
    """
    return max(found, key=lambda one: one[0])[1]


def find_work(problem: Problem, block_tokens: int) -> Work:
    """What any schedule of the pool must do at least; the bounds for KV blocks of that size have
    it.
    """
    window = problem.model.system.model.window
    return least_work(problem.workload, problem.true_lengths, problem.prompts, block_tokens, window)


def find_facts(problem: Problem, work: Work) -> PoolFacts:
    """What is true of the pool whatever the schedule. `work` is its least, and with that of the KV
    blocks that sharing counts in.
    """
    workload, prompts, system = problem.workload, problem.prompts, problem.model.system
    closed = closed_form(system, workload.prompt_len, problem.true_lengths)
    return PoolFacts(
        density=table_density(
            closed, shareable_tokens(workload, prompts) / workload.prompt_len.sum()
        ),
        # NOTE: not by the times of Bounds, which are of what cascade attention leaves to be read.
        density_profile=best_times(work, problem.model).density,
        shareable_tokens=work.shareable,
    )
