"""A density × sharing grid of speed-ups as coloured cells with their numbers."""

from pathlib import Path

import numpy as np

from figures.style import COLUMN, INK, PAPER, QUIET, new_figure, save_pair
from paper_repro.table import Table

LEAST, MOST = 1.0, 1.35  # of the colours, the same in all grids
COLOURS = "viridis"


def draw_grid(table: Table, title: str, stem: Path) -> None:
    """Densities down, sharing across; a cell that cannot be mixed is crossed out."""
    densities = sorted(set(table.column("density")))
    sharings = sorted(set(table.column("sharing")))
    cells = np.full((len(densities), len(sharings)), np.nan)
    for row in table.records():
        if row["speedup"] is not None:
            place = densities.index(row["density"]), sharings.index(row["sharing"])
            cells[place] = row["speedup"]
    high = max(2.0, 0.7 + 0.17 * len(densities))
    figure = new_figure(COLUMN, high)
    axes = figure.add_axes((0.14, 0.36 / high, 0.66, 1 - 0.6 / high))
    shown = axes.pcolormesh(cells, cmap=COLOURS, vmin=LEAST, vmax=MOST, edgecolors=PAPER)
    for (i, j), value in np.ndenumerate(cells):
        text = "×" if np.isnan(value) else f"{value:.2f}"
        is_dark = not np.isnan(value) and value < (LEAST + MOST) / 2
        colour = QUIET if np.isnan(value) else PAPER if is_dark else INK
        axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", size=6, color=colour)
    axes.set_yticks(np.arange(len(densities)) + 0.5, [f"{value:.2f}" for value in densities])
    axes.set_xticks(np.arange(len(sharings)) + 0.5, [f"{100 * s:.0f}" for s in sharings])
    axes.tick_params(length=0)
    axes.set_xlabel("prompt tokens that can be shared, %", labelpad=2)
    axes.set_ylabel("density ρ, compute / memory time")
    axes.set_title(title, loc="left", weight="bold", pad=4)
    bar = figure.colorbar(shown, cax=figure.add_axes((0.83, 0.36 / high, 0.03, 1 - 0.6 / high)))
    bar.set_label("blended over prefix order")
    bar.outline.set_visible(False)
    save_pair(figure, stem)
