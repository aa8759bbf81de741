"""Tables for a terminal: plain text, right-aligned figures, as many columns as the width holds."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from blendsim.report.metrics import Row


class Column(NamedTuple):
    """A column: its title, its cells as text, and how soon it goes when the table is too wide."""

    title: str
    cells: Sequence[str]
    dispensable: int = 0  # 0 stays; the highest goes first
    is_text: bool = False  # text stands left, figures right


def lay_out(columns: Sequence[Column], width: int) -> list[str]:
    """Title line, rule, a line a row. Dispensable columns go until the table fits `width`."""
    shown = list(columns)
    while _total(shown) > width and any(column.dispensable for column in shown):
        shown.remove(max(shown, key=lambda column: column.dispensable))
    widths = [_widest(column) for column in shown]
    titles = _line(shown, [column.title for column in shown], widths)
    rows = zip(*(column.cells for column in shown), strict=True)
    return [titles, "─" * len(titles), *(_line(shown, row, widths) for row in rows)]


def policy_table(rows: Sequence[Row], chosen: str | None, width: int) -> list[str]:
    """A line a policy, the chosen one marked. Seconds are on true lengths, predicted ones on what
    planning may see.
    """
    kept = [
        row.sharing_ratio / row.sharing_optimum if row.sharing_optimum else None for row in rows
    ]
    columns = [
        Column("policy", [_marked(row.policy, chosen) for row in rows], is_text=True),
        Column("seconds", [number(row.seconds, 1) for row in rows]),
        Column("predicted", [number(row.predicted_seconds, 1) for row in rows]),
        Column("tokens/s", [number(row.tokens_per_second) for row in rows]),
        Column("of optimum", [share(row.share_of_optimum) for row in rows]),
        Column("of reachable", [share(row.share_of_reachable) for row in rows], dispensable=1),
        Column("sharing kept", [share(part) for part in kept]),
        Column("recomputed", [number(row.preempted_tokens) for row in rows], dispensable=2),
        Column("KV use", [share(row.kv_use) for row in rows], dispensable=3),
        Column("steps", [number(row.steps) for row in rows], dispensable=4),
    ]
    return lay_out(columns, width)


def _marked(policy: str, chosen: str | None) -> str:
    return f"{'*' if policy == chosen else ' '} {policy}"


def number(value: float | None, digits: int = 0) -> str:
    """A figure with thousands separators, or a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def share(value: float | None) -> str:
    """A ratio in per cent, or a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def _widest(column: Column) -> int:
    return max(map(len, (column.title, *column.cells)))


def _total(columns: Sequence[Column]) -> int:
    return sum(map(_widest, columns)) + 2 * (len(columns) - 1)


def _line(columns: Iterable[Column], cells: Iterable[str], widths: Iterable[int]) -> str:
    parts = (
        cell.ljust(width) if column.is_text else cell.rjust(width)
        for column, cell, width in zip(columns, cells, widths, strict=True)
    )
    return "  ".join(parts).rstrip()
