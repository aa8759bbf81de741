"""Figure 1: two runs of one pool, a lane for compute and one for memory, filled as far as busy."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes

from figures.style import (
    COLUMN,
    COMPUTE,
    INK,
    MEMORY,
    NAMES,
    QUIET,
    new_figure,
    panel_title,
    save_pair,
)
from paper_repro.table import Table

LANES = (("compute", "compute_s_per_s", COMPUTE, 1.0), ("memory", "memory_s_per_s", MEMORY, 0.0))
HEIGHT = 0.86  # of a lane that is busy all the time


def draw(tables: Mapping[str, Table], out: Path) -> None:
    """Write fig01.pdf and fig01.png into `out`."""
    figure = new_figure(COLUMN, 2.35)
    runs = tables["runs"].records()
    longest = max(run["seconds"] for run in runs)
    panels = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"left": 0.17, "right": 0.97, "top": 0.91, "bottom": 0.17,
                                        "hspace": 0.5},
    )  # fmt: skip
    for axes, run in zip(panels, runs, strict=True):
        _lanes(axes, tables["slices"].records(policy=run["policy"]))
        hours = run["seconds"] / 3600
        axes.plot([hours, hours], [0, 1.98], color=INK, linewidth=1)
        panel_title(axes, f"{NAMES[run['policy']]}: {hours:.2f} h")
    panels[0].text(
        1, 1.03, "dotted: busy all the time", transform=panels[0].transAxes, ha="right",
        va="bottom", size=6.5,
    )  # fmt: skip
    panels[-1].set_xlim(0, longest / 3600 * 1.01)
    panels[-1].set_xlabel("time of the run, hours")
    save_pair(figure, out / "fig01")


def _lanes(axes: Axes, rows: list[dict[str, float]]) -> None:
    hours = [row["start_s"] / 3600 for row in rows] + [rows[-1]["end_s"] / 3600]
    for _, column, colour, floor in LANES:
        axes.axhline(floor + HEIGHT, color=QUIET, linewidth=0.4, linestyle=(0, (2, 2)))
        axes.axhline(floor, color=QUIET, linewidth=0.4)
        tops = [floor + HEIGHT * row[column] for row in rows]
        axes.fill_between(hours, [*tops, tops[-1]], floor, step="post", color=colour, linewidth=0)
    axes.set_yticks([floor + HEIGHT / 2 for *_, floor in LANES], [name for name, *_ in LANES])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(0, 2.0)
    axes.spines["left"].set_visible(False)
