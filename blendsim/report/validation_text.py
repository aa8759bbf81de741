"""A validation in words: tables for the screen, and the strata as CSV."""

import csv
import io
from collections.abc import Sequence

from blendsim.report.tables import Column, lay_out, number, paragraphs
from blendsim.report.validate import Errors, Speedup, Validation


def validation_lines(run: Validation, name: str, width: int) -> list[str]:
    """What one pair of logs says: whole run, errors by stratum, notes."""
    table = lay_out(strata_columns(run.strata), width)
    return [*paragraphs(sentences(run, name), width), "", *table]


def sentences(run: Validation, name: str) -> list[str]:
    """The whole run and the notes; `name` is the measured log's, for one that names no policy."""
    total = run.total
    interval = f" ({number(total.low, 1)} to {number(total.high, 1)})" if _is_estimate(run) else ""
    rates = [total.tokens / seconds for seconds in (total.simulated, total.measured)]
    who = " ".join(filter(None, (run.policy, f"on {run.engine}" if run.engine else "")))
    return [
        f"{who or name}: {number(total.simulated, 1)} s simulated, {number(total.measured, 1)} s "
        f"measured{interval}: {signed(total.error)}. {number(rates[0])} against "
        f"{number(rates[1])} tokens computed a second.",
        f"{number(total.between_steps, 1)} s of the measured time lie between steps.",
        *(f"Note: {note}" for note in run.notes),
    ]


def speedup_line(ratio: Speedup | None) -> str:
    """What the first run gains on the other, one sentence."""
    if ratio is None:
        return "No speed-up: one of the runs is not measured to its end."
    interval = (
        f" ({number(ratio.low, 3)} to {number(ratio.high, 3)})" if ratio.high > ratio.low else ""
    )
    return (
        f"Speed-up of the first run on the second: {number(ratio.simulated, 3)} simulated, "
        f"{number(ratio.measured, 3)} measured{interval}: {signed(ratio.error)}."
    )


def strata_csv(runs: Sequence[tuple[str, Validation]]) -> str:
    """The strata of all runs, a row each, with the columns of `Errors`."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["run", *Errors._fields])
    for name, run in runs:
        rows.writerows([name, *stratum] for stratum in run.strata)
    return text.getvalue()


def signed(value: float) -> str:
    """A relative error in per cent, with its sign."""
    return f"{100 * value:+.1f} %"


def _is_estimate(run: Validation) -> bool:
    return run.total.high > run.total.low


def strata_columns(strata: Sequence[Errors]) -> list[Column]:
    """The errors, a row a stratum, for a table on screen or on a page."""
    return [
        Column("steps", [row.kind for row in strata], is_text=True),
        Column("KV tokens read", [_range(row) for row in strata], dispensable=2),
        Column("number", [number(row.steps) for row in strata]),
        Column("of time", [f"{row.share:.1%}" for row in strata], dispensable=1),
        Column("error of sum", [signed(row.total) for row in strata]),
        Column("median", [signed(row.median) for row in strata]),
        Column("P10", [signed(row.p10) for row in strata], dispensable=3),
        Column("P90", [signed(row.p90) for row in strata], dispensable=3),
        Column("|error| median", [f"{100 * row.absolute_median:.1f} %" for row in strata]),
        Column("|error| P90", [f"{100 * row.absolute_p90:.1f} %" for row in strata]),
    ]


def _range(row: Errors) -> str:
    if row.context_low == row.context_high:
        return number(row.context_low)
    return f"{number(row.context_low)}–{number(row.context_high)}"
