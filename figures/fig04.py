"""Figure 4: density over prompt and output length as colours and contours, with the six traces."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D

from figures.style import COLUMN, DENSITY, INK, NAMES, PAPER, new_figure, save_pair, short_ticks
from paper_repro.table import Table

CONTOURS = (0.1, 10.0, 100.0)
#: Where a trace's name stands, in points from its dot.
PLACES = {
    "mmlu": (0, 5, "center"),
    "azure": (4, 3, "left"),
    "burstgpt": (-4, -8, "right"),
    "sharegpt": (0, 5, "center"),
    "wildchat": (0, -10, "center"),
    "openvid": (5, -3, "left"),
}


def draw(tables: Mapping[str, Table], out: Path) -> None:
    """Write fig04.pdf and fig04.png into `out`."""
    grid = tables["grid"]
    p, d = (np.unique(grid.column(name)) for name in ("prompt", "output"))
    closed, model = (
        np.array(grid.column(name)).reshape(len(p), len(d)).T
        for name in ("closed_form", "step_model")
    )
    figure = new_figure(COLUMN, 2.55)
    axes = figure.add_axes((0.155, 0.15, 0.64, 0.74))
    image = axes.pcolormesh(p, d, closed, norm=LogNorm(0.01, 100), cmap=DENSITY, shading="gouraud",
                            rasterized=True)  # fmt: skip
    axes.set(xscale="log", yscale="log")
    lines = axes.contour(p, d, closed, levels=CONTOURS, colors=PAPER, linewidths=0.7)
    at = [(20_000, level_at) for level_at in (10_000, 90, 8)]  # near each contour
    axes.clabel(lines, fmt="%g", fontsize=6.5, manual=at)
    axes.contour(p, d, closed, levels=[1], colors=INK, linewidths=1.3)
    axes.contour(p, d, model, levels=[1], colors=INK, linewidths=1.0, linestyles="dotted")
    for row in tables["traces"].records():
        at = (row["prompt_mean"], row["output_mean"])
        right, up, side = PLACES[row["trace"]]
        axes.plot(*at, "o", color=PAPER, markeredgecolor=INK, markersize=4)
        axes.annotate(
            NAMES[row["trace"]], at, (right, up), textcoords="offset points", ha=side, size=6.5,
            bbox={"facecolor": PAPER, "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
    axes.set_xlim(p[0], p[-1])
    axes.set_ylim(1, d[-1])
    for which in "xy":
        short_ticks(axes, which)
    axes.minorticks_off()
    axes.set_xlabel("prompt, tokens")
    axes.set_ylabel("output, tokens", labelpad=1)
    figure.legend(
        handles=[
            Line2D([], [], color=INK, linewidth=1.3, label="ρ = 1, closed form"),
            Line2D([], [], color=INK, linewidth=1.0, linestyle="dotted", label="step model"),
        ],
        loc="upper left", bbox_to_anchor=(0.12, 1.01), ncols=2, columnspacing=1,
    )  # fmt: skip
    bar = figure.colorbar(image, cax=figure.add_axes((0.815, 0.15, 0.03, 0.74)), extend="both")
    bar.set_label("density ρ (compute / memory)", labelpad=1)
    bar.outline.set_visible(False)
    bar.ax.minorticks_off()
    bar.ax.set_yticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    save_pair(figure, out / "fig04")
