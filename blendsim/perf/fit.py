"""Fit: from measured pairs, a layer's GEMMs beside decode attention, to an overlap and SM shares.

Every pair was timed alone (c, m) and together under several shares of the GPU. The best share's
time counts, since an engine chooses; what remains are points f/c over m/c, kept in overlap.csv with
the share that was best. `overlap.hull` makes the f of them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.errors import ProfileError
from blendsim.perf.kernels import overlapped
from blendsim.perf.overlap import hull
from blendsim.perf.records import above_zero, column, read_rows, write_rows

HOLD_BACK = 5  # every fifth point is kept from the fit and predicted
_ALIKE = 1.05  # ratios so near are one point
_HEADER = ("memory_over_compute", "time_over_compute", "attention_sms")


class Pairs(NamedTuple):
    """Measured pairs in columns, a row a timing. Rows of equal sizes are repetitions."""

    tokens: Ints  # of the GEMMs
    batch: Ints  # requests decoded beside them
    context: Ints  # tokens of each
    attention_sms: Ints  # given to attention, the rest to the GEMMs; 0: two plain streams
    compute: Floats  # seconds of the GEMMs alone on the GPU
    memory: Floats  # seconds of attention alone on the GPU
    together: Floats  # seconds until both are done


@dataclass(frozen=True, slots=True, eq=False)
class OverlapFit:
    """The points of an overlap, and how well they predict pairs kept from them."""

    ratios: Floats  # m/c, ascending
    times: Floats  # f/c at the best share
    attention_sms: Ints  # that share; 0: two plain streams
    sizes: int  # different pairs measured
    held_back: int  # of them predicted from the others
    median_error: float  # of those predictions, relative; NaN if none was held back
    p90_error: float

    @property
    def lines(self) -> Floats:
        """(k, 3): f(c, m, n) = max of a·c + b·m + d·n, n the network."""
        return hull(self.ratios, self.times)

    @property
    def best(self) -> tuple[float, float]:
        """(largest (c + m)/f, the m/c where it is): what overlap buys at best."""
        lines = self.lines
        gains = [(1.0 + r) / overlapped(lines, 1.0, r) for r in self.ratios.tolist()]
        i = int(np.argmax(gains))
        return max(1.0, float(gains[i])), float(self.ratios[i])


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """Which share of the GPU was best for attention, by m/c."""

    ratios: Floats
    attention_sms: Ints

    def at(self, compute: float, memory: float) -> int:
        """SMs for attention beside this much compute: the nearest measured ratio's."""
        ratio = np.log(max(memory, 1e-12) / max(compute, 1e-12))
        return int(self.attention_sms[np.argmin(np.abs(np.log(self.ratios) - ratio))])


def fit_overlap(pairs: Pairs) -> OverlapFit:
    """The overlap of measured pairs; every `HOLD_BACK`-th size, by ratio, tests the rest."""
    if not len(pairs.tokens):
        raise ProfileError("no pair was measured, so there is no overlap to fit; give more time")
    sizes = sorted(_sizes(pairs), key=lambda size: size.ratio)
    is_tested = [
        len(sizes) >= HOLD_BACK and i % HOLD_BACK == HOLD_BACK // 2 for i in range(len(sizes))
    ]
    tested = [size for size, is_it in zip(sizes, is_tested, strict=True) if is_it]
    kept = [size for size, is_it in zip(sizes, is_tested, strict=True) if not is_it]
    errors = np.empty(0)
    if tested:
        ratios, times, _ = _points(kept)
        lines = hull(ratios, times)
        found = np.array([overlapped(lines, 1.0, size.ratio) for size in tested])
        errors = np.abs(found / np.array([size.time for size in tested]) - 1.0)
    ratios, times, shares = _points(sizes)
    return OverlapFit(
        ratios=ratios,
        times=times,
        attention_sms=shares,
        sizes=len(sizes),
        held_back=len(tested),
        median_error=float(np.median(errors)) if tested else float("nan"),
        p90_error=float(np.quantile(errors, 0.9)) if tested else float("nan"),
    )


def write_overlap(fit: OverlapFit, path: Path) -> None:
    """Write a profile's overlap.csv."""
    rows = zip(fit.ratios, fit.times, fit.attention_sms, strict=True)
    write_rows(path, _HEADER, ([f"{r:.6g}", f"{t:.6g}", int(sms)] for r, t, sms in rows))


def read_shares(path: Path) -> Shares:
    """The SM shares of an overlap.csv."""
    _, rows = read_rows(path, _HEADER)
    return Shares(above_zero(path, rows, 0), column(path, rows, 2).astype(np.int64))


class _Size(NamedTuple):
    """One size of pair: its ratio, and its time over c by share."""

    ratio: float
    by_share: dict[int, float]

    @property
    def time(self) -> float:
        return min(self.by_share.values())


def _sizes(pairs: Pairs) -> list[_Size]:
    """Repetitions become their median; c and m belong to the size, not to the share."""
    keys = np.column_stack([pairs.tokens, pairs.batch, pairs.context])
    different, which = np.unique(keys, axis=0, return_inverse=True)
    sizes = []
    for i in range(len(different)):
        is_here = which.ravel() == i
        c = float(np.median(pairs.compute[is_here]))
        m = float(np.median(pairs.memory[is_here]))
        shares = pairs.attention_sms[is_here]
        times = pairs.together[is_here]
        by_share = {int(s): float(np.median(times[shares == s])) / c for s in np.unique(shares)}
        sizes.append(_Size(m / c, by_share))
    return sizes


def _points(sizes: list[_Size]) -> tuple[Floats, Floats, Ints]:
    """Sizes of about equal ratio are one point, their median; its share is the one that costs them
    least against the best share of each.
    """
    groups: list[list[_Size]] = []
    for size in sizes:
        if groups and size.ratio <= _ALIKE * groups[-1][0].ratio:
            groups[-1].append(size)
        else:
            groups.append([size])
    ratios = np.array([np.median([size.ratio for size in group]) for group in groups])
    # Medians of f/(c + m), which hardly changes with the ratio, so that f fits the point's ratio.
    phi = [np.median([size.time / (1.0 + size.ratio) for size in group]) for group in groups]
    shares = np.array([_common_share(group) for group in groups], np.int64)
    return ratios, np.array(phi) * (1.0 + ratios), shares


def _common_share(group: list[_Size]) -> int:
    common = set.intersection(*(set(size.by_share) for size in group))
    if not common:  # a profile cut short: the first size's own best
        return min(group[0].by_share, key=lambda s: group[0].by_share[s])
    return min(
        sorted(common), key=lambda s: float(np.mean([x.by_share[s] / x.time for x in group]))
    )
