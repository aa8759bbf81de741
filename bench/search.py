"""How fast schedules are searched, what that finds, and how far a small pool on a small machine
tells of the whole.

    python bench/search.py RECIPE [REQUESTS]

One of the paper's recipes (trace1 … trace4), 400,000 requests unless said otherwise, Llama-3.1-8B
on one A100, 1 % of the output lengths sampled, kernels warm. Three rows: simulations alone (one
plan, engine rules that differ), a whole search, and rank correlations.
"""

import os
import sys
import time
from dataclasses import replace

import numpy as np
from machine import machine, peak_gigabytes, row, today
from scipy.stats import qmc, spearmanr

from blendsim import search
from blendsim.request import Workload
from blendsim.search.evaluation import Evaluator
from blendsim.search.race import Heat
from blendsim.search.schedule_search import Effort, Found
from blendsim.search.schedule_search import search as find
from blendsim.search.space import Space, axes_of, plain
from blendsim.synth.blend import blend
from blendsim.synth.recipes import RECIPES

ALONE = 24  # simulations timed by themselves
SCATTERED = 32  # points of the rank correlation
EVALUATIONS = 160


def simulations_alone(name: str, space: Space, evaluator: Evaluator) -> None:
    """Simulations a minute of one plan at engine rules drawn at random, by the wall and by the
    processor: other work on the machine lengthens the wall only.
    """
    rng = np.random.default_rng(1)
    point = list(space.fixed()[-1])
    names = [axis.name for axis in space.axes]
    heats = [Heat(tuple(point), 0)]
    while len(heats) <= ALONE:
        for rule in ("token budget", "output reserved", "eviction"):
            k = names.index(rule)
            point[k] = int(rng.integers(len(space.axes[k].values)))
        if (heat := Heat(space.tidy(point), 0)) not in heats:
            heats.append(heat)
    evaluator.seconds(heats[:1])  # the plan is made, kernels are warm
    ran = evaluator.simulations[0]
    wall, used = time.perf_counter(), time.process_time()
    evaluator.seconds(heats[1:])
    wall, used = time.perf_counter() - wall, time.process_time() - used
    count = evaluator.simulations[0] - ran
    cores = len(os.sched_getaffinity(0))
    print(
        row(
            name,
            str(count),
            f"{used / count:.2f}",
            f"{60 * count / wall:.0f}",
            f"{60 * cores * count / used:.0f}",
            f"{os.getloadavg()[0]:.1f}",
        )
    )


def whole_search(name: str, workload: Workload, settings: search.Settings, space: Space) -> Found:
    """A row of a search from end to end."""
    used = time.process_time()
    found = find(workload, settings, Effort(EVALUATIONS))
    used = time.process_time() - used
    tally = found.tally
    first = next(entry.seconds for entry in found.leaderboard if entry.is_fixed)
    usual = [space.told(point) for point in space.fixed_everywhere()]
    at_budgets = min(entry.seconds for entry in found.leaderboard if entry.values in usual)
    chosen = found.chosen
    print(
        row(
            name,
            str(tally.evaluations),
            str(tally.whole),
            str(tally.thinned),
            f"{tally.seconds:.0f}",
            f"{60 * tally.evaluations / tally.seconds:.0f}",
            f"{used:.0f}",
            f"{first:,.0f}",
            f"{at_budgets:,.0f}",
            f"{found.seconds:,.0f}",
            f"{found.rows[0].seconds:,.0f}",
            f"{chosen.seconds:,.0f}",
            f"{chosen.share_of_reachable:.1%}",
        )
    )
    print(found.schedule, file=sys.stderr)
    return found


def correlations(name: str, space: Space, evaluator: Evaluator) -> None:
    """Spearman's rank correlation of small pools with the whole over scattered points."""
    sobol = qmc.Sobol(len(space.axes), rng=np.random.default_rng(1))
    policies = list(range(len(space.fixed())))
    points = list(dict.fromkeys(space.at(place, policies) for place in sobol.random(SCATTERED)))
    seconds, took = [], []
    for level in range(len(evaluator.levels)):
        used = time.process_time()
        seconds.append(evaluator.seconds([Heat(point, level) for point in points]))
        took.append(time.process_time() - used)
    for level in range(1, len(evaluator.levels)):
        best = int(np.argmin(seconds[level]))
        print(
            row(
                name,
                f"1/{evaluator.parts[level]}",
                str(len(points)),
                f"{spearmanr(seconds[0], seconds[level]).statistic:.2f}",
                str(1 + int((np.array(seconds[0]) < seconds[0][best]).sum())),
                f"{took[level] / took[0]:.2f}",
            )
        )


def main() -> None:
    """Print machine and rows."""
    name = sys.argv[1]
    count = int(sys.argv[2]) if len(sys.argv) > 2 else RECIPES[name].requests
    settings = search.Settings()
    workload = blend(replace(RECIPES[name], requests=count), settings.system, None).workload
    print(f"{machine()}; {today()}; {count:,} requests")
    problem = search.prepare(workload, settings)
    space = Space(axes_of(problem), plain(problem))
    evaluator = Evaluator(problem, space)
    simulations_alone(name, space, evaluator)
    whole_search(name, workload, settings, space)
    correlations(name, space, evaluator)
    print(f"peak memory {peak_gigabytes():.1f} GB")


if __name__ == "__main__":
    main()
