"""Figure 5: a small tree at four stages, leaves coloured by density and shaped by trace."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D

from figures.style import (
    DENSITY,
    INK,
    NAMES,
    PAGE,
    PAPER,
    QUIET,
    new_figure,
    panel_title,
    save_pair,
)
from paper_repro.table import Table

MARKERS = {"mmlu": "s", "burstgpt": "o", "wildchat": "^", "openvid": "D"}
TITLES = {
    "built": "1  prefix tree (numbers: tokens of the prefix)",
    "annotated": "2  lengths sampled, densities annotated",
    "sorted": "3  layers sorted, densest left",
    "split and merged": "4  outliers split off, neighbours merged",
}
COLOURS = ScalarMappable(LogNorm(0.05, 500), DENSITY)
UNKNOWN = "#d5dbe0"
SPLIT = "#d55e00"  # branches of leaves that were split off


def draw(tables: Mapping[str, Table], out: Path) -> None:
    """Write fig05.pdf and fig05.png into `out`."""
    figure = new_figure(PAGE, 3.7)
    nodes = tables["nodes"]
    grid = figure.subplots(
        2, 2, gridspec_kw={"left": 0.01, "right": 0.9, "top": 0.95, "bottom": 0.1,
                           "hspace": 0.22, "wspace": 0.05},
    )  # fmt: skip
    for axes, (stage, title) in zip(grid.ravel(), TITLES.items(), strict=True):
        _tree(axes, nodes.records(stage=stage))
        panel_title(axes, title)
    bar = figure.colorbar(COLOURS, cax=figure.add_axes((0.91, 0.2, 0.015, 0.65)))
    bar.set_label("density ρ", labelpad=1)
    bar.outline.set_visible(False)
    bar.ax.minorticks_off()
    bar.ax.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    traces = [trace for trace in MARKERS if trace in nodes.column("trace")]
    handles = [_handle(MARKERS[trace], NAMES[trace]) for trace in traces]
    handles += [
        _handle("o", "length not seen", edge=QUIET),
        _handle("o", "sampled or known", edge=INK, width=1.4),
        Line2D([], [], color=INK, linewidth=2, label="merged node"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), columnspacing=1.0,
                  handlelength=1.2, bbox_to_anchor=(0.46, 0.0))  # fmt: skip
    save_pair(figure, out / "fig05")


def _handle(marker: str, label: str, edge: str = QUIET, width: float = 0.6) -> Line2D:
    return Line2D([], [], marker=marker, linestyle="", markerfacecolor=UNKNOWN, markersize=5,
                  markeredgecolor=edge, markeredgewidth=width, label=label)  # fmt: skip


def _tree(axes: Axes, rows: list[dict[str, Any]]) -> None:
    axes.set_axis_off()
    inner = {row["node"]: row for row in rows if row["kind"] == "inner"}
    level: dict[str, int] = {}
    for name, row in inner.items():  # parents come first
        level[name] = level[row["parent"]] + 1 if row["parent"] in level else 0
    floor = max(level.values()) + 1
    at = {row["node"]: ((row["first"] + row["last"]) / 2, -level.get(row["node"], floor))
          for row in rows}  # fmt: skip
    for row in rows:
        if row["parent"] in at:
            (x, y), (up_x, up_y) = at[row["node"]], at[row["parent"]]
            is_split_off = up_y == 0 and row["kind"] == "leaf"
            axes.plot([up_x, x], [up_y, y], color=SPLIT if is_split_off else QUIET, linewidth=0.6,
                      linestyle=(0, (4, 2)) if is_split_off else "-", zorder=1)  # fmt: skip
    for row in rows:
        x, y = at[row["node"]]
        face = UNKNOWN if row["density"] is None else COLOURS.to_rgba(row["density"])
        is_leaf = row["kind"] == "leaf"
        axes.plot(
            x, y, MARKERS[row["trace"]] if is_leaf else "o", markersize=5.5 if is_leaf else 6.5,
            markerfacecolor=face, markeredgecolor=INK if row["is_visible"] else QUIET,
            markeredgewidth=1.4 if row["is_visible"] else 0.6, zorder=2,
        )  # fmt: skip
        if row["prefix_tokens"]:
            axes.annotate(f"{row['prefix_tokens']}", (x, y), (5, 2.5), textcoords="offset points",
                          size=6, color=INK, zorder=3,
                          bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.4})  # fmt: skip
    _merged(axes, [row for row in rows if row["merged"] is not None], -floor)
    axes.set_xlim(-0.8, max(row["last"] for row in rows) + 0.8)
    axes.set_ylim(-floor - 0.65, 0.4)


def _merged(axes: Axes, leaves: list[dict[str, Any]], floor: float) -> None:
    for group in sorted({row["merged"] for row in leaves}):
        places = [row["first"] for row in leaves if row["merged"] == group]
        ends = [min(places) - 0.35, max(places) + 0.35]
        axes.plot(ends, [floor - 0.5] * 2, color=INK, linewidth=2, solid_capstyle="butt")
