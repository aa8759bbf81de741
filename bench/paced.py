"""What paced blending is worth on the paper's four workloads, and what each of its parts is.

    python bench/paced.py [DIRECTORY with real traces] [--gpu h200 [--profile measured]] [--seeds 8]
        [--traces trace1 …] [--parts | --rows]

400,000 requests each, Llama-3.1-8B on one GPU. Seconds are simulated on the true lengths; plans see
the lengths they say. DFS and BlendServe are shown at 2,048 tokens a step and at their best budget
in hindsight, which favours them; paced at 2,048 and at the budget that `plan` takes by prediction.
Then single parts are switched off, on the first two workloads.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np
from floors import bound_with_floors
from machine import machine, row, timed, today

from blendsim import search
from blendsim.arrays import Ints
from blendsim.pacing import Gains
from blendsim.plan import Plan
from blendsim.planner.blend import BlendSettings
from blendsim.planner.split import SplitRule
from blendsim.report.metrics import PoolFacts, Row
from blendsim.report.optimum import Bounds
from blendsim.request import Workload
from blendsim.search.budgets import BUDGETS, Contender, better_run
from blendsim.search.problem import with_settings
from blendsim.search.schedule_search import Effort, search_prepared
from blendsim.search.trial import block_size, find_bounds, find_engine, find_facts, run_trial
from blendsim.serving.flavour import PROMPT_FITS, Flavour
from blendsim.synth.blend import blend
from blendsim.synth.recipes import RECIPES

PARTS = {
    "as it is": {},
    "no step smaller than runs well: off": {"efficiency": 0.0},
    "price of a token: off (any size near the even share)": {"slack": 1.0},
    "deviations kept free for the compute-heavy end: off": {"left_room": 0.0},
    "spread of unknown lengths: off": {"caution": 0.0},
    "running re-estimation of lengths: off": {"trust": 1e9},
    "reckoned once": {"look_steps": 1 << 20},
    "prefixes that somebody waits for evicted last: off": {"keeps_awaited": False},
    "answers of one length end apart: off": {"crowd": 1e9},
    "reads that last as long as the longest answer: off": {"longest_fill": 0.0},
}
NO_PACING = "pacing: off (dual scan, 2,048 tokens a step)"
NO_PEAK = "predicted-peak admission: off"
NO_SPLIT = "splitting subtrees: off"
NO_ORDER = "order of the pool: off (shuffled)"
NO_EVEN = "evening of the compute-heavy end: off"
SEARCHED = "search: on ({} evaluations)"
EVALUATIONS = 96
KNOWN, SAMPLED = "paced, lengths known", "paced, 1 % sampled, videos known"
CHOSEN = "at the budget that `plan` takes"


class Judge(NamedTuple):
    """What is true of a pool whatever the schedule, worked out once."""

    limits: Bounds
    facts: PoolFacts
    least: float  # seconds, the bound that counts every step's floors too

    def rows(
        self, problem: search.Problem, plan: Plan, policy: str, engines: list[Flavour]
    ) -> list[Row]:
        """The plan on each engine."""
        return [
            run_trial(problem, plan, policy, engine, self.limits, self.facts).row
            for engine in engines
        ]


def judge(problem: search.Problem, most: int) -> Judge:
    """The bounds of `most` tokens a step; what planning sees of the lengths is no matter."""
    block = block_size(problem, [find_engine(problem, "nanoflow")])
    model = replace(problem.model, system=replace(problem.model.system, block_tokens=block))
    least = bound_with_floors(problem.workload, problem.true_lengths, problem.prompts, model, most)
    limits = find_bounds(problem, most, block)
    return Judge(limits, find_facts(problem, limits.work), least)


def runs(
    judged: Judge, problem: search.Problem, policy: str, budgets: tuple[int, ...]
) -> list[Row]:
    """The policy at each token budget."""
    engines = [find_engine(problem, "nanoflow", budget) for budget in budgets]
    return judged.rows(problem, search.plan_policy(problem, policy), policy, engines)


def paced(judged: Judge, problem: search.Problem) -> tuple[Row, Row]:
    """At the engine's own token budget, and at the one that `plan` takes."""
    engine, plan = find_engine(problem, "nanoflow"), search.plan_policy(problem, "paced")
    own = judged.rows(problem, plan, "paced", [engine])[0]
    better = better_run(problem, [Contender("paced", plan, own.predicted_seconds)], engine)
    return own, own if better is None else judged.rows(problem, plan, "paced", [better[1]])[0]


def without(part: str, judged: Judge, problem: search.Problem) -> Row:
    """A run with one part switched off."""
    engine, policy, blended = find_engine(problem, "nanoflow"), "paced", BlendSettings()
    if part in PARTS:
        problem = with_settings(problem, pacing=Gains(**PARTS[part]))
    elif part == NO_PACING:
        policy = "blend"
    elif part == NO_PEAK:
        engine = replace(engine, admission=PROMPT_FITS)
    elif part == NO_SPLIT:
        blended = BlendSettings(split=SplitRule(kept_sharing=1.0, threshold=0))
    plan = search.plan_policy(problem, policy, blended)
    if part == NO_ORDER:
        plan = shuffled(plan, np.random.default_rng(0))
    elif part == NO_EVEN:
        plan = by_density(plan)
    return judged.rows(problem, plan, policy, [engine])[0]


def searched(problem: search.Problem, judged: Judge) -> float:
    """Share of the reachable bound of the schedule that is found by prediction."""
    found = search_prepared(problem, Effort(evaluations=EVALUATIONS))
    return judged.limits.reachable / found.chosen.reported_seconds


def shuffled(plan: Plan, rng: np.random.Generator) -> Plan:
    """The plan with the requests that were not sampled in any order."""
    place = np.arange(len(plan.order))
    place[~plan.is_first] = rng.permutation(place[~plan.is_first])
    return moved(plan, place)


def by_density(plan: Plan) -> Plan:
    """The plan with the requests that were not sampled by the density of their nodes."""
    first = int(plan.is_first.sum())
    rest = first + np.argsort(-plan.density[first:], kind="stable")
    return moved(plan, np.concatenate([np.arange(first), rest]))


def moved(plan: Plan, place: Ints) -> Plan:
    """The plan of one rank with its requests at other places."""
    return replace(
        plan,
        order=plan.order[place],
        is_visible=plan.is_visible[place],
        expected_output=plan.expected_output[place],
        density=plan.density[place],
    )


def shown(label: str, trace: str, done: Row, base: float, least: float) -> str:
    """One line of the first table."""
    cells = (
        f"{done.seconds:,.0f}",
        f"{done.share_of_optimum:.1%}",
        f"{done.share_of_reachable:.1%}",
        f"{least / done.seconds:.1%}",
        f"{base / done.reported_seconds:.3f}",
        f"{done.sharing_ratio / done.sharing_optimum:.1%}",
        f"{done.recomputed_tokens / (done.input_tokens + (done.output_tokens or 0)):.3%}",
    )
    return row(trace, label, *cells)


def shown_mean(label: str, trace: str, rows: Sequence[Row], base: float, least: float) -> str:
    """The same of several sampling seeds: means, and the standard deviation of what is reached."""
    reach = [done.share_of_reachable for done in rows]
    seconds = mean(done.reported_seconds for done in rows)
    tokens = rows[0].input_tokens + (rows[0].output_tokens or 0)
    cells = (
        f"{seconds:,.0f}",
        f"{mean(done.share_of_optimum for done in rows):.1%}",
        f"{mean(reach):.1%} ± {stdev(reach) if len(reach) > 1 else 0.0:.1%}",
        f"{mean(least / done.seconds for done in rows):.1%}",
        f"{base / seconds:.3f}",
        f"{mean(done.sharing_ratio / done.sharing_optimum for done in rows):.1%}",
        f"{mean(done.recomputed_tokens for done in rows) / tokens:.3%}",
    )
    return row(trace, label, *cells)


def unknown(workload: Workload) -> Workload:
    """The pool with no length known beforehand, videos' neither."""
    return replace(workload, is_known=np.zeros(len(workload), np.bool_))


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--gpu", default="a100-80g")
    parser.add_argument("--profile", default="imported", help="of the GPU: imported, or measured")
    parser.add_argument("--seeds", type=int, default=8, help="0: nothing with no length known")
    parser.add_argument("--traces", nargs="+", choices=RECIPES, default=[])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--parts", action="store_true", help="only the parts switched off")
    which.add_argument("--rows", action="store_true", help="only the policies")
    asked = parser.parse_args()
    known = search.Settings(sample=1.0, gpu=asked.gpu, profile=asked.profile)
    own = find_engine(search.prepare(_tiny(known), known), "nanoflow").token_budget
    most = max(BUDGETS)
    print(
        f"{machine()}; {today()}; {asked.gpu}, {asked.profile} profile, overlap {known.overlap}\n"
    )
    head = ("workload", "schedule", "seconds", "of optimum", "of reachable", "with floors")
    print(row(*head, "over DFS at its best", "sharing kept", "recomputed"))
    print(row(*["---"] * 9))
    shares: dict[str, list[float]] = {}
    pools: dict[str, Workload] = {}
    judges: dict[str, Judge] = {}
    for trace in asked.traces or RECIPES:
        recipe = RECIPES[trace]
        pool = pools[trace] = blend(recipe, known.system, asked.data).workload
        problem = search.prepare(pool, known)
        judged = judges[trace] = judge(problem, most)
        if asked.parts:
            continue
        least = judged.least
        dfs = runs(judged, problem, "dfs", BUDGETS)
        blended = runs(judged, problem, "blend", BUDGETS)
        base = min(done.reported_seconds for done in dfs)
        at = BUDGETS.index(own)
        lines = {
            f"dfs, {own:,} tokens": dfs[at],
            "dfs, best budget": min(dfs, key=lambda done: done.reported_seconds),
            f"blend, {own:,} tokens": blended[at],
            "blend, best budget": min(blended, key=lambda done: done.reported_seconds),
        }
        sampled = search.prepare(pool, replace(known, sample=0.01))
        for label, seen in ((KNOWN, problem), (SAMPLED, sampled)):
            lines[label], lines[f"{label}, {CHOSEN}"] = paced(judged, seen)
        for label, done in lines.items():
            print(shown(label, trace, done, base, least), flush=True)
            shares.setdefault(label, []).append(done.share_of_reachable)
        if asked.seeds == 0:
            continue
        seeds = []
        for seed in range(asked.seeds):
            blind = search.prepare(unknown(pool), replace(known, sample=0.01, seed=seed))
            seeds.append(paced(judged, blind))
        label = f"paced, 1 % sampled, nothing known, {asked.seeds} seeds"
        for name, done in zip((label, f"{label}, {CHOSEN}"), zip(*seeds, strict=True), strict=True):
            print(shown_mean(name, trace, done, base, least), flush=True)
            shares.setdefault(name, []).append(mean(each.share_of_reachable for each in done))
    if shares:
        print("\nMean share of the reachable bound:\n")
    for label, reached in shares.items():
        print(f"- {label}: {mean(reached):.1%}")
    if not asked.rows:
        show_parts(pools, judges, known)


def show_parts(
    pools: Mapping[str, Workload], judges: Mapping[str, Judge], known: search.Settings
) -> None:
    """Each part switched off, on the first two workloads."""
    two = [trace for trace in list(RECIPES)[:2] if trace in pools]
    cases = [f"{trace}, {what}" for what in ("known", "nothing known") for trace in two]
    problems = [
        *((trace, search.prepare(pools[trace], known)) for trace in two),
        *(
            (trace, search.prepare(unknown(pools[trace]), replace(known, sample=0.01)))
            for trace in two
        ),
    ]
    print("", row("part", *cases), sep="\n")
    print(row(*["---"] * (1 + len(cases))))
    for part in (*PARTS, NO_PACING, NO_ORDER, NO_EVEN, NO_SPLIT, NO_PEAK):
        done = [without(part, judges[trace], problem) for trace, problem in problems]
        print(row(part, *(f"{each.share_of_reachable:.1%}" for each in done)), flush=True)
    shares = [searched(problem, judges[trace]) for trace, problem in problems]
    print(row(SEARCHED.format(EVALUATIONS), *(f"{share:.1%}" for share in shares)), flush=True)


def _tiny(settings: search.Settings) -> Workload:
    """A few requests, to ask an engine for its rules."""
    recipe = replace(RECIPES["trace1"], requests=2_000, tolerance=0.5)
    return blend(recipe, settings.system, None).workload


if __name__ == "__main__":
    took = timed(main)[1]
    print(f"\nmeasured in {took:.0f} s")
