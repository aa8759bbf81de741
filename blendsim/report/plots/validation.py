"""A simulated run against a measured one, in a file: a row a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from blendsim.files import replacing
from blendsim.report.plots import COLOURS, INK, QUIET
from blendsim.report.validate import KINDS, Compared, Validation

MOST_POINTS = 8_000  # of a scatter; of more steps every k-th is drawn
LONGEST_ERROR = 1.0  # errors beyond ±100 % are drawn at the edge


def draw_validation(runs: Sequence[tuple[str, Validation]], path: Path) -> None:
    """A row a run: simulated against measured seconds a step, errors' distribution, running
    total.
    """
    with mpl.rc_context({"font.size": 8.5, "axes.edgecolor": QUIET, "text.color": INK}):
        figure = Figure(figsize=(11, 3.5 * len(runs) + 0.3), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(runs), 3, squeeze=False)
        for (name, run), (left, middle, right) in zip(runs, axes, strict=True):
            for axis in (left, middle, right):
                axis.spines[["top", "right"]].set_visible(False)
                axis.grid(color="#e6eaee", linewidth=0.6)
                axis.set_axisbelow(True)
            _scatter(left, run.compared)
            left.set_title(name, loc="left", weight="bold")
            _distribution(middle, run)
            _running_total(right, run)
        with replacing(path) as temporary:
            # NOTE: no date in the file: the same results are the same bytes.
            figure.savefig(temporary, dpi=150, format="png", metadata={"Software": None})


def _scatter(axis: Any, compared: Compared) -> None:
    every = -(-len(compared.step) // MOST_POINTS)
    thin = slice(None, None, every)
    kind, measured, simulated = (
        column[thin] for column in (compared.kind, compared.measured, compared.simulated)
    )
    for at, (name, colour) in enumerate(zip(KINDS, COLOURS, strict=True)):
        inside = kind == at
        if inside.any():
            axis.scatter(
                measured[inside] * 1e3, simulated[inside] * 1e3, s=5, alpha=0.35, linewidth=0,
                color=colour, label=name,
            )  # fmt: skip
    both = np.concatenate([measured, simulated]) * 1e3
    ends = (both.min() / 1.1, both.max() * 1.1)
    axis.plot(ends, ends, color=INK, linewidth=0.9, label="equal")
    axis.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        few = ends[1] / ends[0] < 30
        side.set_minor_formatter(FuncFormatter(_small_label if few else lambda *_: ""))
    axis.set_xlabel("measured, ms a step")
    axis.set_ylabel("simulated, ms a step")
    legend = axis.legend(frameon=False, loc="upper left", handletextpad=0.3, markerscale=2)
    for handle in legend.legend_handles:
        handle.set_alpha(1)


def _small_label(value: float, _: int) -> str:
    """2 and 5 of a decade are labelled too where few decades are shown."""
    digit = round(value / 10 ** np.floor(np.log10(value)))
    return f"{value:g}" if digit in (2, 5) else ""


def _distribution(axis: Any, run: Validation) -> None:
    """Share of a kind's steps with at most that error."""
    compared, reach = run.compared, 0.04
    error = np.clip(compared.error, -LONGEST_ERROR, LONGEST_ERROR)
    for at, (name, colour) in enumerate(zip(KINDS, COLOURS, strict=True)):
        inside = np.sort(error[compared.kind == at])
        if len(inside):
            shares = np.arange(1, len(inside) + 1) / len(inside)
            axis.step(inside, shares, where="post", color=colour, linewidth=1.4, label=name)
            reach = max(reach, 1.15 * float(np.quantile(np.abs(inside), 0.97)))
    axis.axvline(0, color=INK, linewidth=0.9)
    axis.set(xlim=(-reach, reach), ylim=(0, 1))
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=1 if reach < 0.05 else 0))
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_xlabel("error of a step: simulated / measured − 1")
    axis.set_ylabel("steps with at most that error")
    whole = run.strata[0]
    axis.text(
        0.97, 0.05, f"|error| median {whole.absolute_median:.1%}, P90 {whole.absolute_p90:.1%}",
        transform=axis.transAxes, ha="right",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
    )  # fmt: skip


def _running_total(axis: Any, run: Validation) -> None:
    """Summed seconds of the steps compared so far."""
    compared = run.compared
    x = np.arange(1, len(compared.step) + 1)
    for values, colour, style, label in (
        (compared.measured, INK, "-", "measured"),
        (compared.simulated, COLOURS[0], "--", "simulated"),
    ):
        axis.plot(x, np.cumsum(values), style, color=colour, label=label)
    axis.set(xlim=(0, len(x)), ylim=(0, None))
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_xlabel("steps compared")
    axis.set_ylabel("seconds so far")
    axis.legend(frameon=False, loc="upper left")
    total = run.total
    between = total.between_steps / total.measured
    lines = [f"whole run: {total.error:+.1%}"]
    if total.high > total.low:
        lines.append(f"measured {total.low:,.4g} to {total.high:,.4g} s")
    if between >= 0.001:
        lines.append(f"{between:.1%} between steps")
    axis.text(
        0.97, 0.05, "\n".join(lines),
        transform=axis.transAxes, ha="right",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 2, "alpha": 0.85},
    )  # fmt: skip
