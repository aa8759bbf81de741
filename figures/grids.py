"""Density × sharing grids of speed-ups as coloured cells with their numbers: blended order, and
beside it our own policy where it was measured.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh

from figures.style import COLUMN, INK, PAGE, PAPER, QUIET, new_figure, panel_title, save_pair
from paper_repro.table import Table

LEAST, MOST = 1.0, 1.5  # of the colours, the same in all grids
COLOURS = "viridis"
DARK = 0.65  # of the colours' range: letters are white below and dark above
PANELS = {"speedup": "blended", "paced_speedup": "paced (ours)"}


def draw_grid(table: Table, title: str, stem: Path) -> None:
    """Densities down, sharing across; a cell that cannot be mixed is crossed out."""
    panels = {column: name for column, name in PANELS.items() if column in table.columns}
    rows = len(set(table.column("density")))
    high = max(2.0, 0.7 + 0.17 * rows)
    wide = COLUMN if len(panels) == 1 else PAGE
    figure = new_figure(wide, high)
    left, each, gap, low, top = 0.5, (wide - 1.3) / len(panels), 0.15, 0.36, 0.24
    for i, (column, name) in enumerate(panels.items()):
        width = each - (gap if i < len(panels) - 1 else 0)
        place = ((left + i * each) / wide, low / high, width / wide, 1 - (low + top) / high)
        axes = figure.add_axes(place)
        shown = _cells(axes, table, column)
        panel_title(axes, f"{title}: {name}" if len(panels) > 1 else title)
        axes.set_xlabel("prompt tokens that can be shared, %", labelpad=2)
        if i == 0:
            axes.set_ylabel("density ρ, compute / memory time")
        else:
            axes.set_yticklabels([])
    place = ((wide - 0.7) / wide, low / high, 0.1 / wide, 1 - (low + top) / high)
    bar = figure.colorbar(shown, cax=figure.add_axes(place), extend="both")
    bar.set_label("tokens/s over prefix order")
    bar.outline.set_visible(False)
    save_pair(figure, stem)


def _cells(axes: Axes, table: Table, column: str) -> QuadMesh:
    densities = sorted(set(table.column("density")))
    sharings = sorted(set(table.column("sharing")))
    cells = np.full((len(densities), len(sharings)), np.nan)
    for row in table.records():
        if row[column] is not None:
            cells[densities.index(row["density"]), sharings.index(row["sharing"])] = row[column]
    shown = axes.pcolormesh(cells, cmap=COLOURS, vmin=LEAST, vmax=MOST, edgecolors=PAPER)
    for (i, j), value in np.ndenumerate(cells):
        text = "×" if np.isnan(value) else f"{value:.2f}"
        is_dark = value < LEAST + DARK * (MOST - LEAST)
        colour = QUIET if np.isnan(value) else PAPER if is_dark else INK
        axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", size=6.5, color=colour)
    axes.set_yticks(np.arange(len(densities)) + 0.5, [f"{value:.2f}" for value in densities])
    axes.set_xticks(np.arange(len(sharings)) + 0.5, [f"{100 * s:.0f}" for s in sharings])
    axes.tick_params(length=0)
    return shown
