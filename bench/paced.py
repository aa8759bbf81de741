"""What paced blending is worth on the paper's four workloads, and what each of its parts is.

    python bench/paced.py [DIRECTORY with real traces] [--gpu h200] [--seeds 8]

400,000 requests each, Llama-3.1-8B on one GPU. Seconds are simulated on the true lengths; plans see
the lengths they say. DFS and BlendServe are shown at 2,048 tokens a step and at their best budget
in hindsight, which favours them. Then single parts are switched off, on the first two workloads.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from machine import machine, row, timed, today

from blendsim import search
from blendsim.pacing import Gains
from blendsim.report.metrics import Row
from blendsim.request import Workload
from blendsim.search.comparison import BUDGETS
from blendsim.search.trial import block_size, find_bounds, find_engine, find_facts, run_trial
from blendsim.synth.blend import blend
from blendsim.synth.recipes import RECIPES

PARTS = {
    "as it is": {},
    "no step smaller than runs well: off": {"efficiency": 0.0},
    "price of a token: off (any size near the even share)": {"slack": 1.0},
    "room for the compute-heavy end: off": {"left_room": 0.0},
    "spread of unknown lengths: off": {"caution": 0.0},
    "reckoned once": {"look_steps": 1 << 20},
}


def runs(problem: search.Problem, policy: str, budgets: tuple[int, ...], most: int) -> list[Row]:
    """The policy at each token budget, beside the bounds of `most` tokens a step."""
    plan = search.plan_policy(problem, policy)
    engines = [find_engine(problem, "nanoflow", budget) for budget in budgets]
    block = block_size(problem, engines)
    limits, facts = find_bounds(problem, most, block), find_facts(problem, block)
    return [run_trial(problem, plan, policy, e, limits, facts).row for e in engines]


def shown(label: str, trace: str, done: Row, base: float) -> str:
    """One line of the first table."""
    cells = (
        f"{done.seconds:,.0f}",
        f"{done.share_of_optimum:.1%}",
        f"{done.share_of_reachable:.1%}",
        f"{base / done.reported_seconds:.3f}",
        f"{done.sharing_ratio / done.sharing_optimum:.1%}",
        f"{done.preempted_tokens / (done.input_tokens + (done.output_tokens or 0)):.3%}",
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
    parser.add_argument("--seeds", type=int, default=8)
    asked = parser.parse_args()
    known = search.Settings(sample=1.0, gpu=asked.gpu)
    own = find_engine(search.prepare(_tiny(known), known), "nanoflow").token_budget
    most = max(BUDGETS)
    print(f"{machine()}; {today()}; {asked.gpu}, overlap {known.overlap}\n")
    head = ("workload", "schedule", "seconds", "of optimum", "of reachable")
    print(row(*head, "over DFS at its best", "sharing kept", "recomputed"))
    print(row(*["---"] * 8))
    shares: dict[str, list[float]] = {}
    pools = {}
    for trace, recipe in RECIPES.items():
        pool = pools[trace] = blend(recipe, known.system, asked.data).workload
        problem = search.prepare(pool, known)
        dfs = runs(problem, "dfs", BUDGETS, most)
        blended = runs(problem, "blend", BUDGETS, most)
        base = min(done.reported_seconds for done in dfs)
        at = BUDGETS.index(own)
        lines = {
            f"dfs, {own:,} tokens": dfs[at],
            "dfs, best budget": min(dfs, key=lambda done: done.reported_seconds),
            f"blend, {own:,} tokens": blended[at],
            "blend, best budget": min(blended, key=lambda done: done.reported_seconds),
            "paced, lengths known": runs(problem, "paced", (own,), most)[0],
        }
        sampled = search.prepare(pool, replace(known, sample=0.01))
        lines["paced, 1 % sampled, videos known"] = runs(sampled, "paced", (own,), most)[0]
        for label, done in lines.items():
            print(shown(label, trace, done, base), flush=True)
            shares.setdefault(label, []).append(done.share_of_reachable)
        seeds = []
        for seed in range(asked.seeds):
            blind = search.prepare(unknown(pool), replace(known, sample=0.01, seed=seed))
            seeds.append(runs(blind, "paced", (own,), most)[0])
        reach = [done.share_of_reachable for done in seeds]
        label = f"paced, 1 % sampled, nothing known, {asked.seeds} seeds"
        spread = stdev(reach) if len(reach) > 1 else 0.0
        optimum = mean(done.share_of_optimum for done in seeds)
        seconds = mean(done.reported_seconds for done in seeds)
        lost = mean(done.preempted_tokens for done in seeds) / (
            seeds[0].input_tokens + (seeds[0].output_tokens or 0)
        )
        kept = mean(done.sharing_ratio / done.sharing_optimum for done in seeds)
        print(
            row(
                trace,
                label,
                f"{seconds:,.0f}",
                f"{optimum:.1%}",
                f"{mean(reach):.1%} ± {spread:.1%}",
                f"{base / seconds:.3f}",
                f"{kept:.1%}",
                f"{lost:.3%}",
            ),
            flush=True,
        )
        shares.setdefault(label, []).append(mean(reach))
    print("\nMean share of the reachable bound:\n")
    for label, reached in shares.items():
        print(f"- {label}: {mean(reached):.1%}")
    two = list(pools)[:2]
    cases = [f"{trace}, {what}" for what in ("known", "nothing known") for trace in two]
    print("", row("part", *cases), sep="\n")
    print(row(*["---"] * 5))
    for name, change in PARTS.items():
        cells = []
        for pool, settings in [
            *((pools[trace], known) for trace in two),
            *((unknown(pools[trace]), replace(known, sample=0.01)) for trace in two),
        ]:
            problem = search.prepare(pool, replace(settings, pacing=Gains(**change)))
            cells.append(f"{runs(problem, 'paced', (own,), most)[0].share_of_reachable:.1%}")
        print(row(name, *cells), flush=True)


def _tiny(settings: search.Settings) -> Workload:
    """A few requests, to ask an engine for its rules."""
    recipe = replace(RECIPES["trace1"], requests=2_000, tolerance=0.5)
    return blend(recipe, settings.system, None).workload


if __name__ == "__main__":
    took = timed(main)[1]
    print(f"\nmeasured in {took:.0f} s")
