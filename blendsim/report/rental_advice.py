"""Why a system is chosen to be rented, what more money buys, and what the limits rule out."""

from collections.abc import Sequence

from blendsim.report.rental import Goal, RentalRow, spend

NEAR = 0.0005  # a difference that the printed per cent does not show
_SHOWN = 4  # ways to be faster that are told


def rental_advice(rows: Sequence[RentalRow], chosen: RentalRow | None, goal: Goal) -> list[str]:
    """Sentences for the user: what is chosen and why, what more money buys, what the limits rule
    out, how rows rank.
    """
    if chosen is None:
        told = [f"No system is chosen: {nothing_meets(rows, goal)}."]
    else:
        told = [_why(rows, chosen, goal), *_faster(rows, chosen, goal), *_missed(rows, goal)]
    if goal.currency is None:
        told.append(
            "No prices are given: systems rank by GPU-hours, in which an hour of every GPU counts "
            "alike; --price FILE ranks them by cost."
        )
    return told


def nothing_meets(rows: Sequence[RentalRow], goal: Goal) -> str:
    """Half a sentence: no system meets the limits, and how near the nearest come."""
    parts = []
    if goal.deadline is not None:
        fastest = min(rows, key=lambda row: row.row.predicted_seconds)
        parts.append(f"the fastest, {fastest.system}, takes {_seconds(fastest)}")
    if goal.max_cost is not None:
        cheapest = min(rows, key=RentalRow.spent)
        parts.append(f"the cheapest, {cheapest.system}, costs {_money(cheapest, goal)}")
    return f"none meets {' and '.join(_limits(goal).values())}: {', '.join(parts)}"


def _why(rows: Sequence[RentalRow], chosen: RentalRow, goal: Goal) -> str:
    fit = [row for row in rows if not row.misses]
    best = {"cost": "costs least", "seconds": "is fastest", "gpu_hours": "takes fewest GPU-hours"}
    among = f"{best[goal.objective]} of {len(fit):,}"
    if _limits(goal):
        among = f"{best[goal.objective]} of the {len(fit):,} that meet what is asked"
    if len(fit) == 1:
        among = "is the only one that meets what is asked" if _limits(goal) else "is the only one"
    paid = "" if goal.currency is None else f", {_money(chosen, goal)}"
    at = "" if chosen.other_budget is None else f" at {chosen.other_budget:,} tokens a step"
    text = (
        f"{chosen.system} with {chosen.row.policy}{at} is chosen: it {among}. Predicted: "
        f"{_seconds(chosen)}, {spend(chosen.gpu_hours)} GPU-hours{paid}."
    )
    if len(fit) == 1:
        return text
    second = min((row for row in fit if row is not chosen), key=lambda r: r.rank(goal.objective))
    return f"{text} Next is {second.system}, {_more(chosen, second, goal)}."


def _more(chosen: RentalRow, second: RentalRow, goal: Goal) -> str:
    """How much worse the second is at what is to be least."""
    if goal.objective == "seconds":
        first, other, what = chosen.row.predicted_seconds, second.row.predicted_seconds, "time"
    else:
        first, other = chosen.spent(), second.spent()
        what = "money" if goal.objective == "cost" else "GPU-hours"
    if other <= first * (1 + NEAR):
        return f"for as much {what}" if what != "GPU-hours" else "for as many GPU-hours"
    return f"for {other / first - 1:.1%} more {what}" if first else f"for {_money(second, goal)}"


def _faster(rows: Sequence[RentalRow], chosen: RentalRow, goal: Goal) -> list[str]:
    """The cheapest ways to be faster than the chosen system, whatever limits they miss."""
    steps: list[RentalRow] = []
    soonest = chosen.row.predicted_seconds * (1 - NEAR)
    for row in sorted(rows, key=lambda row: (row.spent(), row.row.predicted_seconds)):
        if row.row.predicted_seconds < soonest:
            steps.append(row)
            soonest = row.row.predicted_seconds * (1 - NEAR)
    if not steps:
        return []
    shown = [f"{_seconds(row)} for {_money(row, goal)} ({row.system})" for row in steps[:_SHOWN]]
    if len(steps) > _SHOWN:
        last = steps[-1]
        shown[-1] = f"down to {_seconds(last)} for {_money(last, goal)} ({last.system})"
    return [f"Sooner: {', '.join(shown)}."]


def _missed(rows: Sequence[RentalRow], goal: Goal) -> list[str]:
    missed = [
        f"{count:,} miss {limit}"
        for kind, limit in _limits(goal).items()
        if (count := sum(kind in row.misses for row in rows))
    ]
    return [f"Of {len(rows):,} systems {' and '.join(missed)}."] if missed else []


def _limits(goal: Goal) -> dict[str, str]:
    """The limits that are asked for, in words."""
    limits = {}
    if goal.deadline is not None:
        limits["deadline"] = f"the deadline of {goal.deadline:,.10g} s"
    if goal.max_cost is not None:
        limits["cost"] = f"the cost limit of {goal.max_cost:,.10g} {goal.currency}"
    return limits


def _seconds(row: RentalRow) -> str:
    return f"{row.row.predicted_seconds:,.1f} s"


def _money(row: RentalRow, goal: Goal) -> str:
    if goal.currency is None:
        return f"{spend(row.gpu_hours)} GPU-hours"
    return f"{spend(row.cost)} {goal.currency}"
