"""How policies compare over the paper's grids of density and prefix sharing, and what choosing by
prediction costs.

    python bench/grid.py [DIRECTORY with real traces] [--requests 40000] [--sources burstgpt,azure]
        [--sample 0.01] [--unknown] [--cut TOKENS] [--budgets] [--minutes 8]
        [--to bench/results/grid.csv]

Every point of the 65-point grid of each compute-heavy source, Llama-3.1-8B on one A100, two points
at a time; requests longer than the model's context are dropped. A line a point is kept in the CSV;
points that are in it, measured by the same code, are not measured again, so that a run may be cut
off or limited to some minutes and repeated until all are there. `--sample 1` makes all lengths
known, `--unknown` not even those of the videos, `--cut` ends all answers but videos at so many
tokens; `--budgets` runs `blend` at other token budgets than the engine's, too, and takes the
fastest. Prints a row a source: at how many points `paced` is faster than `blend`, by how much, and
the regret of `auto`: seconds lost against the best policy in hindsight.
"""

import argparse
import csv
import hashlib
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

import numpy as np
from floors import bound_with_floors
from machine import machine, row, today

import blendsim
from blendsim import search
from blendsim.errors import InputError
from blendsim.planner.make import OVERLAPPED
from blendsim.search.budgets import BUDGETS, SMALLER_BUDGETS
from blendsim.search.trial import find_engine
from blendsim.search.world_run import seconds_in
from blendsim.serving.flavour import find_flavour
from blendsim.synth.blend import blend
from blendsim.synth.recipes import GRID_SOURCES, Recipe, grid
from blendsim.traces.limits import without_oversize

PROCESSES = 2
BATCH = 4 * PROCESSES  # points after which the clock is looked at
TOKEN_BUDGET = find_flavour(search.Settings().engine).token_budget  # asked for: auto keeps it
SMALL = 0.005  # regret that is aimed at, of the best policy's seconds
LEFT_OUT = "left out"

Point = dict[str, str]  # a line of the CSV


@dataclass(frozen=True, slots=True)
class Task:
    """One point as it shall be measured."""

    recipe: Recipe
    sample: float
    hides_videos: bool
    cut: int | None
    tries_budgets: bool
    data: Path | None
    code: str

    @property
    def key(self) -> Point:
        """The columns that say which point it is, and of which code."""
        return {
            "source": self.recipe.sources[0],
            "density": f"{self.recipe.density:.2f}",
            "sharing": f"{self.recipe.sharing:.2f}",
            "requests": str(self.recipe.requests),
            "sample": f"{self.sample:g}",
            "videos": "unknown" if self.hides_videos else "known",
            "cut": "" if self.cut is None else str(self.cut),
            "blend at": "its best budget" if self.tries_budgets else "",
            "code": self.code,
        }


def main() -> None:
    """Measure what is missing; print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--requests", type=int, default=40_000)
    parser.add_argument("--sources", default=",".join(GRID_SOURCES))
    parser.add_argument("--sample", type=float, default=0.01)
    parser.add_argument("--unknown", action="store_true")
    parser.add_argument("--cut", type=int)
    parser.add_argument("--budgets", action="store_true")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--to", type=Path, default=Path("bench/results/grid.csv"))
    asked = parser.parse_args()
    code = code_hash()
    tasks = [
        Task(recipe, asked.sample, asked.unknown, asked.cut, asked.budgets, asked.data, code)
        for source in asked.sources.split(",")
        for recipe in grid(source, asked.requests)
    ]
    kept = read(asked.to)
    found = {tuple(task.key.values()): task for task in tasks}
    missing = [task for key, task in found.items() if key not in kept]
    for point in measured(missing, time.monotonic() + 60 * asked.minutes):
        kept[key_of(point)] = point
        write(asked.to, kept.values())
    points = [kept[key] for key in found if key in kept]
    print(
        f"{machine()}; {today()}; {asked.requests:,} requests a point, {asked.sample:.0%} sampled"
    )
    print(f"{len(points)} of {len(tasks)} points measured\n")
    show(points)


def code_hash() -> str:
    """Of all that a point's figures depend on: the package without its commands."""
    root, digest = Path(blendsim.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        if "cli" not in path.relative_to(root).parts:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def measured(tasks: list[Task], end: float) -> Iterator[Point]:
    """The points in order, until the batch in which the time is over."""
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as workers:
        for low in range(0, len(tasks), BATCH):
            if time.monotonic() > end:
                return
            yield from workers.map(measure, tasks[low : low + BATCH])


def measure(task: Task) -> Point:
    """Plan the point's pool with `auto`; its seconds by policy, simulated and predicted."""
    settings = search.Settings(sample=task.sample, token_budget=TOKEN_BUDGET)
    try:
        drawn = blend(task.recipe, settings.system, task.data).workload
    except InputError:  # no mix of so many requests has that density and sharing
        return {**task.key, "chosen": LEFT_OUT}
    pool = without_oversize(drawn, settings.system.longest_request, skip=True)
    if task.cut is not None:
        longest = np.where(pool.is_known, pool.output_len, task.cut)
        pool = replace(pool, output_len=np.minimum(pool.output_len, longest))
    if task.hides_videos:
        pool = replace(pool, is_known=pool.is_known & False)
    problem = search.prepare(pool, settings)
    done = search.choose_for(problem)
    found = {each.policy: each.reported_seconds for each in done.rows}
    if task.tries_budgets:
        plan = search.plan_policy(problem, "blend")
        tried = {*SMALLER_BUDGETS, *BUDGETS} - {TOKEN_BUDGET}  # at which it ran
        engines = [find_engine(problem, settings.engine, n) for n in sorted(tried)]
        others = [seconds_in(problem, plan, one, problem.true_lengths) for one in engines]
        found["blend"] = min(found["blend"], *others)
    model, truth = problem.model, problem.true_lengths
    floors = bound_with_floors(pool, truth, problem.prompts, model, TOKEN_BUDGET)
    return {
        **task.key,
        "chosen": done.chosen.policy,
        "reachable": f"{done.chosen.reachable_seconds:.3f}",
        "with floors": f"{floors:.3f}",
        **{f"{policy} seconds": f"{taken:.3f}" for policy, taken in found.items()},
        **{f"{each.policy} predicted": f"{each.predicted_seconds:.3f}" for each in done.rows},
    }


def key_of(point: Point) -> tuple[str, ...]:
    """What a point is known by."""
    names = ("source", "density", "sharing", "requests", "sample", "videos", "cut", "blend at")
    return tuple(point.get(name, "") for name in (*names, "code"))


def read(path: Path) -> dict[tuple[str, ...], Point]:
    """The points of an earlier run, if there was one."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {key_of(point): point for point in csv.DictReader(file)}


def write(path: Path, points: Iterable[Point]) -> None:
    """All points, under another name first, so that a run that is cut off leaves what was there."""
    lines = list(points)
    names = list(dict.fromkeys(name for point in lines for name in point))
    path.parent.mkdir(parents=True, exist_ok=True)
    passing = path.with_suffix(".part")
    with passing.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, names, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(lines)
    passing.replace(path)


def show(points: list[Point]) -> None:
    """Print a row a source."""
    titles = (
        "source",
        "points",
        "paced over blend",
        "faster at",
        "paced over dfs",
        "paced of reachable",
        "with floors",
        f"regret of auto ≤ {SMALL:.1%} at",
        "regret, mean and most",
    )
    print(row(*titles))
    print(row(*["---"] * len(titles)))
    for source in dict.fromkeys(point["source"] for point in points):
        mine = [p for p in points if p["source"] == source and p["chosen"] != LEFT_OUT]
        paced = [seconds(point, "paced") for point in mine]
        over = [seconds(p, "blend") / own for p, own in zip(mine, paced, strict=True)]
        beyond = [seconds(p, "dfs") / own for p, own in zip(mine, paced, strict=True)]
        bounds = [
            [float(p[name]) / own for p, own in zip(mine, paced, strict=True)]
            for name in ("reachable", "with floors")
        ]
        lost = [regret(point) for point in mine]
        print(
            row(
                source,
                str(len(mine)),
                told(over),
                f"{sum(x > 1 for x in over)}",
                told(beyond),
                *(f"{min(of):.1%} … {max(of):.1%}, mean {mean(of):.1%}" for of in bounds),
                f"{sum(x <= SMALL for x in lost)} ({mean(x <= SMALL for x in lost):.0%})",
                f"{mean(lost):.2%}, {max(lost):.2%}",
            )
        )


def seconds(point: Point, policy: str) -> float:
    """Of the policy's run on the true lengths."""
    return float(point[f"{policy} seconds"])


def regret(point: Point) -> float:
    """What the choice lost, of the best policy's seconds."""
    best = min(seconds(point, policy) for policy in OVERLAPPED)
    return seconds(point, point["chosen"]) / best - 1


def told(ratios: list[float]) -> str:
    """Least, most and mean."""
    return f"{min(ratios):.3f} … {max(ratios):.3f}, mean {mean(ratios):.3f}"


if __name__ == "__main__":
    main()
