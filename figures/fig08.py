"""Figure 8: tokens/s a GPU with prefill and decode on GPUs of their own, of vLLM's."""

from collections.abc import Mapping
from pathlib import Path

from figures.style import COLUMN, INK, new_figure, save_pair
from figures.systems import colours, top_legend
from paper_repro.table import Table

REFERENCE = "vLLM-DFS"


def draw(tables: Mapping[str, Table], out: Path) -> None:
    """Write fig08.pdf and fig08.png into `out`."""
    rows = tables["runs"].records(at="common")
    traces = list(dict.fromkeys(row["trace"] for row in rows))
    systems = [s for s in dict.fromkeys(row["system"] for row in rows) if s != REFERENCE]
    rate = {(row["trace"], row["system"]): row["tokens_per_second"] / row["gpus"] for row in rows}
    figure = new_figure(COLUMN, 2.0)
    axes = figure.add_axes((0.2, 0.17, 0.78, 0.68))
    width = 0.84 / len(systems)
    for i, (system, colour) in enumerate(colours(systems).items()):
        heights = [rate[trace, system] / rate[trace, REFERENCE] for trace in traces]
        places = [k + (i + 0.5) * width - 0.42 for k in range(len(traces))]
        label = system.removeprefix("DistServe-")
        axes.bar(places, heights, width * 0.9, color=colour, label=label)
    axes.axhline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 2)))
    axes.set_ylim(0, 1.08)
    axes.set_xticks(range(len(traces)), [f"#{trace[-1]}" for trace in traces])
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("workload", labelpad=1)
    axes.set_ylabel("tokens/s a GPU,\nover vLLM-DFS (dashed)")
    top_legend(figure, axes, len(systems))
    save_pair(figure, out / "fig08")
