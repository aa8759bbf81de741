"""Figure 9: prefix sharing reached by each order, of what prefix order (DFS) reaches."""

from collections.abc import Mapping
from pathlib import Path

from figures.style import INK, SERIES, new_figure, save_pair
from paper_repro.table import Table


def draw(tables: Mapping[str, Table], out: Path) -> None:
    """Write fig09.pdf and fig09.png into `out`."""
    kept = tables["kept"]
    traces = list(dict.fromkeys(kept.column("trace")))
    systems = list(dict.fromkeys(kept.column("system")))
    figure = new_figure(3.4, 2.2)
    axes = figure.add_axes((0.15, 0.14, 0.83, 0.68))
    width = 0.8 / len(systems)
    for i, system in enumerate(systems):
        heights = [100 * kept.record(trace=t, system=system)["sharing_ratio"] for t in traces]
        places = [k + (i - (len(systems) - 1) / 2) * width for k in range(len(traces))]
        axes.bar(places, heights, width * 0.92, color=SERIES[i], label=system)
    for k, trace in enumerate(traces):
        best = 100 * kept.records(trace=trace)[0]["sharing_optimum"]
        axes.plot([k - 0.45, k + 0.45], [best, best], color=INK, linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(traces)), traces)
    axes.set_ylabel("prompt tokens shared, %")
    figure.legend(loc="upper center", ncols=3, frameon=False, fontsize=7)
    save_pair(figure, out / "fig09")
