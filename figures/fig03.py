"""Figure 3: compute over memory time while two runs go on, beside the ratio of the whole run."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.ticker import FuncFormatter

from figures.style import COLUMN, INK, NAMES, POLICIES, QUIET, new_figure, panel_title, save_pair
from paper_repro.table import Table

LEAST, MOST = 0.1, 100.0  # of the ratio; what lies beyond is drawn at the edge


def draw(tables: Mapping[str, Table], out: Path) -> None:
    """Write fig03.pdf and fig03.png into `out`."""
    figure = new_figure(COLUMN, 2.5)
    panels = figure.subplots(
        2, 1, sharex=True, sharey=True,
        gridspec_kw={"left": 0.16, "right": 0.97, "top": 0.92, "bottom": 0.16, "hspace": 0.38},
    )  # fmt: skip
    runs = tables["runs"].records()
    for axes, run in zip(panels, runs, strict=True):
        rows = tables["slices"].records(policy=run["policy"])
        hours = [row["start_s"] / 3600 for row in rows] + [rows[-1]["end_s"] / 3600]
        ratios = [_ratio(row["compute_s"], row["memory_s"]) for row in rows]
        axes.step(hours, [*ratios, ratios[-1]], where="post", color=POLICIES[run["policy"]])
        axes.axhline(run["ratio"], color=INK, linewidth=0.8, linestyle=(0, (4, 2)))
        axes.axhspan(run["ratio"] / 2, run["ratio"] * 2, color=QUIET, alpha=0.18, linewidth=0)
        panel_title(axes, NAMES[run["policy"]])
        axes.set_yscale("log")
        axes.set_ylim(LEAST, MOST)
        axes.set_yticks([0.1, 1, 10, 100])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
    panels[0].text(
        0.99, 1.05, "dashed: whole run; band: within 2×",
        transform=panels[0].transAxes, ha="right", va="bottom", size=6.5, color=INK,
    )  # fmt: skip
    panels[-1].set_xlim(0, max(run["seconds"] for run in runs) / 3600 * 1.005)
    panels[-1].set_xlabel("time of the run, hours")
    figure.supylabel("compute time / memory time", size=7.5, x=0.01)
    save_pair(figure, out / "fig03")


def _ratio(compute: float, memory: float) -> float:
    return min(MOST, max(LEAST, compute / memory)) if memory > 0 else MOST
