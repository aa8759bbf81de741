"""Comparing systems: every baseline on one pool, each at its own best token budget and running
limit, and at one budget that all of them run.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from blendsim.baselines import Baseline, own_baselines
from blendsim.cores import on_all_cores
from blendsim.errors import BlendsimError, InputError, Unfit
from blendsim.plan import Plan
from blendsim.planner.own import Order, reordered
from blendsim.report.metrics import Outside, Row, named, outside_of_all
from blendsim.request import Workload
from blendsim.search.budgets import (
    WORTH,
    covered_budgets,
    gains_by_fewer,
    lower_limits,
    smaller_budgets,
)
from blendsim.search.own import RANKED_BY
from blendsim.search.priced import pricing_notes
from blendsim.search.problem import Problem, plan_policy, prepare, with_settings
from blendsim.search.trial import (
    block_size,
    find_bounds,
    find_engine,
    find_facts,
    find_work,
    run_trial,
)
from blendsim.search.world_run import timed_in
from blendsim.serving.flavour import Flavour, find_flavour
from blendsim.settings import Settings
from blendsim.sim.pool_cores import require_servable
from blendsim.sim.run import require_modelled
from blendsim.sim.timing import Timed
from blendsim.topology import COLOCATED
from blendsim.wording import Say

COMMON_BUDGET = 2_048


class Comparison(NamedTuple):
    """What the baselines are worth on one pool."""

    rows: list[Row]  # one a baseline, named by it, at its best limits by prediction
    common: list[Row]  # the same baselines at one token budget and their engines' running limits
    notes: list[str]  # what was guessed or extrapolated
    caveats: list[str]  # what steps are priced by


def compare(
    workload: Workload,
    settings: Settings,
    baselines: Sequence[Baseline],
    progress: Say = lambda _: None,
    own: Mapping[str, Order] | None = None,
) -> Comparison:
    """Every one of the baselines on the pool, and by each of their engines one's `own` orders of
    the workload's rows by their names. With a token budget in the settings all run at that, and
    alike with a running limit.

    Rows on equally many replicas stand beside the same bounds: those of the largest budget tried
    and of the smallest KV block. What sharing can reach is said of each engine's own block.
    """
    problem = prepare(workload, settings, progress)
    own = own or {}
    baselines = [*baselines, *own_baselines(baselines, own)]
    scenes = _scenes(problem, baselines)
    baselines, left_out = _runnable(scenes, baselines)
    blocks = {b.engine: block_size(problem, [find_flavour(b.engine)]) for b in baselines}
    finest = min(blocks.values())
    most = max(covered_budgets(problem))
    progress(f"bounds for {most} tokens a step")
    limits = {
        scene.settings.replicas: find_bounds(scene, most, finest) for scene in scenes.values()
    }
    works = {block: find_work(problem, block) for block in {*blocks.values()} - {finest}}
    works[finest] = next(iter(limits.values())).work
    facts = {block: find_facts(problem, work) for block, work in works.items()}

    def key_of(baseline: Baseline) -> _Key:
        dp = scenes[baseline.topology].settings.dp
        return _Key(baseline.policy, dp, baseline.engine if dp > 1 else settings.engine)

    def make(key: _Key) -> Plan:
        progress(f"planning {key.policy}")
        by = problem.settings.for_engine(key.engine)
        planned = with_settings(problem, by, topology=COLOCATED.name, dp=key.dp)
        return plan_policy(planned, key.policy)

    keys = {key_of(baseline) for baseline in baselines}
    ordered = {key for key in keys if key.policy in own}
    made = sorted(keys - ordered | {key._replace(policy=RANKED_BY) for key in ordered})
    plans = dict(zip(made, on_all_cores(make, made), strict=True))
    for key in sorted(ordered):
        progress(f"planning {key.policy}")
        ranked = plans[key._replace(policy=RANKED_BY)]
        plans[key] = reordered(ranked, own[key.policy], key.policy)

    def run(baseline: Baseline) -> tuple[Row, Row, list[Outside], list[str]]:
        progress(f"simulating {baseline.name}")
        scene = scenes[baseline.topology]
        plan = plans[key_of(baseline)]
        bound, fact = limits[scene.settings.replicas], facts[blocks[baseline.engine]]
        budget = settings.token_budget or COMMON_BUDGET
        common = find_engine(scene, baseline.engine, budget)
        best, seconds = _foresee(scene, plan, baseline)
        trial = run_trial(scene, plan, baseline.name, best, bound, fact, seconds.get(best))
        if common == best:
            return trial.row, trial.row, trial.outside, trial.remarks
        seen = seconds.get(common)
        other = run_trial(scene, plan, baseline.name, common, bound, fact, seen)
        return trial.row, other.row, trial.outside, trial.remarks

    done = on_all_cores(run, baselines)
    beyond = outside_of_all({row.policy: found for row, _, found, _ in done})
    remarks = _together({row.policy: told for row, _, _, told in done})
    notes = [*problem.notes, *left_out, *beyond, *remarks]
    overlaps = any(find_flavour(baseline.engine).overlaps for baseline in baselines)
    caveats = pricing_notes([settings], overlaps=overlaps)
    best, common = [row for row, *_ in done], [at_common for _, at_common, *_ in done]
    return Comparison(best, common, notes, caveats)


class _Key(NamedTuple):
    """What a plan of the comparison depends on."""

    policy: str
    dp: int
    engine: str  # by whose runs several ranks are cut; of one rank the asked one's


def _together(remarks: Mapping[str, Sequence[str]]) -> list[str]:
    """What is to be known of the rows by their names; of several the same once."""
    rows: dict[str, list[str]] = {}
    for name, told in remarks.items():
        for remark in told:
            rows.setdefault(remark, []).append(name)
    return [f"{named(names, remarks)}: {remark}" for remark, names in rows.items()]


def _scenes(problem: Problem, baselines: Sequence[Baseline]) -> dict[str, Problem]:
    """The problem on each topology; pools of prefill and decode replicas name their own number."""
    scenes = {}
    for name in {baseline.topology for baseline in baselines}:
        if name == COLOCATED.name:
            scenes[name] = with_settings(problem, topology=name)
        else:
            scenes[name] = with_settings(problem, topology=name, dp=1, steals=False)
    return scenes


def _runnable(
    scenes: dict[str, Problem], baselines: Sequence[Baseline]
) -> tuple[list[Baseline], list[str]]:
    """The baselines that can run as asked, and a sentence for each reason why others cannot;
    InputError if none can.
    """
    kept: list[Baseline] = []
    left_out: dict[str, list[str]] = {}  # names by what is wrong
    for baseline in baselines:
        scene = scenes[baseline.topology]
        settings = scene.settings
        try:
            flavour = find_engine(scene, baseline.engine)
            require_modelled(flavour, settings.cluster, settings.host, scene.model.system)
            if settings.cluster.is_disaggregated:
                require_servable(scene.workload, scene.true_lengths, scene.model, settings.cluster)
        except BlendsimError as error:
            # NOTE: nobody asked for this one's engine, so none is to be asked for instead.
            why = error.what if isinstance(error, Unfit) else str(error)
            left_out.setdefault(why, []).append(baseline.name)
        else:
            kept.append(baseline)
    told = [
        f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} left out: {error}"
        for error, names in left_out.items()
    ]
    if not kept:
        raise InputError(f"no baseline can run as asked; {told[0]}")
    return kept, told


def _foresee(
    problem: Problem, plan: Plan, baseline: Baseline
) -> tuple[Flavour, dict[Flavour, float]]:
    """The baseline's engine at the budget that is fastest by prediction, of its own and the common
    one where prefill and decode have pools of their own, since those take long to simulate; if that
    is the least of all, at a smaller one where that is faster; where it preempts or has the longest
    answers first, at the running limit that is fastest; and predicted seconds at those that were
    tried.
    """
    budgets: list[int | None] = [*covered_budgets(problem)]
    if problem.settings.cluster.is_disaggregated:
        budgets = [None, problem.settings.token_budget or COMMON_BUDGET]
    tried = list(dict.fromkeys(find_engine(problem, baseline.engine, n) for n in budgets))
    if len(tried) == 1 and not lower_limits(problem, tried):
        return tried[0], {}

    runs: dict[Flavour, Timed] = {}

    def fastest(engines: Sequence[Flavour]) -> Flavour:
        for one in engines:
            if one not in runs:
                runs[one] = timed_in(problem, plan, one, problem.drawn)
        return min(engines, key=lambda one: runs[one].seconds)

    best = fastest(tried)
    smaller = smaller_budgets(problem, best.token_budget)
    best = fastest([best, *(find_engine(problem, baseline.engine, n) for n in smaller)])
    own = find_engine(problem, baseline.engine)
    lower = lower_limits(problem, [best, own])
    if lower and gains_by_fewer(baseline.policy, preempts=runs[best].preempts):
        least = fastest(lower)
        if runs[least].seconds <= runs[best].seconds * (1 - WORTH):
            best = least
    return best, {one: timed.seconds for one, timed in runs.items()}
