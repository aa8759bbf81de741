"""How policies compare over the paper's grids of density and prefix sharing, and what choosing by
prediction costs.

    python bench/grid.py [DIRECTORY with real traces] [--requests 40000] [--sources burstgpt,azure]

Every point of the 65-point grid of each compute-heavy source, Llama-3.1-8B on one A100, 1 % of the
lengths sampled. Prints a row a source: at how many points `paced` is faster than `blend`, by how
much, and the regret of `auto`: seconds lost against the best policy in hindsight.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
from machine import machine, row, timed, today

from blendsim import search
from blendsim.synth.blend import blend
from blendsim.synth.recipes import GRID_SOURCES, grid


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--requests", type=int, default=40_000)
    parser.add_argument("--sources", default=",".join(GRID_SOURCES))
    parser.add_argument("--sample", type=float, default=0.01)
    asked = parser.parse_args()
    settings = search.Settings(sample=asked.sample)
    print(
        f"{machine()}; {today()}; {asked.requests:,} requests a point, {asked.sample:.0%} known\n"
    )
    print(
        row(
            "source",
            "points",
            "paced over blend",
            "faster at",
            "paced over dfs",
            "paced of reachable",
            "regret of auto ≤ 0.5 % at",
            "regret, mean and most",
        )
    )
    print(row(*["---"] * 8))
    for source in asked.sources.split(","):
        over, beyond, reach, regret = [], [], [], []
        for recipe in grid(source):
            pool = blend(replace(recipe, requests=asked.requests), settings.system, asked.data)
            done = search.choose(pool.workload, settings)
            rows = {found.policy: found for found in done.rows}
            seconds = {name: found.reported_seconds for name, found in rows.items()}
            over.append(seconds["blend"] / seconds["paced"])
            beyond.append(seconds["dfs"] / seconds["paced"])
            reach.append(rows["paced"].share_of_reachable)
            regret.append((done.chosen.regret or 0.0) / min(seconds.values()))
        print(
            row(
                source,
                str(len(over)),
                f"{min(over):.3f} … {max(over):.3f}, mean {mean(over):.3f}",
                f"{np.mean(np.array(over) > 1):.0%}",
                f"{min(beyond):.3f} … {max(beyond):.3f}, mean {mean(beyond):.3f}",
                f"{min(reach):.1%} … {max(reach):.1%}",
                f"{np.mean(np.array(regret) <= 0.005):.0%}",
                f"{mean(regret):.2%}, {max(regret):.2%}",
            ),
            flush=True,
        )


if __name__ == "__main__":
    took = timed(main)[1]
    print(f"\nmeasured in {took:.0f} s")
