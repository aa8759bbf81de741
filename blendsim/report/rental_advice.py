"""Why a system is chosen to be rented, what more money buys, and what the limits rule out."""

from collections.abc import Sequence

from blendsim.report.rental import Goal, RentalRow, spend
from blendsim.report.rental_replicas import replicas_advice
from blendsim.report.tables import at_limits, seconds

NEAR = 0.0005  # a difference that the printed per cent does not show
_SHOWN = 4  # ways to be faster that are told


def rental_advice(rows: Sequence[RentalRow], chosen: RentalRow | None, goal: Goal) -> list[str]:
    """Sentences for the user: what is chosen and why, what more money buys, what the limits rule
    out, how rows rank.
    """
    if chosen is None:
        told = [f"No system is chosen: {nothing_meets(rows, goal)}.", *replicas_advice(rows, goal)]
    else:
        doubted = _doubted(rows, chosen)
        told = [_why(rows, chosen, goal), *doubted, *_faster(rows, chosen, goal)]
        told += _missed(rows, goal)
    if goal.currency is None:
        told.append(
            "No prices are given: systems rank by GPU-hours, in which an hour of every GPU counts "
            "alike; --price FILE ranks them by cost."
        )
    return told


def nothing_meets(rows: Sequence[RentalRow], goal: Goal) -> str:
    """Half a sentence: no system meets the limits, and how near the nearest come."""
    limits = " and ".join(_limits(goal).values())
    if len(rows) == 1:
        paid = "" if goal.max_cost is None else f" and costs {_money(rows[0], goal)}"
        return f"{rows[0].system} does not meet {limits}: it takes {_seconds(rows[0])}{paid}"
    parts = []
    if goal.deadline is not None:
        fastest = min(rows, key=lambda row: row.row.predicted_seconds)
        parts.append(f"the fastest, {fastest.system}, takes {_seconds(fastest)}")
    if goal.max_cost is not None:
        cheapest = min(rows, key=RentalRow.spent)
        parts.append(f"the cheapest, {cheapest.system}, costs {_money(cheapest, goal)}")
    return f"none meets {limits}: {', '.join(parts)}"


def limits_missed(row: RentalRow, goal: Goal) -> dict[str, int]:
    """In how many of the worlds that it was run in a system misses each limit, in words; those that
    it meets in all are left out.
    """
    return {limit: row.misses_in[k] for k, limit in _limits(goal).items() if k in row.misses_in}


def _why(rows: Sequence[RentalRow], chosen: RentalRow, goal: Goal) -> str:
    fit = [row for row in rows if not row.misses and row.is_doubtful == chosen.is_doubtful]
    among = _among(rows, fit, chosen, goal)
    paid = "" if goal.currency is None else f", {_money(chosen, goal)}"
    at = at_limits(chosen.other_budget, chosen.other_limit)
    text = (
        f"{chosen.system} with {chosen.row.policy}{at} is chosen: it {among}. Predicted: "
        f"{_seconds(chosen)}, {spend(chosen.gpu_hours)} GPU-hours{paid}."
    )
    if chosen.is_doubtful:
        return f"No system meets what is asked reliably. {text}"
    if len(fit) == 1:
        return text
    second = min((row for row in fit if row is not chosen), key=lambda r: r.rank(goal.objective))
    by = " by prediction" if chosen.worlds and _limits(goal) else ""  # it was not run in worlds
    return f"{text} Next{by} is {second.system}, {_more(chosen, second, goal)}."


def _among(
    rows: Sequence[RentalRow], fit: Sequence[RentalRow], chosen: RentalRow, goal: Goal
) -> str:
    """Half a sentence: what is best in the chosen one of those `fit` to be chosen."""
    best = {"cost": "costs least", "seconds": "is fastest", "gpu_hours": "takes fewest GPU-hours"}
    if chosen.is_doubtful:
        misses = f"misses it in {_share_of_worlds([chosen])}"
        if len(fit) == 1:
            return f"is the only one that meets what is asked by prediction, and {misses}"
        others = [row.worlds_missed for row in fit if row is not chosen]
        rarely = "fewer" if min(others) > chosen.worlds_missed else "no more"
        return (
            f"meets what is asked by prediction, as {len(fit):,} do, and {misses}, {rarely} than "
            "any other"
        )
    if len(rows) == 1:
        return "meets what is asked" if _limits(goal) else "is the only one asked for"
    if len(fit) == 1:  # which it can only be by the limits
        return "is the only one that meets what is asked"
    by = " by prediction" if chosen.worlds else ""
    asked = f"the {len(fit):,} that meet what is asked{by}" if _limits(goal) else f"{len(fit):,}"
    return f"{best[goal.objective]} of {asked}"


def _share_of_worlds(rows: Sequence[RentalRow]) -> str:
    """In how many worlds these miss a limit."""
    missed = sorted(row.worlds_missed for row in rows)
    worlds = len(rows[0].worlds or ())
    several = f"{missed[0]} to {missed[-1]}" if missed[-1] > missed[0] else f"{missed[0]}"
    return f"{several} of {worlds} possible worlds"


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
        f"{count:,} {'misses' if count == 1 else 'miss'} {limit}"
        for kind, limit in _limits(goal).items()
        if (count := sum(kind in row.misses for row in rows))
    ]
    return [f"Of {len(rows):,} systems {' and '.join(missed)}."] if missed else []


def _doubted(rows: Sequence[RentalRow], chosen: RentalRow) -> list[str]:
    """Those that would have been chosen if their prediction could be relied on."""
    doubtful = [row for row in rows if row.is_doubtful]
    if not doubtful or chosen.is_doubtful:
        return []
    one = len(doubtful) == 1
    who = doubtful[0].system if one else f"{len(doubtful):,} others"
    return [
        f"{who} would come before it by prediction, but {'misses' if one else 'miss'} what is "
        f"asked in {_share_of_worlds(doubtful)}."
    ]


def _limits(goal: Goal) -> dict[str, str]:
    """The limits that are asked for, in words."""
    limits = {}
    if goal.deadline is not None:
        limits["deadline"] = f"the deadline of {goal.deadline:,.10g} s"
    if goal.max_cost is not None:
        limits["cost"] = f"the cost limit of {goal.max_cost:,.10g} {goal.currency}"
    return limits


def _seconds(row: RentalRow) -> str:
    return f"{seconds(row.row.predicted_seconds)} s"


def _money(row: RentalRow, goal: Goal) -> str:
    if goal.currency is None:
        return f"{spend(row.gpu_hours)} GPU-hours"
    return f"{spend(row.cost)} {goal.currency}"
