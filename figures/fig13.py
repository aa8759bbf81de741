"""Figure 13: speed-ups on the grid with Azure."""

from collections.abc import Mapping
from pathlib import Path

from figures.grids import draw_grid
from paper_repro.table import Table


def draw(tables: Mapping[str, Table], out: Path) -> None:
    """Write fig13.pdf and fig13.png into `out`."""
    draw_grid(tables["grid"], "Azure, MMLU, OpenVid", out / "fig13")
