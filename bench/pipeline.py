"""Four GPUs as one replica of vLLM: tensor parallel, a pipeline, or some of each.

    python bench/pipeline.py DATA [--model llama-3.1-70b] [--gpus h100 l40s] [--requests 20000]
    python bench/pipeline.py DATA --apart [--gpus h100]

Seconds of prefix order by vLLM's own rules, and of what `auto` takes, at its token budget and
running limit, with all lengths known. A GPU's idle share is what is left of a run beside the
seconds of work that a GPU has in the mean. With --apart instead what orders and token budgets do
each by itself, on four stages of a GPU each.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from machine import machine, row, timed, today
from one_line import pools, taken

from blendsim.request import Workload
from blendsim.search import Settings, choose, plan_policy, prepare, simulate_plan
from blendsim.search.budgets import BUDGETS
from blendsim.search.trial import find_engine
from blendsim.search.world_run import seconds_in
from blendsim.steplog import StepLog
from blendsim.traces.limits import without_oversize

SHAPES = ((4, 1), (2, 2), (1, 4))  # tensor-parallel GPUs, stages
WORK = ("compute_seconds", "memory_seconds", "network_seconds")


def idle(log: StepLog) -> float:
    """Share of the run in which a GPU has nothing to do, in the mean of all."""
    work = sum(float(log.time(name).sum()) for name in WORK)
    return max(0.0, 1.0 - work / log.end)  # of sums that rounding leaves a little above


def measured(pool: Workload, settings: Settings) -> list[str]:
    """Cells of a row."""
    plan = plan_policy(prepare(pool, settings), "dfs")
    own = simulate_plan(pool, plan, settings)
    choice = choose(pool, settings)
    cells = [f"{own.row.seconds:,.1f}", f"{idle(own.log):.1%}", f"{choice.chosen.seconds:,.1f}"]
    gain = own.row.seconds / choice.chosen.seconds
    return [*cells, f"{idle(choice.log):.1%}", taken(choice), f"{gain:.3f}"]


def apart(data: Path, requests: int, asked: Settings) -> None:
    """Print seconds by order and token budget."""
    staged = replace(asked, tp=1, pp=4)
    print(row("pool", "order", *(f"{budget:,}" for budget in BUDGETS)))
    print(row(*["---"] * (2 + len(BUDGETS))))
    for name, pool in pools(data, requests, staged).items():
        problem = prepare(pool, staged)
        for policy in staged.policies:
            plan = plan_policy(problem, policy)
            engines = [find_engine(problem, staged.engine, budget) for budget in BUDGETS]
            took = [seconds_in(problem, plan, each, problem.true_lengths) for each in engines]
            print(row(name, policy, *(f"{seconds:,.1f}" for seconds in took)), flush=True)


def main() -> None:
    """Measure and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("data", type=Path)
    options.add_argument("--model", default="llama-3.1-70b")
    options.add_argument("--gpus", nargs="+", default=["h100", "l40s"])
    options.add_argument("--requests", type=int, default=20_000)
    options.add_argument("--apart", action="store_true")
    given = options.parse_args()
    print(f"{machine()}; {today()}; {given.model}\n")
    if given.apart:
        apart(
            given.data,
            given.requests,
            Settings(given.model, given.gpus[0], engine="vllm", sample=1.0),
        )
        return
    head = "GPUs", "pool", "requests", "tp × pp", "dfs, own rules, s", "idle", "auto, s", "idle"
    head += "chosen", "gain"
    print(row(*head))
    print(row(*["---"] * len(head)))
    took = 0.0
    for gpu in given.gpus:
        asked = Settings(model=given.model, gpu=gpu, engine="vllm", sample=1.0)
        shapes = [replace(asked, tp=tp, pp=pp) for tp, pp in SHAPES]
        least = min(shapes, key=lambda shape: shape.system.longest_request)
        longest = least.system.longest_request
        for name, whole in pools(given.data, given.requests, least).items():
            pool = without_oversize(whole, longest, skip=True)
            for shape in shapes:
                cells, seconds = timed(lambda p=pool, s=shape: measured(p, s))
                took += seconds
                place = f"4 × {gpu}", name, f"{len(pool):,}", f"{shape.tp} × {shape.pp}"
                print(row(*place, *cells), flush=True)
    print(f"\nmeasured in {took:,.0f} s")


if __name__ == "__main__":
    main()
