"""The README's picture: trace → plan → simulate → report, and two simulated runs of one pool.

`python figures/overview.py docs/overview.svg` draws figures/overview.csv (columns policy, start,
compute_seconds, memory_seconds: one row a slice of the run, seconds of work per second), which
figures/slices.py makes from two step logs; `make figures` does both. Nothing is computed here.
"""

import csv
import sys
from collections import defaultdict
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from style import COMPUTE, INK, MEMORY, PAPER, QUIET, new_figure, save

TABLE = Path(__file__).with_name("overview.csv")
STAGES = (
    ("traces", "Azure, BurstGPT,\nMooncake, OpenAI\nbatch files, demo:"),
    ("workload", "400 k requests in\ncolumns: lengths,\nshared prefixes"),
    ("plan", "sampled lengths, prefix\ntree, both ends of the\ndensity order"),
    ("simulate", "compiled serving core,\nmeasured kernels:\na row a step"),
    ("report", "seconds, share of the\noptimum, what bounds\nthe pool"),
)


def draw(path: Path) -> None:
    """Draw the picture and write it to `path`."""
    figure = new_figure(10, 4.6, 9)
    _flow(figure.add_axes((0.01, 0.60, 0.98, 0.39)))
    runs = _read(TABLE)
    end = max(float(row["start"]) for rows in runs.values() for row in rows)
    top = max(float(r["compute_seconds"]) for rows in runs.values() for r in rows)
    top = max(top, max(float(r["memory_seconds"]) for rows in runs.values() for r in rows))
    for i, (policy, rows) in enumerate(runs.items()):
        axes = figure.add_axes((0.06 + 0.485 * i, 0.11, 0.44, 0.37))
        _run(axes, policy, rows)
        axes.set_xlim(0, end)
        axes.set_ylim(0, top * 1.05)
        if i == 0:
            axes.set_ylabel("work, s per s of run")
        else:
            axes.set_yticklabels([])
    figure.legend(
        *figure.axes[1].get_legend_handles_labels(),
        loc="upper right",
        ncols=2,
        frameon=False,
        bbox_to_anchor=(0.995, 0.615),
    )
    save(figure, path)


def _flow(axes: Axes) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, 5)
    axes.set_ylim(0, 1)
    for i, (name, what) in enumerate(STAGES):
        box = FancyBboxPatch(
            (i + 0.07, 0.08), 0.78, 0.82, boxstyle="round,pad=0,rounding_size=0.06",
            mutation_aspect=1.6, facecolor="#f3f6f9", edgecolor=QUIET, linewidth=1,
        )  # fmt: skip
        axes.add_patch(box)
        axes.text(i + 0.46, 0.74, name, ha="center", va="center", weight="bold", size=12)
        axes.text(i + 0.46, 0.38, what, ha="center", va="center", size=8.5, linespacing=1.5)
        if i:
            arrow = FancyArrowPatch(
                (i - 0.135, 0.49), (i + 0.055, 0.49), arrowstyle="-|>", mutation_scale=13,
                color=INK, linewidth=1.4, shrinkA=0, shrinkB=0,
            )  # fmt: skip
            axes.add_patch(arrow)


def _run(axes: Axes, policy: str, rows: list[dict[str, str]]) -> None:
    start = [float(row["start"]) for row in rows]
    for column, colour, label in (
        ("compute_seconds", COMPUTE, "compute: GEMMs, prefill"),
        ("memory_seconds", MEMORY, "memory: decode attention"),
    ):
        values = [float(row[column]) for row in rows]
        axes.step(start, values, where="post", color=colour, label=label, linewidth=1.4)
        axes.fill_between(start, values, step="post", color=colour, alpha=0.18, linewidth=0)
    axes.axvline(start[-1], color=INK, linewidth=1)
    axes.set_title(f"{policy}: {start[-1]:,.0f} s", loc="left", size=10, weight="bold")
    axes.set_xlabel("seconds of the run")
    axes.patch.set_facecolor(PAPER)


def _read(path: Path) -> dict[str, list[dict[str, str]]]:
    runs = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            runs[row["policy"]].append(row)
    return runs


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
