"""Sampling: how long a whole run takes, from the measured time of a few of its steps.

A stratified random sample without replacement. Strata are boxes in what a step costs (tokens, KV
read, share of prefill) and in when it runs; a model of the steps' seconds, where there is one,
serves as control variate. It may be wrong by any factor: that costs width, not truth.
"""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.errors import InputError
from blendsim.steplog import COUNTS

LEAST = 8  # steps of a sample; fewer say too little of how much steps differ
LEVEL = 0.95  # of the interval
_PER_STRATUM = 6  # measured steps a stratum has on average
_FREE = 24  # measured steps beyond the strata's number that a slope is learned from, at least


class Sample(NamedTuple):
    """Which steps are measured, and what they stand for."""

    stratum: Ints  # (steps,), of every step
    chosen: Ints  # (n,), rows of the steps to measure, ascending


class Estimate(NamedTuple):
    """Seconds of the whole run, with the interval at `level`."""

    seconds: float
    low: float
    high: float
    level: float
    degrees: float  # of freedom; infinite when every step was measured
    slope: float  # measured seconds a second of the model within strata; 0 without a model
    steps: Floats  # (steps,), seconds of each step: measured, or estimated; they add to `seconds`


class Stratum(NamedTuple):
    """One box of steps: what its steps compute, when they run, what was measured of them."""

    steps: int
    measured: int
    tokens_low: int  # computed in a step
    tokens_high: int
    context_low: int  # KV tokens read by decodes
    context_high: int
    prefill_low: float  # share of prompt tokens
    prefill_high: float
    position_low: float  # in the run, from 0 to 1
    position_high: float
    seconds: float  # of all its steps, estimated
    spread: float  # standard deviation of the measured steps over their mean


def step_axes(counts: Ints) -> Floats:
    """(steps, 4): log₂ of tokens and of context read, share of prefill, position in the run."""
    prefill = counts[:, COUNTS.index("prefill_tokens")]
    tokens = np.maximum(1, prefill + counts[:, COUNTS.index("decode_requests")])
    context = counts[:, COUNTS.index("context_tokens")]
    position = (np.arange(len(counts)) + 0.5) / max(1, len(counts))
    return np.column_stack([np.log2(tokens), np.log2(1 + context), prefill / tokens, position])


def choose_sample(
    counts: Ints, number: int, rng: np.random.Generator, model: Floats | None = None
) -> Sample:
    """A random sample of `number` of the steps in `counts` (all of them, if they are not more)."""
    steps = len(counts)
    if number >= steps:
        return Sample(np.zeros(steps, np.int64), np.arange(steps))
    if number < LEAST:
        raise InputError(
            f"--sampled {number} of {steps:,} steps says too little of the others; "
            f"give at least {LEAST}"
        )
    stratum = stratify(step_axes(counts), max(1, number // _PER_STRATUM))
    sizes = np.bincount(stratum)
    # Steps differ in proportion to what they take: strata get measurements by their seconds.
    weights = np.ones(steps) if model is None else model
    parts = allocate(sizes, np.bincount(stratum, weights).astype(np.float64), number)
    members = np.split(np.argsort(stratum, kind="stable"), np.cumsum(sizes)[:-1])
    drawn = [rng.choice(m, n, replace=False) for m, n in zip(members, parts.tolist(), strict=True)]
    return Sample(stratum, np.sort(np.concatenate(drawn)))


def stratify(axes: Floats, number: int) -> Ints:
    """Cut the rows of `axes` into at most `number` boxes, numbered from 0.

    The box with most rows × width on its widest axis is halved there, again and again; widths are
    shares of the whole extent.
    """
    extent = np.ptp(axes, axis=0)
    scaled = (axes - axes.min(axis=0)) / np.where(extent > 0, extent, 1.0)
    boxes = [np.arange(len(axes))]
    widths = [np.ptp(scaled, axis=0)]
    while len(boxes) < number:
        weights = [len(box) * width.max() for box, width in zip(boxes, widths, strict=True)]
        at = int(np.argmax(weights))
        if weights[at] == 0:
            break
        box, axis = boxes[at], int(np.argmax(widths[at]))
        values = scaled[box, axis]
        is_low = values < (values.min() + values.max()) / 2
        halves = (box[is_low], box[~is_low])
        boxes[at : at + 1] = halves
        widths[at : at + 1] = [np.ptp(scaled[half], axis=0) for half in halves]
    stratum = np.empty(len(axes), np.int64)
    for k, box in enumerate(boxes):
        stratum[box] = k
    return stratum


def allocate(sizes: Ints, weights: Floats, total: int) -> Ints:
    """`total` measurements over strata in proportion to `weights`: two each where there are two
    members, never more than there are.
    """
    assert sizes.min() >= 1, "no stratum is empty"
    parts = np.minimum(sizes, 2)
    assert parts.sum() <= total <= sizes.sum(), "two a stratum are asked for at least"
    # One by one to the stratum with most weight a measurement (Jefferson's method): total is small.
    for _ in range(total - int(parts.sum())):
        parts[np.argmax(np.where(parts < sizes, weights / (parts + 1), -1.0))] += 1
    return parts


def estimate(sample: Sample, seconds: Floats, model: Floats | None = None) -> Estimate:
    """The run's seconds from those of the chosen steps, in their order.

    Without a model a stratum counts N·ȳ; with one the combined regression estimator adds
    b·(X − x̂), with the slope b that makes its variance least. The variance is that of a sample
    without replacement, Σ N(N − n)/n·s²; the interval takes Satterthwaite's degrees of freedom.
    """
    stratum, chosen = sample
    assert len(seconds) == len(chosen), "every chosen step was measured"
    sizes = np.bincount(stratum)
    strata = len(sizes)
    at = stratum[chosen]
    n = np.bincount(at, minlength=strata)
    assert bool((n >= np.minimum(sizes, 2)).all()), "two members of every stratum were measured"
    blown = sizes * (sizes - n) / n  # N²·(1 − n/N)/n
    residual, mean = _centred(seconds, at, n)
    steps = mean[stratum]
    slope, free = 0.0, len(chosen) - strata
    if model is not None and free >= _FREE:
        apart, centre = _centred(model[chosen], at, n)
        factor = (blown / np.maximum(1, n - 1))[at]
        spread = float((factor * apart**2).sum())
        if spread > 0:
            slope = float((factor * apart * residual).sum()) / spread
            # The slope came from these steps too: each one's pull on it is given back (HC3).
            pull = factor * apart**2 / spread
            residual = (residual - slope * apart) / np.maximum(0.1, 1.0 - pull)
            steps = steps + slope * (model - centre[stratum])
    variances = np.bincount(at, weights=residual**2, minlength=strata) / np.maximum(1, n - 1)
    variances *= blown
    error = float(np.sqrt(variances.sum()))
    degrees = _degrees(variances, n, slope != 0.0)
    totals = np.bincount(stratum, steps).astype(np.float64)
    total = float(totals.sum())
    reach = student_quantile(0.5 + LEVEL / 2, degrees) * error if error > 0 else 0.0
    low, high = max(0.0, total - reach), total + reach
    spread_out = _spread_out(sample, totals, seconds, model)
    return Estimate(total, low, high, LEVEL, degrees, slope, spread_out)


def strata_table(counts: Ints, sample: Sample, found: Estimate) -> list[Stratum]:
    """What each stratum holds, a row each."""
    _, _, share, position = step_axes(counts).T
    prefill = counts[:, COUNTS.index("prefill_tokens")]
    tokens = prefill + counts[:, COUNTS.index("decode_requests")]
    context = counts[:, COUNTS.index("context_tokens")]
    is_chosen = np.zeros(len(counts), np.bool_)
    is_chosen[sample.chosen] = True
    rows = []
    for k in range(int(sample.stratum.max()) + 1):
        box = np.flatnonzero(sample.stratum == k)
        measured = found.steps[box[is_chosen[box]]]
        rows.append(
            Stratum(
                len(box),
                len(measured),
                int(tokens[box].min()),
                int(tokens[box].max()),
                int(context[box].min()),
                int(context[box].max()),
                float(share[box].min()),
                float(share[box].max()),
                float(position[box].min()),
                float(position[box].max()),
                float(found.steps[box].sum()),
                float(measured.std(ddof=1) / measured.mean()) if len(measured) > 1 else 0.0,
            )
        )
    return rows


def student_quantile(p: float, degrees: float) -> float:
    """Student's t at probability `p`, by its expansion in 1/degrees (Abramowitz and Stegun 26.7.5);
    exact to a per cent from three degrees on, and used from there.
    """
    z = NormalDist().inv_cdf(p)
    v = max(3.0, degrees)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92_160,
    )
    return sum(term / v**k for k, term in enumerate(terms))


def _centred(values: Floats, at: Ints, n: Ints) -> tuple[Floats, Floats]:
    """The values less their stratum's mean, and the means."""
    mean = np.bincount(at, weights=values, minlength=len(n)) / n
    return values - mean[at], mean


def _spread_out(sample: Sample, totals: Floats, seconds: Floats, model: Floats | None) -> Floats:
    """Seconds of every step: measured ones as they are, the others their stratum's rest in
    proportion to the model, or in equal parts.
    """
    stratum, chosen = sample
    weights = np.ones(len(stratum)) if model is None else model.copy()
    weights[chosen] = 0.0
    sums = np.bincount(stratum, weights)
    rest = totals - np.bincount(stratum[chosen], seconds, minlength=len(totals))
    steps: Floats = weights * (rest / np.where(sums > 0, sums, 1.0))[stratum]
    steps[chosen] = seconds
    return steps


def _degrees(variances: Floats, n: Ints, has_slope: bool) -> float:
    counted = variances > 0
    if not counted.any():
        return float("inf")
    parts, free = variances[counted], n[counted] - 1
    degrees = float(parts.sum() ** 2 / (parts**2 / free).sum())
    return max(1.0, degrees - has_slope)
