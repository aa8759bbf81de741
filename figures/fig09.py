"""Figure 9: prefix sharing that each order reaches, and the most that can be reached."""

from collections.abc import Mapping
from pathlib import Path

from figures.style import COLUMN, new_figure, save_pair
from figures.systems import grouped_bars, top_legend
from paper_repro.table import Table


def draw(tables: Mapping[str, Table], out: Path) -> None:
    """Write fig09.pdf and fig09.png into `out`."""
    rows = [
        {**row, "shared": 100 * row["sharing_ratio"], "most": 100 * row["sharing_optimum"]}
        for row in tables["kept"].records()
    ]
    figure = new_figure(COLUMN, 1.8)
    axes = figure.add_axes((0.13, 0.18, 0.85, 0.63))
    grouped_bars(axes, rows, "trace", "shared", "most")
    axes.set_ylabel("prompt tokens shared, %")
    axes.set_xlabel("workload", labelpad=1)
    top_legend(figure, axes, 2, {"practical optimum": "most there is"})
    save_pair(figure, out / "fig09")
