"""Bars of systems: one colour a system in every figure, and the practical optimum above them."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import INK, POLICIES

COLOURS = {
    "vLLM-DFS": "#56b4e9",
    "SGLang-DFS": "#0072b2",
    "NanoFlow-DFS": POLICIES["dfs"],
    "NanoFlow-Balance": POLICIES["random"],
    "BlendServe": POLICIES["blend"],
    "Paced": POLICIES["paced"],
}
OTHER = ("#b8c4ce", "#8796a5", "#5b3a8e", "#22303c")  # systems that are not listed above
WIDTH = 0.84  # of a group of bars, in units of the distance between groups
TRACES = {f"trace{i}": f"#{i}" for i in range(1, 5)}
BEYOND = {"Paced": "Paced (ours)"}  # systems that the paper does not have


def colours(systems: Sequence[str]) -> dict[str, str]:
    """A colour for each system."""
    others = iter(OTHER)
    return {name: COLOURS.get(name) or next(others) for name in systems}


def grouped_bars(
    axes: Axes, rows: list[dict[str, Any]], group: str, value: str, bound: str | None = None
) -> None:
    """A group of bars for each `group`, one a system; `bound` is drawn as a line over the group."""
    groups = list(dict.fromkeys(row[group] for row in rows))
    systems = list(dict.fromkeys(row["system"] for row in rows))
    width = WIDTH / len(systems)
    for i, (system, colour) in enumerate(colours(systems).items()):
        heights = {row[group]: row[value] for row in rows if row["system"] == system}
        places = [groups.index(g) + (i + 0.5) * width - WIDTH / 2 for g in heights]
        axes.bar(places, [*heights.values()], width * 0.9, color=colour, label=system)
    if bound is not None:
        for k, name in enumerate(groups):
            height = max(row[bound] for row in rows if row[group] == name)
            label = "practical optimum" if k == 0 else None
            ends = [k - WIDTH / 2, k + WIDTH / 2]
            axes.plot(ends, [height, height], color=INK, linewidth=1, label=label)
    axes.set_xticks(range(len(groups)), [TRACES.get(str(g), str(g)) for g in groups])
    axes.tick_params(axis="x", length=0)


def top_legend(
    figure: Figure, axes: Axes, ncols: int, names: Mapping[str, str] | None = None
) -> None:
    """One legend above all panels, narrow enough for a column; `names` replaces labels."""
    shown = {**BEYOND, **(names or {})}
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, [shown.get(label, label) for label in labels], loc="upper center",
        ncols=ncols, fontsize=6.5, handlelength=1.2, columnspacing=1, handletextpad=0.5,
    )  # fmt: skip
