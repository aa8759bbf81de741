"""One small picture for a page, as SVG text: our style, a key above it, and what is drawn in it."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from blendsim.arrays import Floats
from blendsim.report.plots import INK, QUIET

WIDTH, HEIGHT = 4.6, 2.5  # inches, 72 units of the SVG each

Draw = Callable[[Any], None]


class Panel(NamedTuple):
    """A picture and what it is called."""

    name: str  # of the file's own names, letters and dashes
    title: str
    note: str  # what a reader must know to read it
    svg: str


_STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "font.family": "sans-serif",
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",  # letters stay letters: small, and a reader can search them
    "svg.hashsalt": "blendsim",
}


def draw_panel(
    name: str,
    title: str,
    note: str,
    draw: Draw,
    below: str,
    from_zero: bool = True,
    counts_below: bool = True,
) -> Panel:
    """A picture that `draw` fills, with the words `below` its axis. Scales begin at 0 if
    `from_zero`, and the one below is of numbers, shortened, if it `counts_below`.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        FigureCanvasSVG(figure)
        axis = figure.subplots()
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#e6eaee", linewidth=0.6)
        axis.set_axisbelow(True)
        draw(axis)
        for each in figure.axes if from_zero else ():
            each.set_ylim(0, None)  # NOTE: last, as a scale that is set follows no further line
        if counts_below and axis.get_xscale() == "linear":
            axis.xaxis.set_major_locator(MaxNLocator(6))
            axis.xaxis.set_major_formatter(FuncFormatter(short))
        axis.set_xlabel(below)
        text = io.StringIO()
        # NOTE: no date in the file: the same results are the same bytes.
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    return Panel(name, title, note, _inline(text.getvalue(), name))


def _inline(svg: str, name: str) -> str:
    """The picture as part of a page: as wide as its place, no names that another picture has, and
    nothing but the picture.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    box = re.search(r'viewBox="[^"]*"', body)
    assert box is not None, "matplotlib writes a viewBox"
    return re.sub(r"<svg[^>]*>", f'<svg {box[0]} aria-hidden="true">', body, count=1)


def line(axis: Any, edges: Floats, values: Floats, **style: Any) -> None:
    axis.stairs(values, edges, baseline=None, **{"linewidth": 1.3, **style})
    axis.set_xlim(edges[0], edges[-1])
    axis.yaxis.set_major_formatter(FuncFormatter(short))


def areas(
    axis: Any, edges: Floats, parts: Sequence[Floats], colours: Sequence[str], names: Sequence[str]
) -> None:
    bottom = np.zeros(len(edges) - 1)
    for part, colour, name in zip(parts, colours, names, strict=False):
        top = bottom + np.nan_to_num(part)
        axis.stairs(top, edges, baseline=bottom, fill=True, color=colour, label=name)
        bottom = top
    axis.set_xlim(edges[0], edges[-1])
    axis.yaxis.set_major_formatter(FuncFormatter(short))
    key(axis, columns=3)


def second_scale(axis: Any) -> Any:
    right = axis.twinx()
    right.spines[["top", "left"]].set_visible(False)
    right.spines["right"].set_color(QUIET)
    return right


def key(axis: Any, *others: Any, columns: int = 3) -> None:
    """The names of what is drawn, in a line above the picture."""
    handles, names = axis.get_legend_handles_labels()
    for other in others:
        more, called = other.get_legend_handles_labels()
        handles, names = [*handles, *more], [*names, *called]
    axis.legend(
        handles, names, frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 0.99),
        ncols=min(columns, len(names)), handlelength=1.8, columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip


def short(value: float, _: int = 0) -> str:
    """1.5k, 20k, 3M: a scale's figures must not need room."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
