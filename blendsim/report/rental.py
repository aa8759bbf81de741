"""What to rent: a row a system, what it costs, which of the user's limits it misses.

Everything that decides goes by predicted seconds, and by seconds in worlds that what planning sees
leaves possible. The true lengths, where a trace has them, only show what the prediction was worth.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from blendsim.report.metrics import Row, as_json
from blendsim.report.tables import Column, lay_out, number, policy_at, seconds_cells, share

SPARED = 1  # of the worlds a system may miss a limit in so many, and still meets it reliably
_LITTLE = 1.0  # of money or GPU-hours: below it two decimals say too little
_COUNT = 3  # digits that count of less than a hundredth
_MOST_DIGITS = 8


class Goal(NamedTuple):
    """What the user wants of a system."""

    deadline: float | None = None  # seconds the run may take
    max_cost: float | None = None  # money it may cost
    currency: str | None = None  # of all costs; None where no prices are given

    @property
    def objective(self) -> str:
        """What is least in the best row: cost where there are prices, unless money has a limit and
        time has none.
        """
        if self.currency is None:
            return "gpu_hours"
        return "seconds" if self.max_cost is not None and self.deadline is None else "cost"

    def missed(self, seconds: float, cost: float | None) -> tuple[str, ...]:
        """Which limits a run of these seconds and this cost misses."""
        late = self.deadline is not None and seconds > self.deadline
        dear = self.max_cost is not None and (cost is None or cost > self.max_cost)
        return (*(["deadline"] if late else []), *(["cost"] if dear else []))


@dataclass(frozen=True, slots=True)
class RentalRow:
    """One system and the policy that is best there. GPU-hours and costs are of the whole run, all
    GPUs held until the last replica ends.
    """

    gpu: str
    weights: str | None  # their format where systems differ in it
    tp: int
    pp: int
    dp: int
    pools: str | None  # of prefill and decode replicas, such as 1P2D, instead of dp equal ones
    row: Row
    other_budget: int | None  # tokens a step, where another than the engine's own is better
    other_limit: int | None  # requests at a time, where fewer than the engine's own are better
    gpu_hours: float
    billed_gpu_hours: float | None  # in the units that are sold; None without prices
    cost: float | None
    cost_per_million_tokens: float | None  # input and output tokens
    offer: str | None  # the cheapest one's name
    misses: tuple[str, ...]  # of "deadline" and "cost", by prediction
    notes: tuple[str, ...]  # what was extrapolated
    worlds: tuple[float, ...] | None = None  # seconds in each, ascending; None where not run
    misses_in: Mapping[str, int] = field(default_factory=dict)  # of them, by limit, if any
    longest_seconds: float = 0.0  # of the longest request alone at best, however many replicas

    @property
    def kind(self) -> str:
        """The kind of its replicas in a few words."""
        return kind_name(self.gpu, self.tp, self.pp, self.weights)

    @property
    def system(self) -> str:
        """The system in a few words."""
        return system_name(self.kind, self.dp, self.pools)

    @property
    def policy(self) -> str:
        """The policy that is best there, with what of token budget and running limit is not the
        engine's.
        """
        return policy_at(self.row.policy, self.other_budget, self.other_limit)

    @property
    def worlds_missed(self) -> int:
        """Worlds in which it misses a limit. More time is more cost, so that those that miss one
        limit are among those that miss the other.
        """
        return max(self.misses_in.values(), default=0)

    @property
    def is_doubtful(self) -> bool:
        """It meets the limits by prediction, and not reliably."""
        return not self.misses and self.worlds_missed > SPARED

    def spent(self) -> float:
        """Money, or GPU-hours where there are no prices."""
        return self.gpu_hours if self.cost is None else self.cost

    def rank(self, objective: str) -> tuple[bool, int, float, float, int]:
        """Sorts rows, the best first: those that miss nothing as far as they were run, those that
        are doubtful by how often they miss, and the others; then by what is to be least.
        """
        seconds = self.row.predicted_seconds
        pair = (seconds, self.spent()) if objective == "seconds" else (self.spent(), seconds)
        often = self.worlds_missed if self.is_doubtful else 0
        return (bool(self.misses), often, *pair, self.row.gpus)


def kind_name(gpu: str, tp: int, pp: int, weights: str | None) -> str:
    """A kind of replica in a few words, which are those of the options."""
    stages = f" pp {pp}" if pp > 1 else ""
    return f"{gpu}{'' if weights is None else f' in {weights}'} tp {tp}{stages}"


def system_name(kind: str, dp: int, pools: str | None) -> str:
    """A system in a few words: so many replicas of a kind, or its pools."""
    return f"{kind} {pools or f'dp {dp}'}"


def rental_json(row: RentalRow, chosen: RentalRow | None) -> dict[str, Any]:
    """The row under its public keys: those of the policy that is best there, and the system's."""
    without = ("row", "other_budget", "other_limit")
    own = {key: value for key, value in asdict(row).items() if key not in without}
    return own | as_json(row.row) | {"chosen": row is chosen}


def rental_table(
    rows: Sequence[RentalRow], chosen: RentalRow | None, goal: Goal, width: int
) -> list[str]:
    """A line a system, the chosen one marked. All but `seconds` goes by prediction."""
    told, stages = [row.weights or "" for row in rows], any(row.pp > 1 for row in rows)
    columns = [
        Column("gpu", [f"{'*' if row is chosen else ' '} {row.gpu}" for row in rows], is_text=True),
        *([Column("weights", told, is_text=True)] if any(told) else []),
        Column("tp", [number(row.tp) for row in rows]),
        *([Column("pp", [number(row.pp) for row in rows])] if stages else []),
        Column("dp", [row.pools or number(row.dp) for row in rows]),
        Column("policy", [row.policy for row in rows], is_text=True),
        Column("predicted", seconds_cells([row.row.predicted_seconds for row in rows])),
        Column("GPU-hours", _spends([row.gpu_hours for row in rows])),
        *_money_columns(rows, goal),
        Column("of reachable", [share(row.row.share_of_reachable) for row in rows], 2),
        Column("seconds", seconds_cells([row.row.seconds for row in rows]), 1),
    ]
    if goal.deadline is not None or goal.max_cost is not None:
        columns.append(Column("misses", [_missed(row) for row in rows], is_text=True))
    return lay_out(columns, width)


def _missed(row: RentalRow) -> str:
    """The limits that it misses, of a doubtful row with the share of the worlds; – for none."""
    if not row.is_doubtful:
        return ", ".join(row.misses) or "–"
    assert row.worlds is not None, "doubts are from worlds"
    return ", ".join(f"{kind} {n}/{len(row.worlds)}" for kind, n in row.misses_in.items())


def _money_columns(rows: Sequence[RentalRow], goal: Goal) -> list[Column]:
    if goal.currency is None:
        return []
    columns = [
        Column(f"cost, {goal.currency}", _spends([row.cost for row in rows])),
        Column("per M tokens", [number(row.cost_per_million_tokens, 4) for row in rows]),
    ]
    if any(row.offer for row in rows):
        columns.append(Column("offer", [row.offer or "" for row in rows], 3, is_text=True))
    return columns


def _spends(amounts: Sequence[float | None]) -> list[str]:
    """A column of money or GPU-hours, all with as many digits as the least of them needs."""
    digits = max(map(_digits, amounts), default=0)
    return [number(amount, digits) for amount in amounts]


def spend(amount: float | None) -> str:
    """Money or GPU-hours, with more digits where there is little of it."""
    return number(amount, _digits(amount))


def _digits(amount: float | None) -> int:
    if amount is None or not 0 < amount < _LITTLE:
        return 2
    return min(max(4, _COUNT - 1 - math.floor(math.log10(amount))), _MOST_DIGITS)
