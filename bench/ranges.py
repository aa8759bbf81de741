"""How often the true time lies within the range that `plan` tells, and how far predictions are off.

    python bench/ranges.py [--requests 2000] [--seeds 6] [--gpu h100]

Pools of one source of which 1 % is sampled, 32 at least, in prefix order on vLLM: the plan's
seconds on the true lengths, as predicted, and in eight worlds that the sample allows. Once with the
longest lengths drawn anew, as they are, and once with none longer than the longest sampled.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple
from unittest import mock

from machine import machine, row, timed, today

from blendsim.perf.measured import IMPORTED
from blendsim.request import Workload
from blendsim.search import Settings, plan_policy, prepare
from blendsim.search.spread import spread
from blendsim.search.world_run import seconds_in
from blendsim.traces.load import load

SOURCES = ("azure-code", "azure-conv", "sharegpt", "wildchat")


class Told(NamedTuple):
    """Seconds of one plan."""

    true: float
    predicted: float
    least: float
    most: float


def told(pool: Workload, settings: Settings) -> Told:
    """Of the pool in prefix order."""
    problem = prepare(pool, settings)
    plan, flavour = plan_policy(problem, "dfs"), settings.flavour()
    true, predicted = (
        seconds_in(problem, plan, flavour, lengths)
        for lengths in (problem.true_lengths, problem.drawn)
    )
    worlds = spread(problem, plan, flavour).seconds
    return Told(true, predicted, worlds[0], worlds[-1])


@contextmanager
def no_longer_than_seen() -> Iterator[None]:
    """Lengths drawn of those that were sampled, and no others."""
    with mock.patch("blendsim.planner.lengths._redraw_peaks"):
        yield


def summed_up(source: str, kind: str, found: list[Told]) -> str:
    """A row of the table."""
    off = [abs(each.predicted / each.true - 1.0) for each in found]
    return row(
        source,
        kind,
        f"{found[0].true:,.1f}",
        f"{sum(each.least <= each.true <= each.most for each in found)} of {len(found)}",
        str(sum(each.true > each.most for each in found)),
        f"{median(off):.1%}",
        f"{max(off):.1%}",
    )


def main() -> None:
    """Measure and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--requests", type=int, default=2_000)
    options.add_argument("--seeds", type=int, default=6)
    options.add_argument("--gpu", default="h100")
    given = options.parse_args()
    print(f"{machine()}; {today()}; {given.gpu}, {given.requests:,} requests\n")
    head = "source", "longest", "true, s", "within range", "above it", "median off", "most off"
    print(row(*head))
    print(row(*["---"] * len(head)))
    _, seconds = timed(lambda: measure(given.requests, given.seeds, given.gpu))
    print(f"\nmeasured in {seconds:,.0f} s")


def measure(requests: int, seeds: int, gpu: str) -> None:
    """Print the rows."""
    for source in SOURCES:
        pool = load(f"demo:{source}?n={requests}")
        asked = [
            Settings(gpu=gpu, engine="vllm", seed=seed, profile=IMPORTED) for seed in range(seeds)
        ]
        with no_longer_than_seen():
            print(summed_up(source, "as seen", [told(pool, each) for each in asked]), flush=True)
        print(summed_up(source, "anew", [told(pool, each) for each in asked]), flush=True)


if __name__ == "__main__":
    main()
