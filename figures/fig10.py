"""Figure 10: seconds of compute and of memory work per second of two runs."""

from collections.abc import Mapping
from pathlib import Path

from figures.style import COLUMN, COMPUTE, MEMORY, NAMES, new_figure, panel_title, save_pair
from figures.systems import top_legend
from paper_repro.table import Table

LINES = (
    ("compute_s", COMPUTE, "compute: GEMMs, prefill", "-"),
    ("memory_s", MEMORY, "memory: decode attention", (0, (3, 1))),
)


def draw(tables: Mapping[str, Table], out: Path) -> None:
    """Write fig10.pdf and fig10.png into `out`."""
    runs = tables["runs"].records()
    figure = new_figure(COLUMN, 0.6 + 1.0 * len(runs))
    panels = figure.subplots(
        len(runs), 1, sharex=True, sharey=True,
        gridspec_kw={"left": 0.16, "right": 0.97, "top": 0.87, "bottom": 0.12, "hspace": 0.36},
    )  # fmt: skip
    for axes, run in zip(panels, runs, strict=True):
        rows = tables["slices"].records(policy=run["policy"])
        hours = [row["start_s"] / 3600 for row in rows] + [rows[-1]["end_s"] / 3600]
        for column, colour, label, dashes in LINES:
            busy = [row[column] / (row["end_s"] - row["start_s"]) for row in rows]
            values = [*busy, busy[-1]]
            axes.step(hours, values, where="post", color=colour, linestyle=dashes, label=label)
        panel_title(axes, NAMES[run["policy"]])
    panels[-1].set_xlim(0, max(run["seconds"] for run in runs) / 3600 * 1.005)
    panels[-1].set_ylim(0, None)
    panels[-1].set_xlabel("time of the run, hours")
    figure.supylabel("seconds of work per second", size=7.5, x=0.01)
    top_legend(figure, panels[0], 2)
    save_pair(figure, out / "fig10")
