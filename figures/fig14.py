"""Figure 14: speed-ups on the grid with ShareGPT."""

from collections.abc import Mapping
from pathlib import Path

from figures.grids import draw_grid
from paper_repro.table import Table


def draw(tables: Mapping[str, Table], out: Path) -> None:
    """Write fig14.pdf and fig14.png into `out`."""
    draw_grid(tables["grid"], "ShareGPT, MMLU, OpenVid", out / "fig14")
