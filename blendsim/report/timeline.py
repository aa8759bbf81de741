"""A run over its time: what its steps did, in equal parts of it, rank by rank; and which steps
stand out. What a picture shows of 200,000 steps, and no more.
"""

from typing import NamedTuple

import numpy as np

from blendsim.arrays import Bools, Floats, Ints
from blendsim.perf.pricing import StepWork
from blendsim.report.validate import KINDS, step_kinds
from blendsim.steplog import NOT_COUNTED, StepLog

PARTS = 200  # of a run's time, or fewer where there are fewer steps
CLASSES = 60  # of a step's duration, equal on a logarithmic scale
LONGEST = 10
FEW = 8  # requests: fewer running ones leave a GPU nearly idle
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)

#: Columns of which a step's value is held for as long as the step runs.
HELD = (
    "prefill_tokens",
    "decode_requests",
    "context_tokens",
    "held_blocks",
    "cached_blocks",
    "running",
    "waiting",
)


class Line(NamedTuple):
    """One rank. Every column has a value a part of the run, not-a-number where the rank ran no
    step.
    """

    replica: int
    held: dict[str, Floats]  # by name of HELD, if counted: the mean over the time that steps ran
    compute: Floats | None  # seconds of work a second of the run
    memory: Floats | None


class Timeline(NamedTuple):
    """All ranks over the same parts of the run."""

    edges: Floats  # (parts + 1,), seconds
    lines: list[Line]


def timeline(log: StepLog, work: StepWork | None) -> Timeline:
    """The run in `PARTS` equal parts. A step that reaches over a part's end counts in both, by its
    seconds in each.
    """
    edges = np.linspace(0.0, log.end, min(PARTS, len(log)) + 1)
    return Timeline(edges, [_line(log, work, each, edges) for each in np.unique(log.replica)])


def _line(log: StepLog, work: StepWork | None, replica: int, edges: Floats) -> Line:
    rows = log.replica == replica
    start, seconds = log.time("start")[rows], log.time("seconds")[rows]

    def within(amounts: Floats) -> Floats:
        """How much of the steps' amounts falls into every part."""
        # NOTE: a start may lie an ulp before the end of the step before.
        at = np.maximum.accumulate(np.column_stack([start, start + seconds]).ravel())
        so_far = np.cumsum(amounts)
        sums = np.column_stack([so_far - amounts, so_far]).ravel()
        return np.diff(np.interp(edges, at, sums))

    busy, width = within(seconds), np.diff(edges)
    with np.errstate(invalid="ignore", divide="ignore"):
        is_idle = busy <= 1e-9 * width
        held = {
            name: np.where(is_idle, np.nan, within(log.count(name)[rows] * seconds) / busy)
            for name in HELD
            if name not in log.meta.get(NOT_COUNTED, [])
        }
    if work is None:
        return Line(int(replica), held, None, None)
    each = [within(column[rows]) / width for column in work]
    return Line(int(replica), held, *each)


class FewRunning(NamedTuple):
    """For how long few requests ran, on all ranks together; seconds."""

    few: float  # fewer than FEW, at least one
    tail: float  # of these, those after the last time that FEW ran
    lone: float  # a single one


def few_running(log: StepLog) -> FewRunning | None:
    """None where requests that run were not counted."""
    if "running" in log.meta.get(NOT_COUNTED, []):
        return None
    running, start = log.count("running"), log.time("start")
    at = np.concatenate([start, start + log.time("seconds")])
    place = np.argsort(at, kind="stable")
    at, after = at[place], np.cumsum(np.concatenate([running, -running])[place])
    # NOTE: a start may lie an ulp before the end of the step before, for which time both count.
    width, now = np.diff(at), after[:-1]
    is_few = (now > 0) & (now < FEW)
    last = np.flatnonzero((now >= FEW) & (width > 1e-9 * max(float(at[-1]), 1e-300)))
    begins = last[-1] + 1 if len(last) else 0
    few = float(width[is_few].sum())
    tail = float(width[begins:][is_few[begins:]].sum())
    return FewRunning(few, tail, float(width[now == 1].sum()))


class Durations(NamedTuple):
    """How long steps take: the share of the steps' time by duration and kind."""

    edges: Floats  # (classes + 1,), seconds
    shares: Floats  # (kinds, classes), of the steps' summed seconds
    quantiles: dict[float, float]  # seconds; of steps, not of their time
    steps: int
    longest: float


def durations(log: StepLog) -> Durations:
    """Of the steps that were timed themselves."""
    rows = log.is_timed & (log.time("seconds") > 0)
    seconds, kind = log.time("seconds")[rows], step_kinds(log.counts[rows])
    low, high = seconds.min(), seconds.max()
    edges = np.geomspace(low * 0.999, high * 1.001, CLASSES + 1)
    shares = [
        np.histogram(seconds[kind == k], edges, weights=seconds[kind == k])[0] / seconds.sum()
        for k in range(len(KINDS))
    ]
    found = np.quantile(seconds, QUANTILES).tolist()
    return Durations(
        edges,
        np.array(shares),
        dict(zip(QUANTILES, found, strict=True)),
        len(seconds),
        float(high),
    )


def longest_steps(log: StepLog) -> Ints:
    """Rows of the steps that took longest, the longest first."""
    seconds = np.where(log.is_timed, log.time("seconds"), -np.inf)
    rows = np.argsort(-seconds, kind="stable")[:LONGEST]
    return rows[np.isfinite(seconds[rows])]


class Rank(NamedTuple):
    """One rank of several."""

    replica: int
    ends: float  # seconds from the run's beginning
    busy: float  # of which it ran steps
    steps: int
    finished: int
    tokens: int  # computed
    hit_tokens: int
    preempted_tokens: int


def ranks(log: StepLog) -> list[Rank]:
    """Every rank of the log, by number."""
    return [_rank(log, log.replica == each) for each in np.unique(log.replica)]


def _rank(log: StepLog, rows: Bools) -> Rank:
    def total(name: str) -> int:
        return int(log.count(name)[rows].sum())

    seconds = log.time("seconds")[rows]
    return Rank(
        replica=int(log.replica[rows][0]),
        ends=float((log.time("start")[rows] + seconds).max()),
        busy=float(seconds.sum()),
        steps=int(rows.sum()),
        finished=total("finished"),
        tokens=total("prefill_tokens") + total("decode_requests"),
        hit_tokens=total("hit_tokens"),
        preempted_tokens=total("preempted_tokens"),
    )
