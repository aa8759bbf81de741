"""What a search finds where no length is known: judged by the one drawn world, and by several.

    python bench/worlds.py [DIRECTORY with real traces] [--traces trace1 …] [--requests 40000]
        [--seeds 2] [--evaluations 60] [--gpu a100-80g]

The paper's recipes, Llama-3.1-8B on one GPU, 1 % of the lengths sampled, no video known. A row is
one sample and one way to judge. Gains are over `paced` as `plan` makes it: what the search saw, and
what it is on the true lengths, which no search reads.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
from machine import machine, row, timed, today

from blendsim import search
from blendsim.request import Workload
from blendsim.search.judging import JUDGING_WORLDS
from blendsim.search.schedule_search import Effort, search_prepared
from blendsim.search.trial import find_engine
from blendsim.search.world_run import seconds_in
from blendsim.synth.blend import blend
from blendsim.synth.recipes import RECIPES

PACED = "paced"
LOOSE = 0.5  # how far a small pool of few videos may be from its recipe's density


def true_seconds(problem: search.Problem) -> float:
    """Of `paced` on the true lengths."""
    engine = find_engine(problem, problem.settings.engine)
    return seconds_in(problem, search.plan_policy(problem, PACED), engine, problem.true_lengths)


def pool(name: str, requests: int, settings: search.Settings, data: Path | None) -> Workload:
    """A recipe's pool with no length known beforehand."""
    recipe = RECIPES[name]
    if requests < recipe.requests:
        recipe = replace(recipe, requests=requests, tolerance=LOOSE)
    made = blend(recipe, settings.system, data).workload
    return replace(made, is_known=np.zeros(len(made), np.bool_))


def told(worlds: int) -> str:
    """What schedules were judged by."""
    return f"{worlds} worlds" if worlds else "one drawn world"


def main() -> None:
    """Search and print a row each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--gpu", default="a100-80g")
    parser.add_argument("--profile", default="imported")
    parser.add_argument("--requests", type=int, default=40_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--worlds", nargs="+", type=int, default=[0, JUDGING_WORLDS])
    parser.add_argument("--traces", nargs="+", choices=RECIPES, default=list(RECIPES))
    asked = parser.parse_args()
    print(
        f"{machine()}; {today()}; {asked.gpu}, {asked.profile} profile, {asked.requests:,} "
        f"requests, {asked.evaluations} evaluations\n"
    )
    head = ("workload", "seed", "judged by", "simulations", "seconds", "gain seen", "true gain")
    print(row(*head, "reachable", "chosen"))
    print(row(*["---"] * 9))
    gains: dict[int, list[float]] = {}
    for trace in asked.traces:
        settings = search.Settings(sample=0.01, gpu=asked.gpu, profile=asked.profile)
        workload = pool(trace, asked.requests, settings, asked.data)
        for seed in range(asked.seeds):
            problem = search.prepare(workload, replace(settings, seed=seed))
            usual = true_seconds(problem)
            for worlds in asked.worlds:
                start = time.perf_counter()
                found = search_prepared(problem, Effort(asked.evaluations, worlds=worlds))
                took = time.perf_counter() - start
                gain = usual / found.chosen.reported_seconds - 1
                gains.setdefault(worlds, []).append(gain)
                cells = (
                    told(worlds),
                    f"{found.tally.whole} + {found.tally.thinned}",
                    f"{took:.0f}",
                    f"{found.fixed_seconds[PACED] / found.seconds - 1:+.1%}",
                    f"{gain:+.1%}",
                    f"{found.chosen.share_of_reachable:.1%}",
                    "searched" if found.is_searched else found.chosen.policy,
                )
                print(row(trace, str(seed), *cells), flush=True)
    for worlds, each in gains.items():
        print(f"\n- {told(worlds)}: {mean(each):+.1%} in the mean, {min(each):+.1%} at worst")


if __name__ == "__main__":
    took = timed(main)[1]
    print(f"\nmeasured in {took:.0f} s")
