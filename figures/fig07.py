"""Figure 7: tokens/s a GPU of every system on the four workloads, for two models."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.ticker import FuncFormatter

from figures.style import COLUMN, new_figure, panel_title, save_pair, thousands
from figures.systems import grouped_bars, top_legend
from paper_repro.systems import COMMON_BUDGET
from paper_repro.table import Table


def draw(tables: Mapping[str, Table], out: Path) -> None:
    """Write fig07.pdf and fig07.png into `out`."""
    draw_models(tables["runs"], "A100", out / "fig07")


def draw_models(runs: Table, gpu: str, stem: Path) -> None:
    """A panel a model, at the common token budget."""
    models = list(dict.fromkeys(runs.column("model")))
    high = 0.81 + 1.45 * len(models)
    figure = new_figure(COLUMN, high)
    panels = figure.subplots(
        len(models), 1, squeeze=False,
        gridspec_kw={"left": 0.175, "right": 0.98, "top": 1 - 0.68 / high, "bottom": 0.34 / high,
                     "hspace": 0.38},
    )[:, 0]  # fmt: skip
    for axes, model in zip(panels, models, strict=True):
        rows = [_per_gpu(row) for row in runs.records(model=model, at="common")]
        grouped_bars(axes, rows, "trace", "rate", "optimum")
        axes.yaxis.set_major_formatter(FuncFormatter(thousands))
        axes.set_ylabel("tokens/s a GPU")
        panel_title(axes, f"{model} on {rows[0]['gpus']} × {gpu}")
    panels[-1].set_xlabel(f"workload, at {COMMON_BUDGET:,} tokens a step", labelpad=1)
    top_legend(figure, panels[0], 3)
    save_pair(figure, stem)


def _per_gpu(row: dict[str, float]) -> dict[str, float]:
    return {
        **row,
        "rate": row["tokens_per_second"] / row["gpus"],
        "optimum": row["optimum_tokens_per_second"] / row["gpus"],
    }
