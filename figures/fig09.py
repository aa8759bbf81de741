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
    figure = new_figure(COLUMN, 2.1)
    axes = figure.add_axes((0.15, 0.16, 0.83, 0.66))
    grouped_bars(axes, rows, "trace", "shared", "most")
    axes.set_ylabel("prompt tokens shared, %")
    axes.set_xlabel("workload", labelpad=1)
    top_legend(figure, axes, 3, {"practical optimum": "most there is"})
    save_pair(figure, out / "fig09")
