"""Two runs over each other, each on its own time: what their steps do, as small panels."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from blendsim.arrays import Floats
from blendsim.report.plots.panel import Panel, draw_panel, key, line
from blendsim.report.plots.run import COMPUTE, RANKS, time_scale
from blendsim.report.timeline import Line, Timeline

FIRST, SECOND = COMPUTE, RANKS[1]  # the second is dashed, too
_STYLES: tuple[dict[str, Any], ...] = (
    {"color": FIRST, "linewidth": 1.4},
    {"color": SECOND, "linewidth": 1.2, "linestyle": (0, (4, 1.2))},
)

#: NOTE: names of files are for the page, which escapes them; matplotlib would set some as formulae.
_WHICH = ("this run", "the other")

Value = Callable[[Line, int | None], Floats | None]


def contrast_panels(
    both: Sequence[Timeline], names: Sequence[str], capacities: Sequence[int | None]
) -> list[Panel]:
    """A panel a quantity with a line a run, over one scale of time; `capacities` are the KV blocks
    of a replica. Of several ranks a line is their mean. What a run does not count has no panel.
    """
    scale = time_scale(max(float(course.edges[-1]) for course in both))
    is_share = None not in capacities
    several = " Means of the ranks." if any(len(course.lines) > 1 for course in both) else ""
    panels = []
    for name, title, value in (
        ("tokens", "Tokens computed a step", _sum("prefill_tokens", "decode_requests")),
        ("decodes", "Decodes a step", _held("decode_requests")),
        ("context", "Context tokens that decodes read", _held("context_tokens")),
        ("blocks", "KV blocks held" + ", of all" * is_share, _blocks),
        ("running", "Running requests", _held("running")),
        ("compute", "Compute work a second", lambda one, _: one.compute),
        ("memory", "Decode attention a second", lambda one, _: one.memory),
    ):
        pairs = zip(both, capacities if is_share else (None, None), strict=True)
        lines = [_mean(course.lines, value, capacity) for course, capacity in pairs]
        if any(each is None for each in lines):
            continue

        def draw(axis: Any, lines: Sequence[Floats | None] = lines) -> None:
            for course, values, which, style in zip(both, lines, _WHICH, _STYLES, strict=True):
                assert values is not None
                line(axis, course.edges / scale.size, values, label=which, **style)
            axis.set_xlim(0, max(float(course.edges[-1]) for course in both) / scale.size)
            key(axis)

        note = f"Solid: {names[0]}. Dashed: {names[1]}.{several}"
        panels.append(draw_panel(f"both-{name}", title, note, draw, f"time, {scale.unit}"))
    return panels


def _held(name: str) -> Value:
    return lambda one, _: one.held.get(name)


def _sum(*names: str) -> Value:
    def total(one: Line, _: int | None) -> Floats | None:
        if not one.held.keys() >= set(names):
            return None
        found: Floats = np.sum([one.held[name] for name in names], axis=0)
        return found

    return total


def _blocks(one: Line, capacity: int | None) -> Floats | None:
    held = one.held.get("held_blocks")
    return None if held is None else held / (capacity or 1)


def _mean(lines: Sequence[Line], value: Value, capacity: int | None) -> Floats | None:
    """Over the ranks; one that runs no step does nothing."""
    each = [value(one, capacity) for one in lines]
    known = [values for values in each if values is not None]
    if len(known) < len(each):
        return None
    return known[0] if len(known) == 1 else np.mean(np.nan_to_num(known), axis=0)
