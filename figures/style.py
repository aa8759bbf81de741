"""One look for all figures: colours that stay apart in grey and for colour-blind readers, small
sans type.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

INK = "#22303c"
QUIET = "#8796a5"
PAPER = "#ffffff"
COMPUTE = "#0072b2"  # compute-bound work: GEMMs, prefill attention
MEMORY = "#e69f00"  # memory-bound work: decode attention
#: Series of a comparison in a fixed order: Okabe and Ito's colours, apart for colour-blind readers.
SERIES = ("#56b4e9", "#009e73", "#0072b2", "#e69f00", "#d55e00", "#cc79a7", "#22303c")

SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "path",
    "svg.hashsalt": "blendsim",  # same figure, same bytes
}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in our style, in inches."""
    plt.rcParams.update(SETTINGS)
    return plt.figure(figsize=(width, height))


def save(figure: Figure, path: Path) -> None:
    """Write `figure` in the format of the path's suffix, without a date in it."""
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, dpi=160, metadata=metadata)
    plt.close(figure)


def save_pair(figure: Figure, stem: Path) -> None:
    """Write `stem`.pdf and `stem`.png, the same bytes for the same figure."""
    figure.savefig(stem.with_suffix(".pdf"), metadata={"CreationDate": None})
    figure.savefig(stem.with_suffix(".png"), dpi=200, metadata={"Software": None})
    plt.close(figure)
