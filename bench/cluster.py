"""What several replicas are worth: data parallel with static ranks and with work stealing, and
prefill and decode pools beside colocated engines.

    python bench/cluster.py [REQUESTS]

Synthetic trace1 and trace2 (burstgpt, mmlu, openvid by their models), 400,000 requests unless said
otherwise, Llama-3.1-8B on A100s, 1 % of the output lengths sampled. Wall seconds are of one
simulation with kernels warm, the median of three up to 8 ranks. "Short videos" are the same pools
with outputs cut at 8,192 tokens.
"""

import sys
from dataclasses import replace
from statistics import median

import numpy as np
from machine import machine, peak_gigabytes, row, timed, today

from blendsim import search
from blendsim.plan import Plan
from blendsim.report.metrics import recomputed_tokens, total_tokens
from blendsim.report.optimum import bounds
from blendsim.request import Workload
from blendsim.serving.flavour import find_flavour
from blendsim.sim.run import simulate
from blendsim.specs import find_link
from blendsim.steplog import StepLog
from blendsim.synth.blend import blend
from blendsim.synth.recipes import RECIPES
from blendsim.topology import COLOCATED, Topology, pools

LONGEST = 8_192  # output tokens, in the pools where no single request decides when a run ends
RANKS = (1, 2, 4, 8, 64)
SHAPES = ("colocated", "1P1D", "1P2D", "2P1D", "1P3D")


def simulated(
    problem: search.Problem, plan: Plan, engine: str, topology: Topology, repeats: int
) -> tuple[StepLog, float]:
    """The log of a run on the true lengths and the median wall seconds it took."""
    workload, model = problem.workload, problem.model
    flavour = find_flavour(engine)

    def once() -> StepLog:
        return simulate(
            plan, workload, problem.true_lengths, problem.prompts, model, flavour, topology
        )

    runs = [timed(once) for _ in range(repeats)]
    return runs[0][0], median(wall for _, wall in runs)


def data_parallel(name: str, pool: Workload) -> None:
    """A row a policy and number of ranks."""
    for policy in ("dfs", "blend"):
        alone = 0.0
        for ranks in RANKS:
            problem = search.prepare(pool, search.Settings(dp=ranks))
            plan = search.plan_policy(problem, policy)
            tokens = total_tokens(pool, problem.true_lengths)
            seconds, walls = [], []
            for topology in (COLOCATED, Topology(steals=True))[: 2 if ranks > 1 else 1]:
                log, wall = simulated(problem, plan, "nanoflow", topology, 3 if ranks <= 8 else 1)
                seconds.append(log.end)
                walls.append(wall)
            alone = alone or seconds[0]
            longest = bounds(
                pool, problem.true_lengths, problem.prompts, problem.model, 2_048, ranks
            ).longest
            print(
                row(
                    name,
                    policy,
                    str(ranks),
                    " / ".join(f"{tokens / s:,.0f}" for s in seconds),
                    " / ".join(f"{alone / s:.2f}" for s in seconds),
                    f"{longest / seconds[0]:.0%}",
                    f"{plan.meta.get('sharing_lost', 0):,}",
                    " / ".join(f"{wall:.1f}" for wall in walls),
                ),
                flush=True,
            )


def disaggregated(name: str, pool: Workload) -> None:
    """A row an engine and shape of the cluster, in the order of the policy `dfs`."""
    problem = search.prepare(pool, search.Settings())
    plan = search.plan_policy(problem, "dfs")
    tokens = total_tokens(pool, problem.true_lengths)
    for engine in ("vllm", "sglang"):
        for shape in SHAPES:
            is_whole = shape == "colocated"
            topology = COLOCATED if is_whole else pools(shape, find_link("nvlink3"))
            log, wall = simulated(problem, plan, engine, topology, 1)
            gpus = max(1, topology.prefill + topology.decode)
            rate = tokens / log.end / gpus
            again = recomputed_tokens(log, int(pool.prompt_len.sum()))
            print(row(name, engine, shape, f"{rate:,.0f}", f"{again:,}", f"{wall:.1f}"), flush=True)


def main() -> None:
    """Measure and print both tables."""
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 400_000
    made = {}
    for trace in ("trace1", "trace2"):
        recipe = replace(RECIPES[trace], requests=requests)
        pool = blend(recipe, search.Settings().system, None).workload
        made[trace] = pool
        short = np.minimum(pool.output_len, LONGEST)
        made[f"{trace}, short videos"] = replace(pool, output_len=short)
    print(f"{machine()}; {today()}; {requests:,} requests\n")
    heads = ("workload", "policy", "ranks", "tokens/s static / stealing", "speed-up")
    print(row(*heads, "longest request alone", "sharing lost, tokens", "wall s"))
    print(row(*["---"] * 8))
    for name, pool in made.items():
        data_parallel(name, pool)
    print()
    print(row("workload", "engine", "cluster", "tokens/s a GPU", "recomputed tokens", "wall s"))
    print(row(*["---"] * 6))
    for name in ("trace1", "trace2"):
        disaggregated(name, made[name])
    print(f"\npeak memory {peak_gigabytes():.1f} GB")


if __name__ == "__main__":
    main()
