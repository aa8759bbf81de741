"""Pictures of results. The one module of the package that loads matplotlib."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from blendsim.files import replacing
from blendsim.report.validate import KINDS, Compared, Validation

INK, QUIET = "#22303c", "#8796a5"
# Apart in grey and for colour-blind readers: decode only, mixed, prefill-heavy.
COLOURS = ("#d55e00", "#009e73", "#0072b2")
MOST_POINTS = 8_000  # of a scatter; of more steps every k-th is drawn
LONGEST_ERROR = 1.0  # errors beyond ±100 % are drawn at the edge
CUT = 3.0  # differences so many times a usual one are drawn at the edge
LETTERS = 12  # of a title that an inch takes
LEAST_SHOWN = 0.01  # of the chosen seconds: so much is always on the scale, above them


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


class Sensitivity(Protocol):
    """Seconds over one parameter's values, the others as chosen."""

    @property
    def axis(self) -> str: ...
    @property
    def is_ordered(self) -> bool: ...
    @property
    def labels(self) -> Sequence[str]: ...
    @property
    def chosen(self) -> int: ...
    @property
    def seconds(self) -> Sequence[float]: ...


def draw_sensitivities(
    each: Sequence[Sensitivity], measures: Sequence[str], path: Path, title: str
) -> None:
    """A panel a parameter: seconds over its values, predicted ones or whatever `measures` calls
    them, one of each; all panels on one scale, the chosen value marked. Values far from all others
    would flatten the rest: they stand at the edge, with their figure. PNG or PDF by the name's end.
    """
    columns = min(3, len(each))
    rows = -(-len(each) // columns)
    low, high = _scale(each)
    with mpl.rc_context({"font.size": 8.5, "axes.edgecolor": QUIET, "text.color": INK}):
        figure = Figure(figsize=(3.6 * columns + 0.4, 2.5 * rows + 0.9), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
        for axis, one in zip(axes, each, strict=False):
            _sensitivity(axis, one, high)
        axes[0].set_ylim(low, high)
        for axis in axes[len(each) :]:
            axis.set_visible(False)
        for at, measure in enumerate(measures):
            if at % columns == 0 or measure != measures[at - 1]:  # else as its left neighbour
                axes[at].set_ylabel(measure)
        is_cut = any(value > high for one in each for value in one.seconds)
        key = "Each parameter by itself, the others as chosen. Orange: the chosen value."
        key += " Triangle: above the scale, with its figure." * is_cut
        wide = int(LETTERS * figure.get_figwidth())
        lines = [textwrap.fill(text, wide) for text in (title, key)]
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=9.5)
        is_pdf = path.suffix.lower() == ".pdf"
        dateless = {"CreationDate": None} if is_pdf else {"Software": None}
        with replacing(path) as temporary:
            # NOTE: no date in the file: the same results are the same bytes.
            figure.savefig(temporary, dpi=150, format="pdf" if is_pdf else "png", metadata=dateless)


def _scale(each: Sequence[Sensitivity]) -> tuple[float, float]:
    """Ends of the seconds drawn: of all values but those that lie far above."""
    values = np.array([value for one in each for value in one.seconds])
    chosen = float(np.median([one.seconds[one.chosen] for one in each]))
    # A difference of which nine in ten are smaller, three times over, has its place, and 1 % too.
    usual = float(np.quantile(np.abs(values - chosen), 0.9))
    most = chosen + max(CUT * usual, LEAST_SHOWN * chosen)
    shown = values[values <= most]
    least, top = min(float(shown.min()), chosen), max(float(shown.max()), chosen)
    room = max(0.08 * (top - least), 0.3 * LEAST_SHOWN * chosen)
    return least - room, top + room * (1 if len(shown) == len(values) else 2.5)


def _sensitivity(axis: Any, one: Sensitivity, high: float) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#e6eaee", linewidth=0.6, axis="y")
    axis.set_axisbelow(True)
    places, seconds = np.arange(len(one.labels)), np.asarray(one.seconds)
    axis.axhline(seconds[one.chosen], color=QUIET, linewidth=0.8, linestyle=":")
    line = "-" if one.is_ordered else ""
    axis.plot(places, seconds, f"o{line}", color=COLOURS[2], markersize=3.5, linewidth=1.2)
    axis.plot(one.chosen, seconds[one.chosen], "o", color=COLOURS[0], markersize=7)
    upright = 90 if len(places) > 8 else 0  # figures of neighbours have no room side by side
    edge = axis.get_xaxis_transform()  # places along, and the share of the panel's height
    for place in places[seconds > high]:
        axis.plot(place, 0.97, "^", color=COLOURS[2], markersize=5, transform=edge)
        axis.text(
            place, 0.91, f"{seconds[place]:,.4g}",
            transform=edge, ha="center", va="top", fontsize=7.5, rotation=upright,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
        )  # fmt: skip
    axis.set_xticks(places, one.labels, rotation=45 if len(places) > 5 else 0)
    axis.set_xlim(-0.5, len(places) - 0.5)
    axis.set_title(one.axis, loc="left", weight="bold")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
