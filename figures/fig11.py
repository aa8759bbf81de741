"""Figure 11: speed-ups on the grid with BurstGPT."""

from collections.abc import Mapping
from pathlib import Path

from figures.grids import draw_grid
from paper_repro.table import Table


def draw(tables: Mapping[str, Table], out: Path) -> None:
    """Write fig11.pdf and fig11.png into `out`."""
    draw_grid(tables["grid"], "BurstGPT, MMLU, OpenVid", out / "fig11")
