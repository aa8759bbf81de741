"""The plans that bench/gpu_check.py replays, made on any machine beforehand: GPU minutes are short.

    python bench/gpu_plans.py -o build/gpu-plans [--gpu h200] [--short trace1 …] [--full trace1 …]
                              [--filled trace1 …] [--policy dfs …] [--profile measured]
                              [--model llama-3.1-8b]

For every short pool (`trace1.parquet`) a plan a policy (`trace1-dfs.parquet`), and the same for
full ones (`trace1-full.parquet`, `trace1-full-dfs.parquet`) and for short ones whose KV memory is
cut until they fill it (`trace1-filled.parquet`), by the commands a user has. Pools are the same
whatever the model; of another one's KV memory there is as much as holds the same tokens. Prints
what the simulator expects of each. Plans say how they are to be simulated: in two nano-batches, as
the overlapped executor runs them.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpu_options import LONGEST, POLICIES, SEARCHED
from gpu_workloads import (
    FILLED,
    MODEL,
    PAPER_GPU,
    SHORT,
    density_and_sharing,
    full_pool,
    short_pool,
)
from machine import row

from blendsim.request import Workload
from blendsim.specs import find_model
from blendsim.synth.recipes import RECIPES
from blendsim.traces.workload_file import write_workload

#: What is compared if nobody says; a search takes minutes a pool, an hour and more of a full one,
#: and the longest answers first are for vLLM.
COMPARED = tuple(policy for policy in POLICIES if policy not in (LONGEST, SEARCHED))
#: What planners are called where names of files are made of it.
_PLANNERS = {LONGEST: "dfs-longest"}
#: How the searched plan is found: as many requests sampled as pay, for of so short a pool 1 % are a
#: dozen chats, and so many schedules.
SEARCH = ("--sample", "auto", "--evaluations", "300")
SETTINGS = "settings.toml"
KV_BYTES_PER_TOKEN = MODEL.kv_bytes_per_token


def blendsim(*arguments: str) -> dict[str, Any]:
    """What a command says under --json."""
    command = [sys.executable, "-m", "blendsim", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"blendsim {' '.join(arguments)}: {done.stderr.strip()}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def make(name: str, pool: Workload, given: argparse.Namespace, kv_bytes: int = 0) -> None:
    """The pool and its plans, a row of the table each; in so much KV memory, if it is told."""
    gpu, out = given.gpu, given.output
    place = out / f"{name}.parquet"
    write_workload(pool, place)
    found = [density_and_sharing(pool, one) for one in (gpu, PAPER_GPU)]
    told = f"density {found[0].density:.3f} on {gpu} and {found[1].density:.3f} on {PAPER_GPU}"
    print(f"{name}: {len(pool):,} requests, {told}, sharing {found[0].sharing:.3f}", flush=True)
    config = out / SETTINGS
    of_memory = kv_bytes * find_model(given.model).kv_bytes_per_token // KV_BYTES_PER_TOKEN
    told_of = [f'profile = "{given.profile}"', *([f"kv_bytes = {of_memory}"] if kv_bytes else [])]
    config.write_text("\n".join(["[settings]", "nano_batches = 2", *told_of, ""]))
    for policy in (p for p in POLICIES if p in given.policy):
        plan = out / f"{name}-{policy}.parquet"
        of = ("--trace", str(place), "--gpu", gpu, "--model", given.model)
        of += ("--config", str(config), "-o", str(plan))
        is_searched = policy == SEARCHED
        planner = _PLANNERS.get(policy, policy)
        how = ("search", *SEARCH) if is_searched else ("plan", "--planner", planner)
        figured = blendsim(*how, *of)
        print(row(name, policy, "overlap", *figures(figured)), flush=True)
        if policy == "dfs":
            figured = blendsim("simulate", str(plan), "--engine", "sequential")
            print(row(name, policy, "sequential", *figures(figured)), flush=True)


def figures(told: dict[str, Any]) -> list[str]:
    """Cells of the table."""
    return [
        f"{told['seconds']:,.1f}",
        f"{told['tokens_per_second']:,.0f}",
        f"{told['share_of_optimum']:.3f}",
        f"{told['kv_use']:.3f}",
    ]


def main() -> None:
    """Make all that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("build/gpu-plans"))
    parser.add_argument("--gpu", default="h200")
    parser.add_argument("--short", nargs="*", choices=tuple(SHORT), default=None)
    parser.add_argument("--full", nargs="*", choices=tuple(RECIPES), default=[])
    parser.add_argument("--filled", nargs="*", choices=tuple(FILLED), default=[])
    parser.add_argument("--policy", nargs="+", choices=POLICIES, default=COMPARED)
    parser.add_argument("--model", default=MODEL.name, help="that plans are made for")
    parser.add_argument("--profile", default="imported", help="whose kernels plans are made by")
    parser.add_argument("--requests", type=int, help="of every short pool, to try it on a CPU")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    print(row("pool", "policy", "executor", "seconds", "tokens/s", "of optimum", "KV use"))
    print(row(*["---"] * 7))
    for name in SHORT if given.short is None else given.short:
        make(name, short_pool(name, given.gpu, given.requests), given)
    for name in given.filled:
        pool = short_pool(name, given.gpu, given.requests)
        make(f"{name}-filled", pool, given, FILLED[name])
    for name in given.full:
        make(f"{name}-full", full_pool(name), given)


if __name__ == "__main__":
    main()
