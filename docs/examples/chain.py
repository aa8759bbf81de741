"""From a trace to a picture in Python, as docs/python.md tells it:

    python docs/examples/chain.py DIRECTORY [REQUESTS]

Plans a built-in pool in prefix order and paced, simulates both, prints a line each, and writes into
DIRECTORY a step log a policy, the KV cache in use over time as kv.png, and the paced plan, which
`blendsim simulate` runs again.
"""

import sys
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from blendsim.plan import write_plan
from blendsim.search import Settings, plan_policy, prepare, simulate_plan
from blendsim.steplog import StepLog, read_steplog, write_steplog
from blendsim.traces import load_pool, without_oversize

POLICIES = ("dfs", "paced")
MOST_POINTS = 2_000  # of a line in the picture


def main(directory: Path, requests: int = 16_000) -> None:
    """The chain: trace, workload, plans, step logs, table and picture."""
    directory.mkdir(parents=True, exist_ok=True)
    traces = [f"demo:mixed?n={requests}"]
    settings = Settings(model="llama-3.1-8b", gpu="a100-80g", engine="nanoflow")
    longest = settings.system.longest_request
    workload = without_oversize(load_pool(traces), longest, skip=True)

    problem = prepare(workload, settings)
    plans = {policy: plan_policy(problem, policy) for policy in POLICIES}
    for policy, plan in plans.items():
        row, log, *_ = simulate_plan(workload, plan, settings)
        print(
            f"{policy:6} {row.seconds:,.1f} s, {row.tokens_per_second:,.0f} tokens/s, "
            f"{row.share_of_optimum:.1%} of the optimum, KV use {row.kv_use:.1%}"
        )
        write_steplog(log, directory / f"{policy}.parquet")

    # Where the pool came from, so that the command line finds it.
    source = {"traces": traces, "skip_oversize": True, "read": {"seed": 0}}
    kept = plans["paced"]
    write_plan(replace(kept, meta={**kept.meta, "source": source}), directory / "plan.parquet")

    capacity = settings.flavour().divide(settings.system).kv_blocks  # in the engine's own blocks
    logs = {policy: read_steplog(directory / f"{policy}.parquet") for policy in POLICIES}
    draw(logs, capacity, directory / "kv.png")


def draw(logs: dict[str, StepLog], capacity: int, path: Path) -> None:
    """Share of the KV cache that running requests hold, over time."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axis = figure.subplots()
    for policy, log in logs.items():
        some = slice(None, None, -(-len(log) // MOST_POINTS))
        share = log.count("held_blocks")[some] / capacity
        axis.plot(log.time("start")[some], 100 * share, label=policy, linewidth=0.8)
    axis.set(xlabel="seconds", ylabel="KV cache in use, %", ylim=(0, 100))
    axis.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
