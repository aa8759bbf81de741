"""A second log on a run's page: a measured one of the same schedule, or a simulated one of the same
pool.
"""

from collections.abc import Sequence
from typing import NamedTuple

from blendsim.arrays import Floats
from blendsim.report import html
from blendsim.report.account import WORDS, digits_of, picture
from blendsim.report.contrast import Contrast, Side, label, words
from blendsim.report.gist import Gist
from blendsim.report.opening import seconds_text
from blendsim.report.plots import run as plots
from blendsim.report.plots.contrast import contrast_panels
from blendsim.report.tables import Column, number, share, signed
from blendsim.report.timeline import timeline
from blendsim.report.validate import Validation
from blendsim.report.validation_text import sentences, strata_columns

_PRICES = (
    "Both are at the prices of the larger token budget. Where engines share KV in other blocks or "
    "run batches in other pieces, or GPUs differ, so do the prices, and what a step is charged to."
)


class Beside(NamedTuple):
    """A second log of the same schedule, one of the two measured."""

    name: str
    figures: Gist
    validation: Validation  # the simulated log's seconds against the measured one's
    measured: str  # name of the measured log


def validated_parts(name: str, figures: Gist, against: Beside) -> list[str]:
    """Both logs' figures, and how far the simulated seconds are off; `name` and `figures` are of
    the run that the page is on.
    """
    found = against.validation
    return [
        _figures([name, against.name], [figures, against.figures], is_whole=False),
        *map(html.paragraph, sentences(found, against.measured)),
        html.beside(map(picture, plots.validation_panels(found))),
        html.table(strata_columns(found.strata)),
    ]


def contrast_parts(contrast: Contrast) -> list[str]:
    """Both runs' figures, the account of their seconds head by head, and both over time."""
    sides = [contrast.first, contrast.second]
    names = [_called(side) for side in sides]
    lines = [timeline(side.log, side.work) for side in sides]
    capacities = [side.capacity_blocks for side in sides]
    return [
        *(html.paragraph(f"Note: {note}", "note") for note in contrast.second_notes),
        _figures(names, [side.figures for side in sides], is_whole=True),
        *_accounts(contrast, names),
        html.beside(
            map(picture, contrast_panels(lines, [side.name for side in sides], capacities))
        ),
    ]


def _called(side: Side) -> str:
    """“dfs.parquet (dfs, nanoflow, 2,048 tokens)”."""
    told = label(side)
    return f"{side.name} ({told})" if told else side.name


def _figures(names: Sequence[str], both: Sequence[Gist], is_whole: bool) -> str:
    """Key figures side by side; with those of the pool and bounds where both served all of it."""
    rows = [
        ("seconds", [seconds_text(one.seconds) for one in both]),
        *([("tokens/s", [number(one.tokens_per_second) for one in both])] if is_whole else []),
        ("computed tokens/s", [number(one.computed_tokens_per_second) for one in both]),
        ("steps", [number(one.steps) for one in both]),
        ("requests finished", [number(one.requests) for one in both]),
        ("prompt tokens shared", [share(one.sharing_ratio) for one in both]),
        ("tokens recomputed", [number(one.recomputed_tokens) for one in both]),
        ("KV use, mean", [share(one.kv_use) for one in both]),
    ]
    if is_whole:
        bounds = [one.reachable_seconds for one in both]
        rows += [
            ("KV use, most", [share(one.kv_most) for one in both]),
            ("tokens a step, mean", [number(one.computed_tokens / one.steps) for one in both]),
            ("reachable bound, s", ["–" if at is None else seconds_text(at) for at in bounds]),
            ("of reachable bound", [share(one.share_of_reachable) for one in both]),
            ("of practical optimum", [share(one.share_of_optimum) for one in both]),
        ]
    columns = [
        Column("", [what for what, _ in rows], is_text=True),
        *(Column(name, [cells[at] for _, cells in rows]) for at, name in enumerate(names)),
    ]
    return html.table(columns)


def _accounts(contrast: Contrast, names: Sequence[str]) -> list[str]:
    """Both accounts and their difference, and where in the runs the seconds were lost."""
    one, other = contrast.first.account, contrast.second.account
    if one is None or other is None:
        return []
    parts = contrast.parts
    rows = [(*words(part), part.first, part.second) for part in parts]
    told = [f"{word}: {why}" for word, why, _, _ in rows] + ["the run"]
    first = [part.first for part in parts] + [one.run]
    second = [part.second for part in parts] + [other.run]
    more = [a - b for a, b in zip(first, second, strict=True)]
    digits = max(digits_of(one), digits_of(other))
    columns = [
        Column("", told, is_text=True),
        *(
            Column(f"{name}, s", [number(value, digits) for value in values])
            for name, values in zip(names, (first, second), strict=True)
        ),
        Column("difference, s", [signed(value, digits) for value in more]),
        Column(
            "of the difference", [share(value / more[-1]) if more[-1] else "–" for value in more]
        ),
    ]
    reach = _reach(one.steps, other.steps)
    panels = [
        plots.losses_panel(
            account, WORDS, f"losses-{which}", f"Seconds lost by tenth of {name}", reach
        )
        for account, which, name in zip(
            (one, other),
            ("first", "second"),
            [contrast.first.name, contrast.second.name],
            strict=True,
        )
    ]
    return [
        html.table(columns),
        html.paragraph(_PRICES, "quiet"),
        html.beside(map(picture, panels)),
    ]


def _reach(*each: Floats) -> tuple[float, float]:
    """Ends of one scale for the stacked seconds of several runs."""
    low = min(float(steps.clip(max=0).sum(axis=1).min()) for steps in each)
    high = max(float(steps.clip(min=0).sum(axis=1).max()) for steps in each)
    return 1.05 * low, 1.05 * high
