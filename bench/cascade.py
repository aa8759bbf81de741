"""What cascade attention is worth, pool by pool and policy by policy, and when planning for it
changes the schedule.

    python bench/cascade.py [DIRECTORY with real traces] [--requests 100000] [--gpu h200]

Llama-3.1-8B on one GPU, lengths from a 1 % sample, nanoflow's rules. Seconds are simulated on the
true lengths: an ordinary engine; an engine with cascade attention that runs the plan made for the
ordinary one; the same engine with a plan made for it. Policies are chosen by prediction.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from machine import machine, row, timed, today

from blendsim import search
from blendsim.perf.measured import IMPORTED
from blendsim.plan import Plan
from blendsim.planner.make import OVERLAPPED
from blendsim.request import Prompts, Workload, from_lengths, pool
from blendsim.search.problem import moved
from blendsim.search.trial import block_size, find_bounds, find_engine
from blendsim.sim.run import simulate
from blendsim.steplog import StepLog
from blendsim.synth.blend import blend
from blendsim.synth.recipes import RECIPES
from blendsim.traces.limits import without_oversize
from blendsim.traces.load import load_pool
from blendsim.traces.seam import ReadOptions

BLOCK = 512  # tokens of a unit of the agents' prompts
MOONCAKE = "mooncake_synthetic_trace.jsonl.gz"


class Run(NamedTuple):
    """A plan on an engine."""

    predicted: float  # seconds on what planning may see
    log: StepLog  # on the true lengths

    @property
    def seconds(self) -> float:
        """On the true lengths."""
        return self.log.end


def agents(groups: int, each: int, prefix: int, output: int, seed: int = 0) -> Workload:
    """`groups` agents or few-shot tasks, each with its own `prefix` tokens before `each` requests
    of 200 tokens in the mean and answers of `output`, both exponential.
    """
    rng = np.random.default_rng(seed)
    n, units = groups * each, prefix // BLOCK
    group = rng.permutation(np.repeat(np.arange(groups), each))
    prompts = Prompts(
        np.arange(n + 1, dtype=np.int64) * units,
        (group[:, None] * units + np.arange(units)).ravel().astype(np.int32),
        np.zeros(n, np.int32),
        np.array([BLOCK], np.int32),
        ("agents",),
    )
    own, answers = rng.exponential(200, n), rng.exponential(output, n)
    return from_lengths(
        prefix + 1 + own.astype(np.int64),
        1 + np.minimum(answers, 20 * output).astype(np.int64),
        source=f"agents-{groups}",
        prompts=prompts,
    )


def demo(names: str) -> Workload:
    """Built-in sources, as one pool."""
    return load_pool([f"demo:{name}" for name in names.split()], ReadOptions(seed=0))


def pools(
    data: Path | None, requests: int, settings: search.Settings
) -> Iterator[tuple[str, Workload]]:
    """Name and requests of each pool."""
    for name, recipe in RECIPES.items():
        wanted = replace(recipe, requests=requests)
        yield f"{name}, {requests:,}", blend(wanted, settings.system, data).workload
    if data is not None and (data / MOONCAKE).exists():
        whole = load_pool([str(data / MOONCAKE)], ReadOptions(seed=0))
        longest = settings.system.longest_request
        yield "mooncake, its file", without_oversize(whole, longest, skip=True)
    yield "100 agents × 100, 8,192 shared, answers 500", agents(100, 100, 8_192, 500)
    yield "2,500 agents × 4, 8,192 shared, answers 500", agents(2_500, 4, 8_192, 500)
    yield "20 tasks × 1,000, 2,048 shared, answers 200", agents(20, 1_000, 2_048, 200)
    few = [agents(100, 50, 8_192, 500), demo("azure-code?n=20000 openvid?n=100")]
    yield "100 agents × 50, code, videos", pool(few)
    chat = [agents(100, 50, 8_192, 500), demo("sharegpt?n=20000 openvid?n=100")]
    yield "100 agents × 50, chat, videos", pool(chat)


def run(problem: search.Problem, plan: Plan) -> Run:
    """The plan on the problem's engine, with cascade attention or not."""
    flavour = find_engine(problem, problem.settings.engine)
    logs = []
    for lengths in (problem.drawn, problem.true_lengths):
        rest = (problem.prompts, problem.model, flavour)
        logs.append(simulate(plan, problem.workload, lengths, *rest))
    return Run(logs[0].end, logs[1])


def changed_sides(one: Plan, other: Plan) -> float:
    """Share of the requests that are denser than the pool in one plan only."""
    dense = np.zeros((2, len(one)), np.bool_)
    for side, plan in zip(dense, (one, other), strict=True):
        side[plan.order] = plan.density >= plan.root_density
    return float((dense[0] != dense[1]).mean())


def reachable(problem: search.Problem) -> float:
    """Seconds no schedule beats."""
    flavour = find_engine(problem, problem.settings.engine)
    return find_bounds(problem, flavour.token_budget, block_size(problem, [flavour])).reachable


def measure(name: str, workload: Workload, settings: search.Settings) -> str:
    """Print the pool's rows by policy; returns its row of the summary."""
    plain = search.prepare(workload, settings)
    # NOTE: same sample and same lengths; only costs, engine and bounds are others.
    other = moved(plain, replace(settings, cascade=True))
    runs: dict[str, tuple[Run, Run, Run]] = {}
    sides = {}
    for policy in OVERLAPPED:
        made, planned = (search.plan_policy(problem, policy) for problem in (plain, other))
        runs[policy] = run(plain, made), run(other, made), run(other, planned)
        sides[policy] = changed_sides(made, planned)
        one, two, three = (done.seconds for done in runs[policy])
        log = runs[policy][2].log
        spared = log.count("shared_reads").sum() / max(1, log.count("context_tokens").sum())
        reads = [runs[policy][i].log.time("memory_seconds").sum() for i in (0, 2)]
        cells = (
            f"{one:,.0f}",
            f"{two:,.0f}",
            f"{three:,.0f}",
            f"{one / three:.3f}",
            f"{spared:.1%}",
        )
        print(row(name, policy, *cells, *(f"{x:,.0f}" for x in reads)), flush=True)
    chosen = [min(runs, key=lambda policy: runs[policy][i].predicted) for i in (0, 1, 2)]
    bounds = [f"{reachable(problem):,.0f}" for problem in (plain, other)]
    before, kept, after = (runs[chosen[i]][j].seconds for i, j in ((0, 0), (0, 1), (2, 2)))
    return row(
        name,
        chosen[0],
        chosen[2],
        f"{before:,.0f}",
        f"{kept:,.0f}",
        f"{after:,.0f}",
        f"{kept / after:.3f}",
        f"{sides['blend']:.1%}",
        *bounds,
    )


def speedup(groups: int, prefix: int, output: int, settings: search.Settings) -> str:
    """How many times as fast prefix order is with cascade attention, on agents alone."""
    plain = search.prepare(agents(groups, 2_000 // groups, prefix, output), settings)
    plan = search.plan_policy(plain, "dfs")
    other = moved(plain, replace(settings, cascade=True))
    return f"{run(plain, plan).seconds / run(other, plan).seconds:.2f}"


def sweep(settings: search.Settings) -> None:
    """Print how the gain depends on readers, prefix and answers."""
    answers = (2, 20, 200, 1_000)
    print(row("readers of a prefix", "its tokens", *(f"answers of {d:,}" for d in answers)))
    print(row(*["---"] * (2 + len(answers))))
    for each in (4, 20, 200):
        for prefix in (512, 2_048, 8_192):
            cells = [speedup(2_000 // each, prefix, d, settings) for d in answers]
            print(row(f"{each}", f"{prefix:,}", *cells), flush=True)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--gpu", default="a100-80g")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--only", default="", help="pools whose name has this in it, or sweep")
    asked = parser.parse_args()
    settings = search.Settings(gpu=asked.gpu, profile=IMPORTED)
    if asked.only == "sweep":
        sweep(settings)
        return
    print(f"{machine()}; {today()}; {asked.gpu}, overlap {settings.overlap}\n")
    head = ("pool", "policy", "without, s", "with, same plan, s", "with, planned for it, s")
    print(row(*head, "times as fast", "context spared", "reads without, s", "reads with, s"))
    print(row(*["---"] * 9))
    found = [
        measure(name, workload, settings)
        for name, workload in pools(asked.data, asked.requests, settings)
        if asked.only in name
    ]
    head = ("pool", "chosen without", "chosen with", "without, s", "with, choice and plan kept, s")
    rest = ("with, chosen and planned anew, s", "gain of that", "requests that change ends")
    print("", row(*head, *rest, "bound without, s", "bound with, s"), sep="\n")
    print(row(*["---"] * 10))
    print(*found, "", sep="\n")
    sweep(settings)


if __name__ == "__main__":
    took = timed(main)[1]
    print(f"\nmeasured in {took:.0f} s")
