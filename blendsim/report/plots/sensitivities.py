"""How a search's seconds depend on each parameter, in a file."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from blendsim.files import replacing
from blendsim.report.plots import COLOURS, INK, QUIET

CUT = 3.0  # differences so many times a usual one are drawn at the edge
LETTERS = 12  # of a title that an inch takes
LEAST_SHOWN = 0.01  # of the chosen seconds: so much is always on the scale, above them


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
