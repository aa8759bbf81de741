"""What the order is worth to engines that take requests from one line, vLLM and SGLang by their own
rules.

    python bench/one_line.py DATA [--gpu h200] [--engines vllm sglang] [--requests 20000]

Pools of real lengths (DATA has the public traces) and of the paper's recipes, with all lengths
known and with 1 % of them sampled. Seconds on the true lengths: of prefix order by the engine's own
rules, and of what `auto` takes, at the token budget and running limit that it takes, without and
with the order that has the longest answers first.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import geometric_mean
from unittest import mock

import numpy as np
from machine import machine, row, timed, today

from blendsim.planner.make import IN_LINE, LONGEST_FIRST
from blendsim.request import Workload, select
from blendsim.search import Choice, Settings, choose
from blendsim.synth.blend import blend
from blendsim.synth.recipes import RECIPES
from blendsim.traces.limits import without_oversize
from blendsim.traces.load import load_pool

#: Files of each pool, and how many of their requests; 0: all.
POOLS: dict[str, tuple[tuple[str, ...], int]] = {
    "few chats": (("nanoflow_sharegpt.csv.gz",), 5_000),
    "chats": (("nanoflow_sharegpt.csv.gz",), 0),
    "code": (("AzureLLMInferenceTrace_code.csv.gz",), 0),
    "code, chats": (("AzureLLMInferenceTrace_code.csv.gz", "nanoflow_sharegpt.csv.gz"), 10_000),
    "long prompts": (("mooncake_synthetic_trace.jsonl.gz",), 0),
}
SHARES = (1.0, 0.01)  # of the lengths that planning sees


def drawn(pool: Workload, requests: int) -> Workload:
    """So many requests of a pool at random, in its order; all for 0."""
    if not requests or requests >= len(pool):
        return pool
    rows = np.random.default_rng(0).choice(len(pool), requests, replace=False)
    return select(pool, np.sort(rows))


def pools(data: Path, requests: int, settings: Settings) -> dict[str, Workload]:
    """The pools by what they hold."""
    found = {}
    for name, (files, most) in POOLS.items():
        pool = drawn(load_pool([str(data / file) for file in files]), most)
        found[name] = without_oversize(pool, settings.system.longest_request, skip=True)
    for name in ("trace1", "trace3"):
        recipe = RECIPES[name]
        made = blend(replace(recipe, requests=requests), settings.system, data).workload
        found[name] = made
    return found


def taken(choice: Choice) -> str:
    """What was chosen, and at which limits."""
    chosen = choice.chosen
    return f"{chosen.policy} at {chosen.token_budget:,}, {chosen.max_running:,}"


def measured(pool: Workload, settings: Settings) -> tuple[list[str], float]:
    """Cells of a row, and how much faster `auto` is with all orders than without the one."""
    before = tuple(name for name in IN_LINE if name not in LONGEST_FIRST)
    with mock.patch("blendsim.settings.IN_LINE", before):
        usual = choose(pool, settings)
    with_all = choose(pool, settings)
    own = next(each.seconds for each in usual.rows if each.policy == "dfs")
    seconds = usual.chosen.seconds, with_all.chosen.seconds
    gain = seconds[0] / seconds[1]
    cells = [f"{own:,.1f}", f"{seconds[0]:,.1f}", taken(usual), f"{seconds[1]:,.1f}"]
    return [*cells, taken(with_all), f"{gain:.3f}", f"{own / seconds[1]:.3f}"], gain


def main() -> None:
    """Measure and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("data", type=Path)
    options.add_argument("--gpu", default="h200")
    options.add_argument("--engines", nargs="+", default=["vllm", "sglang"])
    options.add_argument("--requests", type=int, default=20_000)
    given = options.parse_args()
    print(f"{machine()}; {today()}; {given.gpu}\n")
    head = "engine", "pool", "requests", "seen", "dfs, own rules, s", "without, s", "chosen"
    head += "with, s", "chosen", "gain", "over dfs"
    print(row(*head))
    print(row(*["---"] * len(head)))
    gains: dict[float, list[float]] = {share: [] for share in SHARES}
    took = 0.0
    for name, pool in pools(given.data, given.requests, Settings(gpu=given.gpu)).items():
        for engine in given.engines:
            for share in SHARES:
                settings = Settings(gpu=given.gpu, engine=engine, sample=share)
                (cells, gain), seconds = timed(lambda p=pool, s=settings: measured(p, s))
                took += seconds
                gains[share].append(gain)
                print(row(engine, name, f"{len(pool):,}", f"{share:.0%}", *cells), flush=True)
    for share, each in gains.items():
        told = f"{geometric_mean(each):.3f} in the mean, {min(each):.3f} to {max(each):.3f}"
        print(f"\n- gain with {share:.0%} of the lengths seen: {told}")
    print(f"\nmeasured in {took:,.0f} s")


if __name__ == "__main__":
    main()
