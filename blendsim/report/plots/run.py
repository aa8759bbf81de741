"""Pictures of one run for its page: small panels as SVG text, each with a scale and a key of its
own, so that a telephone shows them one below the other.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, PercentFormatter

from blendsim.arrays import Floats
from blendsim.report.losses import PHASES, Losses
from blendsim.report.plots import COLOURS, INK, QUIET
from blendsim.report.plots.panel import (
    Draw,
    Panel,
    areas,
    draw_panel,
    key,
    line,
    second_scale,
    short,
)
from blendsim.report.timeline import Durations, Line, Timeline
from blendsim.report.validate import KINDS, Validation

COMPUTE, MEMORY = "#0072b2", "#e69f00"  # as figures/style.py has them, Okabe and Ito's
HELD, CACHED, FREE = "#009e73", "#56b4e9", "#e6eaee"
RUNNING, WAITING = "#009e73", "#cc79a7"
#: A rank each, told apart by dashes too; ranks beyond begin again.
RANKS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", INK)
DASHES: tuple[Any, ...] = ("-", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (7, 2)))
#: Causes of report/losses.py and what is computed again, from the paper's kinds of work outwards.
CAUSE_COLOURS = ("#d55e00", "#e69f00", "#cc79a7", "#0072b2", "#56b4e9", "#009e73")
POINTS = 400  # of a distribution


def over_time(course: Timeline, capacity_blocks: int | None) -> list[Panel]:
    """What steps did over the run: areas of one rank, or a line a rank."""
    scale = time_scale(float(course.edges[-1]))
    if len(course.lines) == 1:
        return _of_one(course.edges / scale.size, course.lines[0], scale.unit, capacity_blocks)
    return _of_several(course, scale, capacity_blocks)


def _of_one(edges: Floats, one: Line, unit: str, capacity: int | None) -> list[Panel]:
    held = one.held

    def tokens(axis: Any) -> None:
        parts = (held["prefill_tokens"], held["decode_requests"])
        areas(axis, edges, parts, (COMPUTE, MEMORY), ("prefill", "decode"))

    def decodes(axis: Any) -> None:
        line(axis, edges, held["decode_requests"], color=MEMORY, label="requests that decode")
        right = second_scale(axis)
        context = held["context_tokens"]
        line(right, edges, context, color=INK, linestyle=(0, (3, 1)), label="tokens they read")
        key(axis, right)

    def blocks(axis: Any) -> None:
        parts, names = [held["held_blocks"]], ["held by running requests"]
        if "cached_blocks" in held:
            parts, names = [*parts, held["cached_blocks"]], [*names, "cached"]
            if capacity is not None:
                parts.append(np.maximum(capacity - parts[0] - parts[1], 0.0))
                names.append("free")
        areas(axis, edges, parts, (HELD, CACHED, FREE), names)

    def requests(axis: Any) -> None:
        line(axis, edges, held["running"], color=RUNNING, label="running")
        right = second_scale(axis)
        waiting = held["waiting"]
        line(right, edges, waiting, color=WAITING, linestyle=(0, (3, 1)), label="waiting")
        key(axis, right)

    stacked = "Stacked; means over the time that steps run."
    of_decodes, of_requests = {"decode_requests", "context_tokens"}, {"running", "waiting"}
    drawn: list[tuple[str, str, str, Draw, set[str]]] = [
        ("tokens", "Tokens a step", stacked, tokens, {"prefill_tokens", "decode_requests"}),
        ("decodes", "Decodes and the context they read", _TWO_SCALES, decodes, of_decodes),
        ("blocks", "KV blocks", "Stacked; shared blocks count once.", blocks, {"held_blocks"}),
        ("requests", "Requests in the engine and in line", _TWO_SCALES, requests, of_requests),
    ]
    panels = [
        draw_panel(name, title, note, draw, f"time, {unit}")
        for name, title, note, draw, needed in drawn
        if needed <= held.keys()
    ]
    return [*panels[:1], *_work([one], edges, unit), *panels[1:]]


_TWO_SCALES = "Solid: left scale. Dashed: right scale."


def _of_several(course: Timeline, scale: "Scale", capacity: int | None) -> list[Panel]:
    edges = course.edges / scale.size

    def each(values: Callable[[Line], Floats]) -> Draw:
        def draw(axis: Any) -> None:
            for at, one in enumerate(course.lines):
                line(
                    axis, edges, values(one), color=RANKS[at % len(RANKS)],
                    linestyle=DASHES[at % len(DASHES)], linewidth=1.0, label=f"{one.replica}",
                )  # fmt: skip
            if len(course.lines) <= 16:
                key(axis, columns=8)

        return draw

    def held(name: str, unit: int = 1) -> Draw:
        return each(lambda one: one.held[name] / unit)

    blocks = "KV blocks held, of all" if capacity else "KV blocks held"
    told = [
        ("prefill", "Prefill tokens a step", "prefill_tokens", 1),
        ("decodes", "Decodes a step", "decode_requests", 1),
        ("context", "Context tokens that decodes read", "context_tokens", 1),
        ("blocks", blocks, "held_blocks", capacity or 1),
        ("running", "Running requests", "running", 1),
        ("waiting", "Waiting requests", "waiting", 1),
    ]
    panels = [
        draw_panel(name, title, "A line a rank.", held(column, unit), f"time, {scale.unit}")
        for name, title, column, unit in told
        if column in course.lines[0].held
    ]
    return [*panels[:2], *_work(course.lines, edges, scale.unit), *panels[2:]]


def _work(lines: Sequence[Line], edges: Floats, unit: str) -> list[Panel]:
    """Figure 10 of the paper: seconds of either kind of work a second, the mean over ranks."""
    compute = [one.compute for one in lines if one.compute is not None]
    memory = [one.memory for one in lines if one.memory is not None]
    if not (compute and memory):
        return []

    def draw(axis: Any) -> None:
        line(axis, edges, np.mean(compute, axis=0), color=COMPUTE, label="compute")
        line(
            axis, edges, np.mean(memory, axis=0), color=MEMORY, linestyle=(0, (3, 1)),
            label="decode attention",
        )  # fmt: skip
        key(axis)

    mean = "" if len(lines) == 1 else " Mean of the ranks."
    note = "Seconds each kind would take alone, for every second of the run." + mean
    return [draw_panel("work", "Compute and memory work a second", note, draw, f"time, {unit}")]


def durations_panel(found: Durations) -> Panel:
    """Share of the run's time by how long a step takes, stacked by kind of step."""

    def draw(axis: Any) -> None:
        bottom = np.zeros(found.shares.shape[1])
        ends = found.edges * 1e3
        for shares, colour, name in zip(found.shares, COLOURS, KINDS, strict=True):
            axis.stairs(bottom + shares, ends, baseline=bottom, fill=True, color=colour, label=name)
            bottom = bottom + shares
        axis.set(xscale="log", xlim=(ends[0], ends[-1]))
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        few = ends[-1] / ends[0] < 300
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=12))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
        key(axis)

    note = "Share of the steps’ time; mixed steps have prefill and decodes."
    return draw_panel("durations", "How long steps take", note, draw, "milliseconds a step")


def losses_panel(
    account: Losses,
    names: Sequence[str],
    name: str = "losses",
    title: str = "Seconds lost by tenth of the run",
    reach: tuple[float, float] | None = None,
) -> Panel:
    """Seconds lost in every tenth of the run, stacked by cause; `reach` are the scale's ends."""

    def draw(axis: Any) -> None:
        places = np.arange(1, PHASES + 1)
        above, below = np.zeros(PHASES), np.zeros(PHASES)
        for lost, colour, word in zip(account.steps.T, CAUSE_COLOURS, names, strict=True):
            bottom = np.where(lost >= 0, above, below)
            axis.bar(places, lost, 0.8, bottom=bottom, color=colour, label=word)
            above, below = above + np.maximum(lost, 0), below + np.minimum(lost, 0)
        axis.axhline(0, color=INK, linewidth=0.7)
        axis.set_xticks(places)
        axis.set_ylim(reach)
        axis.yaxis.set_major_formatter(FuncFormatter(short))
        key(axis, columns=2)

    note = "Above the reachable bound."
    below = "tenth of the run’s time"
    return draw_panel(name, title, note, draw, below, from_zero=False, counts_below=False)


def validation_panels(run: Validation) -> list[Panel]:
    """Simulated against measured: seconds a step over the run, and how far off steps are."""
    compared = run.compared

    def seconds(axis: Any) -> None:
        parts = min(200, len(compared.step))
        edges = np.linspace(0, len(compared.step), parts + 1)
        at = np.arange(len(compared.step) + 1)
        for values, colour, dashes, label in (
            (compared.measured, INK, "-", "measured"),
            (compared.simulated, COLOURS[0], (0, (3, 1)), "simulated"),
        ):
            sums = np.interp(edges, at, np.concatenate([[0.0], np.cumsum(values)]))
            means = np.diff(sums) / np.diff(edges) * 1e3
            line(axis, edges, means, color=colour, linestyle=dashes, label=label)
        key(axis)

    def errors(axis: Any) -> None:
        shares = np.linspace(0, 1, POINTS)
        for kind, (name, colour) in enumerate(zip(KINDS, COLOURS, strict=True)):
            inside = compared.kind == kind
            if inside.any():
                axis.plot(
                    np.quantile(compared.error[inside], shares), shares, color=colour, label=name
                )
        reach = max(0.02, 1.15 * float(np.quantile(np.abs(compared.error), 0.97)))
        axis.axvline(0, color=QUIET, linewidth=0.9)
        axis.set(xlim=(-reach, reach), ylim=(0, 1))
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=1 if reach < 0.05 else 0))
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        key(axis)

    over_run = ("compared", "Milliseconds a step", "Means of equal parts.")
    off = ("errors", "Steps with at most that error", "Simulated over measured seconds, less 1.")
    return [
        draw_panel(*over_run, seconds, "steps compared"),
        draw_panel(*off, errors, "error of a step", counts_below=False),
    ]


class Scale(NamedTuple):
    """What a run's time is counted in."""

    size: float  # seconds
    unit: str


def time_scale(seconds: float) -> Scale:
    """Hours for a run of hours, minutes of minutes."""
    if seconds >= 2 * 3600:
        return Scale(3600.0, "hours")
    return Scale(60.0, "minutes") if seconds >= 240 else Scale(1.0, "seconds")
