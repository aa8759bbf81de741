"""What more KV memory buys under each policy, and why BlendServe's can be slower with more of it.

    python bench/kv.py [DIRECTORY with real traces]

`demo:mixed` and two of the paper's workloads at 40,000 requests, Llama-3.1-8B on one GPU, lengths
known. KV memory is set (`kv_bytes`), everything else stays. Prints the pools and how much KV their
reads can fill, seconds by policy, and what BlendServe's steps were.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from floors import bound_with_floors
from machine import machine, row, timed, today

from blendsim import search
from blendsim.perf.density import memory_split
from blendsim.perf.measured import IMPORTED
from blendsim.plan import Plan
from blendsim.report.optimum import least_work
from blendsim.request import Workload
from blendsim.search.budgets import BUDGETS, SMALLER_BUDGETS
from blendsim.search.trial import find_engine, log_in
from blendsim.steplog import StepLog
from blendsim.synth.blend import blend
from blendsim.synth.recipes import RECIPES
from blendsim.traces import load_pool

GIGABYTES = {"a100-80g": (15, 20, 30, 40, 60), "h200": (20, 40, 60, 80, 120)}
RECIPES_SHOWN = ("trace1", "trace4")
REQUESTS = 40_000
TOKENS = 2_048


def pools(data: Path | None) -> dict[str, Workload]:
    """The pools by name."""
    system = search.Settings().system
    found = {"mixed": load_pool(["demo:mixed"])}
    for name in RECIPES_SHOWN:
        found[name] = blend(replace(RECIPES[name], requests=REQUESTS), system, data).workload
    return found


def prepared(workload: Workload, gpu: str, gigabytes: int) -> search.Problem:
    """The pool on that GPU with so much KV memory, lengths known."""
    settings = search.Settings(gpu=gpu, sample=1.0, kv_bytes=gigabytes * 10**9, profile=IMPORTED)
    return search.prepare(workload, settings)


def capacity(problem: search.Problem) -> int:
    """Tokens of KV."""
    system = problem.model.system
    return system.kv_blocks * system.block_tokens


def filled(problem: search.Problem) -> float:
    """Bytes of KV that the pool's reads fill in the mean of a run of as many steps as its longest
    answer has tokens; no run has fewer.
    """
    system, truth = problem.model.system, problem.true_lengths
    work = least_work(problem.workload, truth, problem.prompts, system.block_tokens)
    return work.private_reads / int(truth.max()) * system.kv_bytes_per_token


def run(problem: search.Problem, plan: Plan, tokens: int = TOKENS) -> StepLog:
    """The plan at this token budget."""
    return log_in(problem, plan, find_engine(problem, "nanoflow", tokens), problem.true_lengths)


def seconds(problem: search.Problem, blended: Plan, log: StepLog) -> list[str]:
    """Cells of the second table, BlendServe at 2,048 tokens a step as in `log`."""
    tried = (*SMALLER_BUDGETS, *BUDGETS)
    best, tokens = min((run(problem, blended, n).end, n) for n in tried)
    truth, model = problem.true_lengths, problem.model
    limit = bound_with_floors(problem.workload, truth, problem.prompts, model, TOKENS)
    dfs, paced = (run(problem, search.plan_policy(problem, name)).end for name in ("dfs", "paced"))
    cells = [f"{taken:,.0f}" for taken in (dfs, log.end, best, paced, limit)]
    cells[2] += f" ({tokens:,})"
    return cells


def steps(problem: search.Problem, plan: Plan, log: StepLog) -> list[str]:
    """Cells of the third: M_L at the run's first step, and what happened while prompts lasted and
    afterwards.
    """
    first, last = float(plan.density[0]), float(plan.density[-1])
    left = memory_split(capacity(problem), first, last, plan.root_density).left
    prompts, ends = log.count("prefill_tokens"), np.cumsum(log.time("seconds"))
    upto = int(np.flatnonzero(prompts)[-1]) + 1
    read = log.count("context_tokens")
    return [
        f"{left:,.0f}",
        f"{prompts[:upto].mean():,.0f}",
        f"{ends[upto - 1] / ends[-1]:.0%}",
        f"{read[:upto].mean() / capacity(problem):.0%}",
        f"{len(log) - upto:,}",
        f"{log.count('decode_requests')[upto:].mean() if upto < len(log) else 0:.1f}",
        f"{len(log):,}",
    ]


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path)
    made = pools(parser.parse_args().data)
    print(f"{machine()}; {today()}\n")
    print(row("pool", "requests", "longest answer", "KV its reads fill"))
    print(row(*["---"] * 4))
    for name, workload in made.items():
        fill = filled(prepared(workload, "a100-80g", 60)) / 1e9
        longest = int(workload.output_len.max())
        print(row(name, f"{len(workload):,}", f"{longest:,}", f"{fill:.1f} GB"))
    titles = ("dfs", "blend", "blend, best budget", "paced", "bound with floors")
    print("\n" + row("pool", "GPU", "KV, GB", *titles))
    print(row(*["---"] * (3 + len(titles))))
    seen = []
    for name, workload in made.items():
        for gpu, sizes in GIGABYTES.items():
            for size in sizes:
                problem = prepared(workload, gpu, size)
                plan = search.plan_policy(problem, "blend")
                log = run(problem, plan)
                place = (name, gpu, f"{size}")
                print(row(*place, *seconds(problem, plan, log)), flush=True)
                seen.append((*place, *steps(problem, plan, log)))
    titles = (
        "M_L, tokens",
        "prompt tokens a step",
        "last prompt at",
        "KV read till then",
        "steps after it",
        "decodes in them",
        "steps",
    )
    print("\n" + row("pool", "GPU", "KV, GB", *titles))
    print(row(*["---"] * (3 + len(titles))))
    for cells in seen:
        print(row(*cells))


if __name__ == "__main__":
    took = timed(main)[1]
    print(f"\nmeasured in {took:.0f} s")
