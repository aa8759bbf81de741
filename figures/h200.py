"""The H200 edition of Figure 7."""

from collections.abc import Mapping
from pathlib import Path

from figures.fig07 import draw_models
from paper_repro.table import Table


def draw(tables: Mapping[str, Table], out: Path) -> None:
    """Write h200.pdf and h200.png into `out`."""
    draw_models(tables["runs"], "H200", out / "h200")
