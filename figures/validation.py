"""The pictures of docs/validation.md: overlap of pairs, the step model's error over a run, and the
GEMMs' time by tokens.

`python figures/validation.py` draws the tables that bench/validation.py wrote, into docs/. Nothing
is computed here but quotients.
"""

import csv
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from style import COMPUTE, INK, MEMORY, PAGE, PAPER, QUIET, SERIES, new_figure, panel_title, save

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "build" / "validation"
SPLITS = (32, 56, 80)  # attention's SMs that are drawn
TILE = 64  # tokens: a GEMM's rows
MOST = 0.2  # errors beyond are drawn at the edge

Rows = list[dict[str, str]]


def read(name: str) -> Rows:
    """A table that bench/validation.py wrote."""
    with (TABLES / f"{name}_rows.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(rows: Rows, name: str) -> np.ndarray:
    """A column as numbers."""
    return np.array([float(row[name]) for row in rows])


def draw_overlap(pairs: Rows, speeds: Rows, path: Path) -> None:
    """What pairs gain by their ratio, and how fast each half runs on its share."""
    figure = new_figure(PAGE, 2.6)
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1.35, 1)})
    panel_title(left, "side by side against one after another")
    sms, ratio = numbers(pairs, "attention_sms"), numbers(pairs, "memory_over_compute")
    gain = numbers(pairs, "gain")
    styles = [(0, QUIET, "plain streams"), *zip(SPLITS, SERIES[1:], [""] * 3, strict=False)]
    for share, colour, name in styles:
        here = np.flatnonzero(sms == share)
        label = name or f"attention on {share} SMs"
        left.plot(ratio[here], gain[here], "o", ms=2.6, mew=0, color=colour, label=label)
    left.axhline(1, color=INK, lw=0.8)
    left.set(xscale="log", xlabel="memory over compute, each alone", ylabel="(c + m) / together")
    left.set_xticks([0.1, 0.2, 0.5, 1, 2, 3], ["0.1", "0.2", "0.5", "1", "2", "3"])
    left.minorticks_off()
    left.set_ylim(0.1, max(1.1, gain.max() + 0.05))
    left.legend(loc="lower center", ncols=2, handletextpad=0.2, columnspacing=1)
    panel_title(right, "speed on a share of the GPU")
    share = numbers(speeds, "attention_sms")
    attention, gemm = numbers(speeds, "attention"), numbers(speeds, "gemm")
    right.plot(share, attention, "o-", ms=3, color=MEMORY, label="decode attention on n SMs")
    right.plot(share, gemm, "s-", ms=3, color=COMPUTE, label="GEMMs on the rest")
    right.plot(share, attention + gemm, "^--", ms=3, color=INK, label="both")
    right.set(xlabel="n, attention's SMs", ylabel="of the speed on all SMs", ylim=(0, 1.6))
    right.legend(loc="upper left", ncols=1, handletextpad=0.4)
    figure.tight_layout()
    save(figure, path)


def draw_steps(steps: Rows, path: Path) -> None:
    """The error of every step over the run, by what the step holds."""
    replays = list(dict.fromkeys(row["replay"] for row in steps))
    groups = sorted({row["group"] for row in steps})
    figure = new_figure(PAGE, 1.25 * len(replays) + 0.9)
    panels = figure.subplots(len(replays), 1, sharex=True, squeeze=False)[:, 0]
    for axes, replay in zip(panels, replays, strict=True):
        _errors(axes, [row for row in steps if row["replay"] == replay], groups)
        panel_title(axes, replay)
        axes.set_ylabel("model's error")
    panels[-1].set_xlabel("seconds of the run")
    handles = {h.get_label(): h for axes in panels for h in axes.get_lines() if h.get_marker()}
    known = [handles[name] for name in groups if name in handles]
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.42 / figure.get_size_inches()[1]))
    figure.legend(handles=known, loc="upper center", ncols=3, markerscale=3, handletextpad=0.2)
    save(figure, path)


def _errors(axes: Axes, rows: Rows, groups: list[str]) -> None:
    start = numbers(rows, "start")
    error = numbers(rows, "price") / numbers(rows, "measured") - 1.0
    here = np.array([row["group"] for row in rows])
    for name, colour in zip(groups, SERIES, strict=False):
        chosen = here == name
        if chosen.any():
            shown = np.clip(error[chosen], -MOST, MOST)
            axes.plot(start[chosen], shown, ".", ms=1.6, color=colour, label=name)
    axes.axhline(0, color=INK, lw=0.8)
    axes.set_ylim(-MOST, MOST)
    axes.set_yticks([-MOST, 0, MOST], [f"−{100 * MOST:.0f} %", "0", f"{100 * MOST:.0f} %"])


def draw_dense(rows: Rows, path: Path) -> None:
    """What decode-only steps of sequential runs take less attention, by tokens."""
    figure = new_figure(PAGE, 2.4)
    axes = figure.subplots()
    order = np.argsort(numbers(rows, "tokens"), kind="stable")
    tokens = numbers(rows, "tokens")[order]
    measured, lines, stairs = (numbers(rows, n)[order] for n in ("measured", "lines", "stairs"))
    axes.plot(tokens, measured, ".", ms=2, color=QUIET, label="measured step less decode attention")
    axes.plot(tokens, lines, color=COMPUTE, label="the model")
    if not np.allclose(lines, stairs, rtol=0.03):
        axes.plot(tokens, stairs, color=MEMORY, label="the model with GEMMs as a staircase")
    axes.set(xlabel="tokens of the step", ylabel="ms")
    first = int(tokens.min()) // TILE * TILE
    axes.set_xticks(range(first, int(tokens.max()) + TILE, TILE))
    axes.grid(axis="x", color=QUIET, lw=0.3)
    axes.legend(loc="upper left", facecolor=PAPER, frameon=True, edgecolor="none")
    figure.tight_layout()
    save(figure, path)


def main() -> None:
    """Draw all of them."""
    docs = ROOT / "docs"
    draw_overlap(read("pair"), read("speed"), docs / "validation-overlap.png")
    draw_steps(read("step"), docs / "validation-steps.png")
    if dense := read("dense"):
        draw_dense(dense, docs / "validation-dense.png")


if __name__ == "__main__":
    main()
