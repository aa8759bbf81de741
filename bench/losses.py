"""Where the seconds of a schedule go, against the reachable bound, on the paper's four workloads.

    python bench/losses.py [DIRECTORY with real traces] [--gpu h200] [--traces trace1 ...]

400,000 requests each, Llama-3.1-8B on one GPU, lengths known, 2,048 tokens a step; prices are of
steps of up to 8,192. Each cause is shown in % of the run; they and the bound are 100 %.
"""

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from machine import machine, row, timed, today

from blendsim import search
from blendsim.perf.measured import IMPORTED
from blendsim.report.losses import CAUSES, Losses, Priced, losses, price
from blendsim.report.optimum import DualPrices
from blendsim.search.budgets import BUDGETS
from blendsim.search.trial import block_size, find_engine, log_in
from blendsim.synth.blend import blend
from blendsim.synth.recipes import RECIPES

POLICIES = ("dfs", "blend", "paced")
TOKENS = 2_048


def priced(problem: search.Problem) -> Priced:
    """The pool's prices, for steps of the largest budget that `bench/paced.py` tries."""
    block = block_size(problem, [find_engine(problem, "nanoflow")])
    model = replace(problem.model, system=replace(problem.model.system, block_tokens=block))
    return price(problem.workload, problem.true_lengths, problem.prompts, model, max(BUDGETS))


def shares(lost: Losses) -> Iterable[str]:
    """Cells of the first table."""
    yield f"{lost.run:,.0f}"
    yield f"{lost.bound / lost.run:.2%}"
    for seconds in lost.causes.values():
        yield f"{round(seconds / lost.run, 4) + 0.0:.2%}"  # no −0.00 %


def told(prices: DualPrices) -> str:
    """The prices in words."""
    return (
        f"{prices.token * 1e6:.1f} µs a token, {prices.private_read * 1e9:.1f} ns a private and "
        f"{prices.shared_read * 1e9:.1f} ns a shared context token read, {prices.beside:.2f} s a "
        "second of head and prefill attention"
    )


def phases(lost: Losses) -> Iterable[str]:
    """Cells of the second: what a tenth of the run loses, in % of that tenth."""
    for seconds in lost.steps.sum(axis=1):
        yield f"{seconds / (lost.run / len(lost.steps)):.1%}"


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--gpu", default="a100-80g")
    parser.add_argument("--traces", nargs="+", choices=RECIPES, default=list(RECIPES))
    asked = parser.parse_args()
    known = search.Settings(sample=1.0, gpu=asked.gpu, profile=IMPORTED)
    print(f"{machine()}; {today()}; {asked.gpu}, overlap {known.overlap}\n")
    print(row("workload", "schedule", "seconds", "bound", *CAUSES, "again"))
    print(row(*["---"] * (5 + len(CAUSES))))
    pools: dict[str, Priced] = {}
    found: dict[tuple[str, str], Losses] = {}
    for trace in asked.traces:
        problem = search.prepare(blend(RECIPES[trace], known.system, asked.data).workload, known)
        prices = pools[trace] = priced(problem)
        engine = find_engine(problem, "nanoflow", TOKENS)
        for policy in POLICIES:
            plan = search.plan_policy(problem, policy)
            log = log_in(problem, plan, engine, problem.drawn)
            lost = found[trace, policy] = losses(log, prices)
            print(row(trace, policy, *shares(lost)), flush=True)
    print("\nPrices:\n")
    for trace, prices in pools.items():
        print(f"- {trace}: {told(prices.prices)}")
    tenths = range(1, 11)
    print("\nLost in each tenth of the run's time, in % of that tenth:\n")
    print(row("workload", "schedule", *map(str, tenths)))
    print(row(*["---"] * 12))
    for (trace, policy), lost in found.items():
        print(row(trace, policy, *phases(lost)))


if __name__ == "__main__":
    took = timed(main)[1]
    print(f"\nmeasured in {took:.0f} s")
