"""Figure 2: distribution functions of prompt and output lengths, a line a trace."""

from collections.abc import Mapping
from pathlib import Path

from figures.style import COLUMN, NAMES, TRACES, new_figure, save_pair, short_ticks
from paper_repro.table import Table


def draw(tables: Mapping[str, Table], out: Path) -> None:
    """Write fig02.pdf and fig02.png into `out`."""
    figure = new_figure(COLUMN, 2.1)
    panels = figure.subplots(
        1, 2, sharey=True, gridspec_kw={"left": 0.145, "right": 0.98, "top": 0.8, "bottom": 0.18,
                                        "wspace": 0.1},
    )  # fmt: skip
    for axes, kind in zip(panels, ("prompt", "output"), strict=True):
        for trace, (colour, dashes) in TRACES.items():
            rows = tables["quantiles"].records(trace=trace, kind=kind)
            axes.plot(
                [row["tokens"] for row in rows], [100 * row["level"] for row in rows],
                color=colour, linestyle=dashes, label=NAMES[trace],
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlim(1 if kind == "output" else 5, 200_000)
        axes.set_xticks([1, 100, 10_000] if kind == "output" else [10, 100, 1000, 10_000])
        axes.minorticks_off()
        axes.set_ylim(0, 100)
        short_ticks(axes, "x")
        axes.set_xlabel(f"{kind} length, tokens")
        axes.grid(color="#e6eaee", linewidth=0.5)
        axes.set_axisbelow(True)
    panels[0].set_ylabel("share of requests, %")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="upper center", ncols=3, columnspacing=1.2, handlelength=2.4,
        bbox_to_anchor=(0.53, 1.01), labelspacing=0.3,
    )  # fmt: skip
    save_pair(figure, out / "fig02")
