"""How many replicas a deadline takes that none of the systems named meets: by how their times fall
from one number of replicas to the next, a / N + b, where b is what no replica more shortens, such
as the longest answer.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from blendsim.report.rental import Goal, RentalRow

_SHOWN = 3  # kinds of replica that are told
_MOST = 4_096  # replicas that `--dp` takes


class Enough(NamedTuple):
    """So many replicas of one kind are expected to be in time."""

    kind: str  # GPU, its weights' format if several were asked for, tp and pp
    replicas: int
    is_least: bool  # with one row to go by: if each replica takes an equal part of its time
    spent: float  # money or GPU-hours of the kind's cheapest row, which more replicas hardly change


def replicas_advice(rows: Sequence[RentalRow], goal: Goal) -> list[str]:
    """A sentence on how many replicas the deadline would take, if all rows miss it."""
    if goal.deadline is None or not all("deadline" in row.misses for row in rows):
        return []
    alike = _by_kind(rows)
    if not alike:
        return []  # pools of prefill and decode replicas are named as a whole
    found = [enough for each in alike if (enough := _enough(each, goal.deadline)) is not None]
    if not found:
        return [
            "More replicas alone would not be in time, by how little these rows gain from more of "
            "them: name a faster GPU or a larger --tp, or allow more time."
        ]
    cheapest = sorted(found, key=lambda enough: enough.spent)[:_SHOWN]
    told = " or ".join(map(_told, cheapest))
    return [f"By how times fall with more of them, it takes {told} to be in time; ask by --dp."]


def _told(enough: Enough) -> str:
    about = "at least" if enough.is_least else "about"
    return f"{about} {enough.replicas:,} replicas of {enough.kind}"


def _by_kind(rows: Iterable[RentalRow]) -> list[list[RentalRow]]:
    """The rows of equal replicas of each kind, fewest replicas first."""
    alike: dict[str, list[RentalRow]] = {}
    for row in rows:
        if row.pools is None:
            alike.setdefault(row.kind, []).append(row)
    return [sorted(each, key=lambda row: row.dp) for each in alike.values()]


def _enough(rows: Sequence[RentalRow], deadline: float) -> Enough | None:
    """The least number that is expected to be in time; None if none is."""
    last = rows[-1]
    stays = _stays(rows)
    if stays >= deadline:
        return None
    replicas = math.ceil((last.row.predicted_seconds - stays) * last.dp / (deadline - stays))
    replicas = max(replicas, last.dp + 1)
    if replicas > min(_MOST, last.row.requests):
        return None
    spent = min(map(RentalRow.spent, rows))
    return Enough(last.kind, replicas, len(rows) < 2, spent)


def _stays(rows: Sequence[RentalRow]) -> float:
    """Seconds that no replica more shortens, by the two rows with most replicas, and no fewer than
    the longest request takes alone.
    """
    alone = rows[-1].longest_seconds
    if len(rows) < 2:
        return alone
    fewer, more = rows[-2:]
    gained = fewer.row.predicted_seconds - more.row.predicted_seconds
    parted = gained / (1 / fewer.dp - 1 / more.dp)  # what a single replica would take of it
    return max(more.row.predicted_seconds - parted / more.dp, alone)
