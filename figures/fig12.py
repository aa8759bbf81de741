"""Figure 12: blended over prefix order for four other models."""

from collections.abc import Mapping
from pathlib import Path

from figures.style import COLUMN, INK, PAPER, SERIES, new_figure, save_pair
from figures.systems import top_legend
from paper_repro.table import Table

BLEND, DFS, OURS = "BlendServe", "NanoFlow-DFS", "Paced"


def draw(tables: Mapping[str, Table], out: Path) -> None:
    """Write fig12.pdf and fig12.png into `out`."""
    runs = tables["runs"]
    models = list(dict.fromkeys(runs.column("model")))
    traces = list(dict.fromkeys(runs.column("trace")))
    figure = new_figure(COLUMN, 2.2)
    axes = figure.add_axes((0.15, 0.16, 0.83, 0.68))
    width = 0.84 / len(traces)
    for i, trace in enumerate(traces):
        heights, optima, paced = [], [], []
        for model in models:
            dfs = runs.record(model=model, trace=trace, system=DFS)
            ours = runs.record(model=model, trace=trace, system=BLEND)
            heights.append(ours["tokens_per_second"] / dfs["tokens_per_second"])
            beyond = runs.records(model=model, trace=trace, system=OURS)
            paced += [row["tokens_per_second"] / dfs["tokens_per_second"] for row in beyond]
            optima.append(1 / dfs["share_of_optimum"])
        places = [k + (i + 0.5) * width - 0.42 for k in range(len(models))]
        axes.bar(places, heights, width * 0.9, color=SERIES[i], label=f"#{trace[-1]}")
        if paced:
            label = "paced (ours)" if i == 0 else None
            axes.plot(
                places, paced, "D", color=PAPER, markeredgecolor=INK, markersize=3, label=label
            )
        label = "practical optimum" if i == 0 else None
        axes.plot(places, optima, "_", color=INK, markersize=9, label=label)
    axes.axhline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 2)))
    axes.set_ylim(0, None)
    names = ["\n".join(model.rsplit("-", 1)) for model in models]
    axes.set_xticks(range(len(models)), names)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("tokens/s over prefix order")
    top_legend(figure, axes, 3)
    save_pair(figure, out / "fig12")
