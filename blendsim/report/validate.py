"""Validation: a simulated step log held against a measured one of the same schedule.

The serving core decides in both, so rows agree in all counts and what differs is time: by how much
a step, by kind of step, over the whole run, and in what one policy gains on another.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from blendsim.arrays import Bools, Floats, Ints
from blendsim.errors import InputError
from blendsim.report.matching import (
    differing_machines,
    differing_replays,
    matching_rows,
    require_same_plan,
)
from blendsim.steplog import COUNTS, NOT_COUNTED, StepLog

KINDS = ("decode only", "mixed", "prefill-heavy")  # prefill-heavy: more than half of the tokens
PARTS = 3  # classes of KV read: thirds of the steps compared


class Compared(NamedTuple):
    """The steps whose seconds were measured, one entry each."""

    step: Ints  # row within its replica
    simulated: Floats  # seconds
    measured: Floats  # seconds
    kind: Ints  # index into KINDS
    context: Ints  # tokens of KV that decodes read

    @property
    def error(self) -> Floats:
        """Simulated over measured seconds, less 1."""
        return self.simulated / self.measured - 1.0


class Errors(NamedTuple):
    """Errors of some steps: simulated over measured seconds, less 1."""

    kind: str  # one of KINDS, or "all"
    context_low: int  # KV tokens read by decodes, least and most among the steps
    context_high: int
    steps: int
    share: float  # of the measured seconds
    total: float  # error of the steps' summed seconds
    median: float
    p10: float
    p90: float
    absolute_median: float
    absolute_p90: float


class Total(NamedTuple):
    """The whole run, or as far as it was measured: seconds until its last step ends."""

    simulated: float
    measured: float
    low: float  # of a sampled replay's interval; where all was measured, `measured` itself
    high: float
    error: float  # simulated over measured, less 1
    between_steps: float  # measured seconds in which the last replica ran no step
    tokens: int  # computed by the layers


class Speedup(NamedTuple):
    """How many times faster the first pair's run is than the other's."""

    simulated: float
    measured: float
    low: float
    high: float
    error: float  # simulated over measured, less 1


@dataclass(frozen=True, slots=True, eq=False)
class Validation:
    """One simulated run against its measurement."""

    policy: str
    engine: str
    is_whole: bool  # the measured run came to its end
    strata: tuple[Errors, ...]  # all steps first, then by kind and KV read
    total: Total
    compared: Compared
    notes: tuple[str, ...]


def validate(
    simulated: StepLog, measured: StepLog, names: tuple[str, str] = ("simulated", "measured")
) -> Validation:
    """Compare two logs of one schedule. InputError where they are not that: `names` say which is
    meant. A measured run that broke off is compared as far as it goes.
    """
    notes = require_same_plan(simulated.meta, measured.meta, names)
    if "runtime" in simulated.meta:
        notes += differing_replays(simulated.meta, measured.meta, names)
    else:
        notes += differing_machines(simulated.meta, measured.meta)
    pairs = matching_rows(simulated, measured, names)
    if len(pairs) < len(simulated):
        notes.append(
            f"{names[1]} has {len(pairs):,} of {len(simulated):,} steps; compared as far as it goes"
        )
    if left_out := measured.meta.get(NOT_COUNTED):
        notes.append(f"{names[1]} does not count {', '.join(left_out)}; not compared")
    is_timed = measured.is_timed[pairs[:, 1]]
    if not is_timed.any():
        raise InputError(f"{names[1]}: none of its steps was measured; replay again")
    is_estimated = "estimate" in measured.meta
    if not is_timed.all():
        notes.append(
            f"{names[1]} measured {is_timed.sum():,} of {len(pairs):,} steps; errors a step are "
            f"of those, its whole time is {'an estimate' if is_estimated else 'not known'}"
        )
    at = pairs[is_timed]
    compared = Compared(
        step=at[:, 2],
        simulated=_positive(simulated.time("seconds")[at[:, 0]], at, names[0]),
        measured=_positive(measured.time("seconds")[at[:, 1]], at, names[1]),
        kind=step_kinds(simulated.counts[at[:, 0]]),
        context=simulated.count("context_tokens")[at[:, 0]],
    )
    return Validation(
        policy=str(simulated.meta.get("policy", "")),
        engine=str(simulated.meta.get("engine", "")),
        is_whole=len(pairs) == len(simulated) and bool(is_timed.all() or is_estimated),
        strata=_strata(compared),
        total=_total(simulated, measured, pairs),
        compared=compared,
        notes=tuple(notes),
    )


def speedup(run: Validation, against: Validation) -> Speedup | None:
    """What `run` gains on `against`, simulated and measured; None if one of them broke off."""
    if not (run.is_whole and against.is_whole):
        return None
    a, b = run.total, against.total
    simulated, measured = b.simulated / a.simulated, b.measured / a.measured
    # Two independent intervals of a quotient: their relative halves add in squares.
    widths = [(total.high - total.low) / 2 / total.measured for total in (a, b)]
    reach = measured * math.hypot(*widths)
    return Speedup(
        simulated, measured, measured - reach, measured + reach, simulated / measured - 1.0
    )


def step_kinds(counts: Ints) -> Ints:
    """Index into KINDS of every step."""
    prefill = counts[:, COUNTS.index("prefill_tokens")]
    decode = counts[:, COUNTS.index("decode_requests")]
    return np.where(prefill == 0, 0, np.where(prefill > decode, 2, 1))


def as_json(result: Validation) -> dict[str, Any]:
    """The result under its public keys (docs/validate.md)."""
    total = result.total
    return {
        "policy": result.policy,
        "engine": result.engine,
        "is_whole": result.is_whole,
        "steps": result.strata[0]._asdict(),
        "strata": [row._asdict() for row in result.strata[1:]],
        "total": total._asdict(),
        "tokens_per_second": {
            "simulated": total.tokens / total.simulated,
            "measured": total.tokens / total.measured,
            "error": total.measured / total.simulated - 1.0,
        },
        "notes": list(result.notes),
    }


def _positive(seconds: Floats, at: Ints, name: str) -> Floats:
    wrong = ~(np.isfinite(seconds) & (seconds > 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{name}: step {at[row, 2]:,} lasts {seconds[row]:g} s; "
            "a duration above 0 is needed, run it again"
        )
    return seconds


def _strata(compared: Compared) -> tuple[Errors, ...]:
    """All steps, then every kind by thirds of the KV read that are not empty."""
    borders = np.quantile(compared.context, np.arange(1, PARTS) / PARTS)
    part = np.searchsorted(borders, compared.context, side="right")
    rows = [_errors("all", compared, np.ones(len(part), np.bool_))]
    for kind, name in enumerate(KINDS):
        for at in range(PARTS):
            inside = (compared.kind == kind) & (part == at)
            if inside.any():
                rows.append(_errors(name, compared, inside))
    return tuple(rows)


def _errors(kind: str, compared: Compared, inside: Bools) -> Errors:
    simulated, measured = compared.simulated[inside], compared.measured[inside]
    error = simulated / measured - 1.0
    low, median, high = np.quantile(error, [0.1, 0.5, 0.9])
    absolute = np.quantile(np.abs(error), [0.5, 0.9])
    return Errors(
        kind=kind,
        context_low=int(compared.context[inside].min()),
        context_high=int(compared.context[inside].max()),
        steps=len(error),
        share=float(measured.sum() / compared.measured.sum()),
        total=float(simulated.sum() / measured.sum() - 1.0),
        median=float(median),
        p10=float(low),
        p90=float(high),
        absolute_median=float(absolute[0]),
        absolute_p90=float(absolute[1]),
    )


def _total(simulated: StepLog, measured: StepLog, pairs: Ints) -> Total:
    """Until the last step ends. A sampled run without an estimate has the sums of what it
    measured.
    """
    tokens = simulated.tokens
    estimate = measured.meta.get("estimate") or {}
    if not (estimate or measured.is_timed.all()):
        pairs = pairs[measured.is_timed[pairs[:, 1]]]
        expected = float(simulated.time("seconds")[pairs[:, 0]].sum())
        found, between = float(measured.time("seconds")[pairs[:, 1]].sum()), 0.0
    else:
        expected = float(_ends(simulated, pairs[:, 0]).max())
        ends = _ends(measured, pairs[:, 1])
        found = float(ends.max())
        of_last = measured.replica[pairs[:, 1]] == measured.replica[pairs[np.argmax(ends), 1]]
        between = found - float(measured.time("seconds")[pairs[of_last, 1]].sum())
    return Total(
        simulated=expected,
        measured=found,
        low=float(estimate.get("low", found)),
        high=float(estimate.get("high", found)),
        error=expected / found - 1.0,
        between_steps=max(0.0, between),
        tokens=int(tokens[pairs[:, 0]].sum()),
    )


def _ends(log: StepLog, rows: Ints) -> Floats:
    ends: Floats = log.time("start")[rows] + log.time("seconds")[rows]
    return ends
