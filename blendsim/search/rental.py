"""What to rent: plan a pool on many systems, price each, choose by what the user wants.

What does not depend on the system is done once: prompts are sorted and lengths sampled for the
pool, and orders made once for all numbers of replicas.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import groupby, product
from typing import NamedTuple

import numpy as np

from blendsim.cores import on_all_cores
from blendsim.errors import BlendsimError, InputError, NotMeasured, ProfileError, Unfit
from blendsim.perf.measured import IMPORTED, chosen_model, meant
from blendsim.plan import Plan
from blendsim.planner.make import dearest_first
from blendsim.report.metrics import PoolFacts, total_tokens
from blendsim.report.optimum import Bounds
from blendsim.report.rental import Goal, RentalRow, kind_name, system_name
from blendsim.request import Workload
from blendsim.search.budgets import Contender, better_run, leading_runs, tries_others
from blendsim.search.caveats import unfollowed
from blendsim.search.priced import pricing_notes
from blendsim.search.prices import Prices
from blendsim.search.problem import (
    Problem,
    kind_of,
    lay_ground,
    moved,
    over_replicas,
    plan_whole,
    prepare,
    with_settings,
)
from blendsim.search.reliable import Outcome, most_reliable
from blendsim.search.spread import NO_SPREAD, Spread, with_range
from blendsim.search.trial import (
    Trial,
    block_size,
    find_bounds,
    find_engine,
    find_facts,
    run_at_limits,
    run_trial,
)
from blendsim.search.world_run import seconds_in
from blendsim.serving.flavour import Flavour
from blendsim.settings import Settings
from blendsim.sim.pool_cores import require_servable
from blendsim.sim.run import require_modelled
from blendsim.specs import find_model
from blendsim.topology import COLOCATED
from blendsim.traces.limits import oversize
from blendsim.wording import Say

_CANNOT_RUN = (InputError, ProfileError)  # an unknown name is an error even in one of several


class Candidates(NamedTuple):
    """Systems to plan for, and a sentence on each that can run nothing."""

    settings: list[Settings]
    left_out: list[str]
    differ_in_weights: bool = False  # they were asked for in several formats

    @property
    def roomiest(self) -> Settings:
        """The one that holds the longest request."""
        return max(self.settings, key=lambda settings: settings.system.longest_request)

    def weights(self, settings: Settings) -> str | None:
        """The format of one's weights where they differ in it."""
        return settings.spec.weights if self.differ_in_weights else None

    def kind(self, settings: Settings) -> str:
        """The kind of one's replicas in a few words."""
        return kind_name(settings.gpu, settings.tp, settings.pp, self.weights(settings))


class Rental(NamedTuple):
    """What renting each system would give."""

    rows: list[RentalRow]  # the best first
    chosen: RentalRow | None  # None where no row meets the limits
    plan: Plan | None  # the chosen row's
    spread: Spread  # its times in other worlds; none where there is no row or one world only
    left_out: list[str]  # a sentence on each system that cannot run the pool
    notes: list[str]  # what was guessed or extrapolated
    caveats: list[str]  # what steps are priced by, and whether the engine can follow the plan


class _Scene(NamedTuple):
    """A pool on a kind of replica, whatever the number of them."""

    problem: Problem
    flavour: Flavour
    plans: dict[str, Plan]  # by policy, made for one replica
    limits: Callable[[int], Bounds]  # of one replica at up to so many tokens a step
    facts: PoolFacts


def find_candidates(
    settings: Settings,
    gpus: Iterable[str],
    tps: Iterable[int],
    dps: Sequence[int],
    quantizations: Sequence[str] = (),
    pps: Sequence[int] = (),
) -> Candidates:
    """Every combination whose replica holds the model and has a kernel profile; InputError if none
    does, or if GPUs that files describe have one name. Without `quantizations` weights are as
    `settings` have them, and so are stages without `pps`.
    """
    find_model(settings.model)  # what is wrong with it is wrong on every system
    gpus = list(gpus)
    named = [replace(settings, gpu=gpu).gpu for gpu in gpus]
    for name in named:
        if named.count(name) > 1:
            raise InputError(f"--gpu {','.join(gpus)} has two called {name}; rename one")
    asked = [replace(settings, quantization=each) for each in quantizations] or [settings]
    formats = {one.spec.weights: one for one in reversed(asked)}
    found = Candidates([], [], differ_in_weights=len(formats) > 1)
    stages = pps or [settings.pp]
    for gpu, one, tp, pp in product(gpus, reversed(formats.values()), tps, stages):
        here = replace(one, gpu=gpu, tp=tp, pp=pp, dp=1)
        here = replace(here, dp=here.spec.expert_ranks)
        try:
            chosen_model(here.system, here.overlap, here.profile)
        except _CANNOT_RUN as error:
            found.left_out.append(f"{found.kind(here)} is left out: {_what(error)}")
            continue
        every = [replace(here, dp=dp) for dp in dps]
        found.settings.extend(each for each in every if each.is_in_teams)
        if odd := [str(each.dp) for each in every if not each.is_in_teams]:
            found.left_out.append(
                f"{found.kind(here)} is left out with --dp {', '.join(odd)}: --ep {here.ep} is of "
                f"{here.dp} replicas together"
            )
    if not found.settings:
        raise InputError(f"no system can run this; {found.left_out[0]}")
    return found._replace(settings=_alike(found.settings))


def _alike(systems: list[Settings]) -> list[Settings]:
    """The systems, all by imported kernels unless those of all are of one kind: measured steps take
    longer than imported kernels say, so that a GPU would lose by having been measured.
    """
    if len({meant(one.system, one.profile) for one in systems}) == 1:
        return systems
    return [replace(one, profile=IMPORTED) for one in systems]


def rent(
    workload: Workload,
    candidates: Candidates,
    goal: Goal,
    prices: Prices | None = None,
    progress: Say = lambda _: None,
) -> Rental:
    """Each candidate with the policy that is best there by prediction, and the best of them that
    meets the limits reliably: by prediction and, where not all lengths are known, in 7 of 8 other
    worlds at least. If none does it is the one that meets them by prediction and misses them in the
    fewest worlds; none if none meets them by prediction. InputError if none can run the pool.
    """
    base = with_range(prepare(workload, candidates.roomiest, progress))
    left_out = list(candidates.left_out)
    done = []
    for problem, trial in _trials(base, candidates, left_out, progress):
        weights = candidates.weights(problem.settings)
        row = _row(problem, trial, goal, prices, base.settings, weights)
        done.append(Outcome(problem.settings, row))
    if not done:
        raise InputError(f"no system can run this pool; {left_out[0]}")
    best = most_reliable(base, done, goal, prices, progress)
    rows = [outcome.row for outcome in done]
    notes, caveats = base.notes, pricing_notes(candidates.settings)
    if best is None:
        return Rental(rows, None, None, NO_SPREAD, left_out, notes, caveats)
    notes, caveats = [*notes, *rows[0].notes], [*unfollowed(base.settings, best.plan), *caveats]
    return Rental(rows, rows[0], best.plan, best.spread, left_out, notes, caveats)


def _trials(
    base: Problem,
    candidates: Candidates,
    left_out: list[str],
    progress: Say,
) -> Iterator[tuple[Problem, Trial]]:
    """What each candidate does with the pool; those that cannot run it are told in `left_out`."""
    every = candidates.settings
    kinds = groupby(every, key=kind_of)
    for _, alike in kinds:
        group = list(alike)
        kind = candidates.kind(group[0])
        try:
            scene = _scene(base, group[0], kind, progress)
        except _CANNOT_RUN as error:
            left_out.append(f"{kind} is left out: {_what(error)}")
            continue
        for settings in group:
            problem = with_settings(scene.problem, settings)
            name = system_name(kind, settings.dp, _pools(settings))
            progress(f"simulating {name}, {every.index(settings) + 1} of {len(every)}")
            try:
                yield _best_trial(scene._replace(problem=problem))
            except _CANNOT_RUN as error:
                left_out.append(f"{name} is left out: {_what(error)}")


def _scene(base: Problem, settings: Settings, kind: str, progress: Say) -> _Scene:
    """The pool on this kind of replica and every policy's order for it; InputError or ProfileError
    if it cannot run the pool.
    """
    progress(f"planning for {kind}")
    problem = moved(base, settings)
    longest = problem.model.system.longest_request
    if len(rows := oversize(base.workload, longest)):
        raise InputError(
            f"{len(rows):,} of {len(base.workload):,} requests are longer than the {longest:,} "
            "tokens that fit"
        )
    flavour = find_engine(problem, settings.engine)
    require_modelled(flavour, settings.cluster, settings.host, problem.model.system)
    if settings.cluster.is_disaggregated:
        require_servable(problem.workload, problem.true_lengths, problem.model, settings.cluster)
    policies = settings.policies
    ground, order = lay_ground(problem), dearest_first(policies)
    made = on_all_cores(lambda policy: plan_whole(problem, policy, ground=ground), order)
    plans = dict(zip(order, made, strict=True))
    block = block_size(problem, [flavour])
    one = with_settings(problem, dp=1, topology=COLOCATED.name)
    limits = cache(lambda token_budget: find_bounds(one, token_budget, block))
    facts = find_facts(problem, limits(flavour.token_budget).work)
    return _Scene(problem, flavour, plans, limits, facts)


def _best_trial(scene: _Scene) -> tuple[Problem, Trial]:
    """The policy that is best by prediction, at another token budget or running limit if that pays,
    and only that simulated on the true lengths; and the problem, which asks for those then.
    """
    problem, flavour = scene.problem, scene.flavour
    own = scene.limits(flavour.token_budget).over(problem.settings.replicas)

    def try_out(policy: str) -> Trial:
        plan = over_replicas(problem, scene.plans[policy])
        return run_trial(problem, plan, policy, flavour, own, scene.facts)

    is_one_run = len(scene.plans) == 1 or _foretells_all(problem)
    if is_one_run and not tries_others(problem, flavour):
        trials = {trial.row.policy: trial for trial in on_all_cores(try_out, scene.plans)}
        runs = [
            Contender(name, one.plan, one.row.predicted_seconds) for name, one in trials.items()
        ]
        return problem, trials[leading_runs(problem, runs)[0].policy]

    def foresee(policy: str) -> Contender:
        plan = over_replicas(problem, scene.plans[policy])
        return Contender(policy, plan, seconds_in(problem, plan, flavour, problem.drawn))

    leading = leading_runs(problem, on_all_cores(foresee, scene.plans))
    better = better_run(problem, leading, flavour)
    if better is None:
        policy, plan, seconds = leading[0]
        return problem, run_trial(problem, plan, policy, flavour, own, scene.facts, seconds)
    run, engine = better
    widest = max(engine.token_budget, flavour.token_budget)
    limits = scene.limits(widest).over(problem.settings.replicas)
    return run_at_limits(problem, run.plan, run.policy, engine, limits, scene.facts)


def _what(error: BlendsimError) -> str:
    """What is wrong with one of several systems: what to run instead stands in the other rows."""
    return error.what if isinstance(error, Unfit | NotMeasured) else str(error)


def _foretells_all(problem: Problem) -> bool:
    """Whether a predicted run has the log of the true one, so that the chosen plan need not be run
    again for it. Ranks that never meet are foreseen without a log.
    """
    cluster = problem.settings.cluster
    keeps_log = cluster.is_disaggregated or cluster.steals
    return keeps_log and np.array_equal(problem.true_lengths, problem.drawn)


def _row(
    problem: Problem,
    trial: Trial,
    goal: Goal,
    prices: Prices | None,
    asked: Settings,
    weights: str | None,
) -> RentalRow:
    settings, row = problem.settings, trial.row
    seconds = row.predicted_seconds
    bill = None if prices is None else prices.bill(settings.gpu, row.gpus, seconds)
    cost = None if bill is None else bill.cost
    millions = total_tokens(problem.workload, problem.drawn) / 1e6
    return RentalRow(
        gpu=settings.gpu,
        weights=weights,
        tp=settings.tp,
        pp=settings.pp,
        dp=settings.dp,
        pools=_pools(settings),
        row=row,
        other_budget=None if settings.token_budget == asked.token_budget else row.token_budget,
        other_limit=None if asked.max_running or not settings.max_running else row.max_running,
        gpu_hours=row.gpus * seconds / 3_600,
        billed_gpu_hours=None if bill is None else bill.gpu_hours,
        cost=cost,
        cost_per_million_tokens=None if cost is None else cost / millions,
        offer=None if bill is None else bill.offer.name,
        misses=goal.missed(seconds, cost),
        notes=tuple(trial.notes),
        longest_seconds=trial.bounds.longest,
    )


def _pools(settings: Settings) -> str | None:
    return settings.topology if settings.cluster.is_disaggregated else None
