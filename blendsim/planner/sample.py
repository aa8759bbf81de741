"""Which requests run first, so that their output lengths are known: a share of each source, or as
many as pay.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blendsim.arrays import Bools, Floats, Ints
from blendsim.perf.density import RequestCosts, closed_form
from blendsim.request import Workload
from blendsim.system import System

AUTO = "auto"  # in place of a share: what pays
LEAST_SAMPLE = 32  # requests of each source that are sampled at least
LEAST_GROWN = 8  # the same where the sample grows by what it shows
MOST_SHARE = 0.1  # of each source's requests that `AUTO` samples, unless that is fewer than least
MEAN_ERROR = float(np.sqrt(2.0 / np.pi))  # E|x| of a normal x, in standard deviations


class _Line(NamedTuple):
    """Requests that can be sampled, each group's in random order."""

    rows: Ints
    starts: Ints
    sizes: Ints

    def first(self, quota: NDArray[np.generic], n: int) -> Bools:
        """(n,) the first `quota` of each group."""
        place = np.arange(len(self.rows)) - np.repeat(self.starts, self.sizes)
        is_sampled = np.zeros(n, np.bool_)
        is_sampled[self.rows[place < np.repeat(quota, self.sizes)]] = True
        return is_sampled


def choose_sample(
    workload: Workload,
    group: NDArray[np.int32],
    share: float,
    rng: np.random.Generator,
    least: int = LEAST_SAMPLE,
) -> Bools:
    """Which requests to run first: `share` of each group's unknown ones at random, `least` or all
    of them at least.

    None when `share` is 0 (planning then goes without) or 1 (all lengths are known already).
    Requests whose output length is not given cannot be sampled.
    """
    line = _line(workload, group, rng)
    if not 0.0 < share < 1.0:
        return np.zeros(len(workload), np.bool_)
    quota = np.maximum(np.ceil(share * line.sizes), np.minimum(least, line.sizes))
    return line.first(quota, len(workload))


def choose_what_pays(
    workload: Workload,
    group: NDArray[np.int32],
    system: System,
    rng: np.random.Generator,
    least: int = LEAST_GROWN,
) -> Bools:
    """Which requests to run first on `system`: `least` of each group, and from what those sampled
    show as many more as `sizes_that_pay` says, at most `MOST_SHARE`. A group's sample no more than
    doubles before it is looked at again, as a few requests may miss how much all of them vary.
    """
    line = _line(workload, group, rng)
    most = np.maximum(np.ceil(MOST_SHARE * line.sizes), np.minimum(least, line.sizes))
    quota = np.minimum(least, line.sizes)
    while True:
        is_sampled = line.first(quota, len(workload))
        rows = np.flatnonzero(is_sampled)
        costs = closed_form(system, workload.prompt_len[rows], workload.output_len[rows])
        wanted = np.ceil(sizes_that_pay(line.sizes, *_spread_and_price(group[rows], costs)))
        grown = np.maximum(quota, np.minimum(np.minimum(wanted, most), 2 * quota))
        if np.array_equal(grown, quota):
            return is_sampled
        quota = grown


def _spread_and_price(group: NDArray[np.int32], costs: RequestCosts) -> tuple[Floats, Floats]:
    """Of each group: standard deviation of memory seconds, |memory − compute| of its mean."""
    _, at, count = np.unique(group, return_inverse=True, return_counts=True)
    memory = np.bincount(at, costs.memory) / count
    compute = np.bincount(at, costs.compute) / count
    squares = np.bincount(at, (costs.memory - memory[at]) ** 2)
    return np.sqrt(squares / np.maximum(count - 1, 1)), np.abs(memory - compute)


def sizes_that_pay(sizes: Ints, spread: Floats, price: Floats) -> Floats:
    """How many of each group to sample, so that what is not known and what the sample breaks cost
    least together.

    Seconds of one resource that no seconds of the other run beside are lost, twice over: those by
    which the pool's memory time is misjudged, √(2/π)·√Σ N²s²/n in the mean with `spread` s, and
    those by which the sample, which runs first, is out of balance: Σ k·n at most, with `price`
    k = |memory − compute| of a group's mean request. With w = N·s·√k the sum is least at
    n = λ·N·s/√k, λ = (√(2/π) / (2·√Σw))^⅔.
    """
    deviation = sizes * spread
    weight = float((deviation * np.sqrt(price)).sum())
    if weight == 0.0:
        return np.zeros(len(sizes))
    scale = (MEAN_ERROR / (2.0 * np.sqrt(weight))) ** (2.0 / 3.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted: Floats = np.nan_to_num(scale * deviation / np.sqrt(price), nan=0.0, posinf=np.inf)
    return wanted


def _line(workload: Workload, group: NDArray[np.int32], rng: np.random.Generator) -> _Line:
    key = rng.random(len(workload))
    rows = np.flatnonzero(workload.has_output & ~workload.is_known)
    rows = rows[np.lexsort((key[rows], group[rows]))]
    starts = np.flatnonzero(np.diff(group[rows], prepend=-1))
    return _Line(rows, starts, np.diff(starts, append=len(rows)))
