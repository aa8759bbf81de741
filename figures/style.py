"""One look for all figures: sizes of a two-column page, colours that stay apart in grey and for
colour-blind readers (Okabe and Ito's), small sans type, files that are the same bytes every time.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

COLUMN = 3.33  # inches: one column of a two-column page
PAGE = 7.0  # both columns

INK = "#22303c"
QUIET = "#8796a5"
PAPER = "#ffffff"
COMPUTE = "#0072b2"  # compute-bound work: GEMMs, prefill attention
MEMORY = "#e69f00"  # memory-bound work: decode attention
DENSITY = "cividis_r"  # colour map of densities: yellow is memory-heavy, blue compute-heavy

#: Policies and engines look the same in every figure.
POLICIES = {
    "dfs": "#d55e00",
    "random": "#cc79a7",
    "fcfs": "#56b4e9",
    "blend": "#009e73",
    "paced": "#e69f00",
    "optimum": INK,
}
#: Traces, with a dash pattern each, so that they can be told apart in grey too.
TRACES: dict[str, tuple[str, str | tuple[int, tuple[int, ...]]]] = {
    "mmlu": ("#0072b2", "-"),
    "azure": ("#56b4e9", (0, (5, 1))),
    "burstgpt": ("#009e73", (0, (3, 1, 1, 1))),
    "sharegpt": ("#cc79a7", (0, (1, 1))),
    "wildchat": ("#d55e00", (0, (4, 1, 1, 1, 1, 1))),
    "openvid": ("#e69f00", (0, (7, 2))),
}
#: As their authors write them.
NAMES = {
    "mmlu": "MMLU",
    "azure": "Azure",
    "burstgpt": "BurstGPT",
    "sharegpt": "ShareGPT",
    "wildchat": "WildChat",
    "openvid": "OpenVid",
    "dfs": "prefix order",
    "random": "random order",
    "blend": "blended order",
    "paced": "paced steps (ours)",
}
#: Series of a comparison in a fixed order.
SERIES = ("#56b4e9", "#009e73", "#0072b2", "#e69f00", "#d55e00", "#cc79a7", "#22303c")

SETTINGS = {
    "font.family": "DejaVu Sans",
    "axes.titlesize": "medium",
    "legend.fontsize": "medium",
    "legend.frameon": False,
    "lines.linewidth": 1.2,
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
    "pdf.fonttype": 42,  # letters stay letters
    "svg.fonttype": "path",
    "svg.hashsalt": "blendsim",  # same figure, same bytes
}


def new_figure(width: float, height: float, points: float = 7.5) -> Figure:
    """An empty figure in our style, in inches, with letters of so many points."""
    plt.rcParams.update({**SETTINGS, "font.size": points})
    return plt.figure(figsize=(width, height))


def save(figure: Figure, path: Path) -> None:
    """Write `figure` in the format of the path's suffix, without a date in it."""
    metadata = {
        ".svg": {"Date": None},
        ".pdf": {"CreationDate": None},
        ".png": {"Software": None},
    }[path.suffix]
    dpi = 300 if path.suffix == ".png" else 160
    figure.savefig(path, dpi=dpi, metadata=metadata)
    plt.close(figure)


def save_pair(figure: Figure, stem: Path) -> None:
    """`stem`.pdf for print and `stem`.png for the screen."""
    for suffix in (".pdf", ".png"):
        save(figure, stem.with_name(stem.name + suffix))


def panel_title(axes: Axes, text: str) -> None:
    """A bold line above the left end of a panel."""
    axes.set_title(text, loc="left", weight="bold", pad=4)


def thousands(value: float, _: int = 0) -> str:
    """Tick labels 1, 10, 100, 1k, 10k, 1M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def short_ticks(axes: Axes, which: str) -> None:
    """Ticks of the axis `which` (x or y) by `thousands`."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(thousands))
