"""Figure 6: KV memory of the two ends of a dual scan, in the paper's example and around it."""

from collections.abc import Mapping
from pathlib import Path

from figures.style import COLUMN, COMPUTE, INK, MEMORY, PAPER, new_figure, save_pair
from paper_repro.table import Table


def draw(tables: Mapping[str, Table], out: Path) -> None:
    """Write fig06.pdf and fig06.png into `out`."""
    (example,) = tables["example"].records()
    split = tables["split"]
    memory = example["left_gb"] + example["right_gb"]
    figure = new_figure(COLUMN, 1.95)
    axes = figure.add_axes((0.14, 0.2, 0.68, 0.76))
    root, left = split.column("rho_root"), split.column("left_gb")
    axes.fill_between(root, 0, left, color=COMPUTE, linewidth=0)
    axes.fill_between(root, left, memory, color=MEMORY, linewidth=0)
    at = example["rho_root"]
    axes.plot([at, at], [0, memory], color=INK, linewidth=1.2)
    axes.plot(at, example["left_gb"], "o", color=PAPER, markeredgecolor=INK, markersize=4)
    for place, name, colour in ((0.12, "left", PAPER), (0.88, "right", INK)):
        text = f"{name} {example[f'{name}_gb']:.2f} GB"
        axes.text(at + 0.07, place * memory, text, color=colour, va="center")
    axes.set_xlim(root[0], root[-1])
    axes.set_ylim(0, memory)
    axes.set_xticks(
        [example["rho_right"], at, example["rho_left"]],
        [f"ρ(R) = {example['rho_right']:g}", f"{at:g}", f"ρ(L) = {example['rho_left']:g}"],
    )
    axes.set_xlabel("density of the pool, ρ(root)")
    axes.set_ylabel("KV memory, GB")
    axes.text(1.03, 0.75, "memory-\nheavy\nend", color=INK, transform=axes.transAxes, va="center")
    axes.text(1.03, 0.2, "compute-\nheavy\nend", color=INK, transform=axes.transAxes, va="center")
    save_pair(figure, out / "fig06")
