"""Figure 15: speed-ups on the grid with WildChat."""

from collections.abc import Mapping
from pathlib import Path

from figures.grids import draw_grid
from paper_repro.table import Table


def draw(tables: Mapping[str, Table], out: Path) -> None:
    """Write fig15.pdf and fig15.png into `out`."""
    draw_grid(tables["grid"], "WildChat, MMLU, OpenVid", out / "fig15")
