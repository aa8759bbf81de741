"""Pools of like requests: how `paced` does where there are hardly two ends to pair.

    python bench/alike.py [--gpus a100-80g h200] [--requests 4096 16384] [--seeds 4]

Every pool has prompts of one length and outputs from one gamma distribution: of one length, or
with a standard deviation of 0.3, 1 or 2 times their mean. Their lengths are all known, or 1 % is
sampled: then where in line the longest stands is chance, so that several pools are drawn, and cells
are means. Llama-3.1-8B, simulated seconds on the true lengths at the engine's own token budget.
"""

import argparse
from dataclasses import replace
from itertools import product
from statistics import geometric_mean, mean
from typing import NamedTuple

import numpy as np
from machine import machine, row, timed, today

from blendsim.perf.measured import IMPORTED
from blendsim.request import Workload, from_lengths
from blendsim.search import Settings, plan_policy, prepare, simulate_plan

SHAPES = (
    (32, 2_048),
    (100, 1_000),
    (256, 1_024),
    (500, 500),
    (512, 256),
    (1_000, 1_000),
    (2_000, 500),
    (2_048, 64),
)
VARIATION = (0.0, 0.3, 1.0, 2.0)  # standard deviation of the outputs over their mean
SAMPLED = (1.0, 0.01)
POLICIES = ("dfs", "blend", "paced")
FIRST_SEED = 1


class Done(NamedTuple):
    """One pool, or the mean of several."""

    over_best: float  # seconds of `paced` over those of the better of the two orders
    again: float  # share of the pool's tokens that `paced` recomputes


def alike(shape: tuple[int, int], variation: float, requests: int, seed: int) -> Workload:
    """A pool of that many requests of (prompt, mean output) tokens; none has a known length."""
    prompt, output = shape
    outputs = np.full(requests, output)
    if variation > 0.0:
        form = variation**-2
        drawn = np.random.default_rng(seed).gamma(form, output / form, requests)
        outputs = np.maximum(1, drawn.astype(np.int64))
    pool = from_lengths(np.full(requests, prompt), outputs)
    return replace(pool, is_known=np.zeros(requests, np.bool_))


def measure(shape: tuple[int, int], variation: float, requests: int, settings: Settings) -> Done:
    """The three policies on the pool of the settings' seed."""
    pool = alike(shape, variation, requests, settings.seed)
    problem = prepare(pool, settings)
    rows = {p: simulate_plan(pool, plan_policy(problem, p), settings)[0] for p in POLICIES}
    tokens = int(pool.prompt_len.sum() + pool.output_len.sum())
    seconds = {policy: float(done.seconds or 0.0) for policy, done in rows.items()}
    best = min(seconds["dfs"], seconds["blend"])
    return Done(seconds["paced"] / best, rows["paced"].recomputed_tokens / tokens)


def in_the_mean(
    shape: tuple[int, int], variation: float, requests: int, settings: Settings, seeds: int
) -> Done:
    """Of several pools where which of them was drawn matters."""
    number = seeds if variation > 0.0 and settings.sample != 1.0 else 1
    done = [
        measure(shape, variation, requests, replace(settings, seed=seed))
        for seed in range(FIRST_SEED, FIRST_SEED + number)
    ]
    return Done(geometric_mean(one.over_best for one in done), mean(one.again for one in done))


def cell(done: Done) -> str:
    """`paced` over the better order, and what it recomputes where that is more than 0.1 %."""
    again = f" ({done.again:.1%})" if done.again > 0.001 else ""
    return f"{done.over_best:.3f}{again}"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpus", nargs="+", default=["a100-80g", "h200"])
    parser.add_argument("--requests", nargs="+", type=int, default=[4_096, 16_384])
    parser.add_argument("--seeds", type=int, default=4)
    asked = parser.parse_args()
    print(f"{machine()}; {today()}; {asked.seeds} pools where lengths are sampled\n")
    shapes = [f"{p:,} + {d:,}" for p, d in SHAPES]
    print(row("gpu", "requests", "deviation", "sampled", "mean", "most", *shapes))
    print(row(*["---"] * (6 + len(shapes))))
    everything: list[Done] = []
    for gpu, n, variation, share in product(asked.gpus, asked.requests, VARIATION, SAMPLED):
        settings = Settings(gpu=gpu, sample=share, profile=IMPORTED)
        done = [in_the_mean(shape, variation, n, settings, asked.seeds) for shape in SHAPES]
        everything += done
        over = [one.over_best for one in done]
        told = (f"{geometric_mean(over):.3f}", f"{max(over):.3f}", *map(cell, done))
        print(row(gpu, f"{n:,}", f"{variation:g}", f"{share:.0%}", *told), flush=True)
    over = [one.over_best for one in everything]
    often = sum(one.again > 0.001 for one in everything)
    print(
        f"\nOf all {len(everything)}: {geometric_mean(over):.3f} in the geometric mean, "
        f"{max(over):.3f} at most; {mean(one.again for one in everything):.2%} of the tokens "
        f"recomputed in the mean, more than 0.1 % in {often}."
    )


if __name__ == "__main__":
    took = timed(main)[1]
    print(f"\nmeasured in {took:.0f} s")
