"""Two simulated runs of one pool: why one takes longer than the other. Both have an account of
their seconds, and the difference of the runs is the sum of the differences of its parts.
"""

from dataclasses import dataclass
from typing import NamedTuple

from blendsim.errors import InputError
from blendsim.perf.pricing import StepWork
from blendsim.report.account import CAUSES, WORK
from blendsim.report.gist import Gist, limit_asked
from blendsim.report.losses import Losses
from blendsim.report.opening import seconds_text
from blendsim.steplog import StepLog
from blendsim.wording import listing

BOUND = "bound"  # of the work: another engine or GPU may have another
_BOUND_WORDS = (BOUND, "the work itself is priced for another engine or GPU")
_ROUNDING = 1e-6  # of a bound: what two programs that are the same may differ by
_SAME = 0.0005  # of the seconds: a difference that is not told
#: Of the difference: a part of that size is named. The largest of eight that add up to it is.
_NAMED = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One of two runs."""

    name: str  # of the log's file
    log: StepLog
    figures: Gist
    capacity_blocks: int | None  # of a replica
    work: StepWork | None
    account: Losses | None
    no_account: str  # why there is none
    notes: list[str]  # one sentence each


class Part(NamedTuple):
    """Seconds of both runs under one head of the account."""

    cause: str  # BOUND or one of Losses.causes
    first: float
    second: float

    @property
    def more(self) -> float:
        """By how many seconds the first run is the longer here."""
        return self.first - self.second


@dataclass(frozen=True, slots=True, eq=False)
class Contrast:
    """A run, and a second one of the same pool that it is held against."""

    first: Side
    second: Side

    @property
    def parts(self) -> list[Part]:
        """Both accounts, head by head: they add up to both runs. None where one is lacking."""
        one, other = self.first.account, self.second.account
        if one is None or other is None:
            return []
        both = one.causes, other.causes
        causes = [Part(cause, both[0][cause], both[1][cause]) for cause in one.causes]
        return [Part(BOUND, one.bound, other.bound), *causes]

    @property
    def second_notes(self) -> list[str]:
        """The notes on the second run alone, by its name."""
        return [f"{self.second.name}: {note}" for note in self.second.notes]

    @property
    def told(self) -> str:
        """By how much the first is slower or faster, and where most of that lies."""
        first, second = self.first, self.second
        taken = first.figures.seconds, second.figures.seconds
        more = taken[0] - taken[1]
        if abs(more) < _SAME * taken[1]:
            return f"{first.name} and {second.name} take equally long: {seconds_text(taken[0])} s."
        text = (
            f"{first.name} takes {seconds_text(abs(more))} s {'longer' if more > 0 else 'less'} "
            f"than {second.name} ({taken[0] / taken[1] - 1:+.1%})"
        )
        parts = self.parts
        if not parts:
            lacking = first if first.account is None else second
            why = lacking.no_account or "its pool cannot be read"
            return f"{text}; where that lies is not told: {lacking.name}: {why}."
        sign = 1 if more > 0 else -1
        ranked = sorted(parts, key=lambda part: -sign * part.more)
        named = [part for part in ranked if sign * part.more >= _NAMED * abs(more)]
        part = sign * named[0].more / abs(more)
        most = "all of it and more" if part > 1 + _SAME else "most of it"
        most = most if part >= 0.5 else "the largest part"
        word, meaning = words(named[0])
        seconds = seconds_text(sign * named[0].more)
        text += f"; {most}, {seconds} s, is “{word}”: {meaning}."
        if len(named) > 1:
            text += f" Then come {listing([_said(part, sign) for part in named[1:]])}."
        back = [part for part in reversed(ranked) if -sign * part.more >= _NAMED * abs(more)]
        if back:
            text += f" The other way go {listing([_said(part, -sign) for part in back])}."
        return text


def require_same_pool(first: StepLog, second: StepLog, name: str) -> None:
    """InputError unless both logs count the same requests, prompt and output tokens; `name` is the
    second's.
    """
    one, other = _served(first), _served(second)
    for what, value in one.items():
        if other.get(what, value) != value:
            raise InputError(
                f"--against {name}: is of {other[what]:,} {what}, the first log of {value:,}; give "
                "two whole runs of one pool"
            )


def _served(log: StepLog) -> dict[str, int]:
    """What a run served, by the log's counts; without prompts where some were computed again."""
    served = {
        "requests": int(log.count("finished").sum()),
        "output tokens": int(log.count("sampled_tokens").sum()),
    }
    if not log.count("preempted").any():
        prompts = log.count("prefill_tokens").sum() + log.count("hit_tokens").sum()
        served["prompt tokens"] = int(prompts)
    return served


def words(part: Part) -> tuple[str, str]:
    """What a head of the account is called, and what it means."""
    if part.cause != BOUND:
        return CAUSES[part.cause]
    return _BOUND_WORDS if abs(part.more) > _ROUNDING * part.second else (BOUND, WORK)


def label(side: Side) -> str:
    """What a run was, in a few words: policy, engine and limits, as far as its log says."""
    budget, limit = side.figures.token_budget, limit_asked(side.log, side.figures)
    told = [side.figures.policy, side.figures.engine, f"{budget:,} tokens" if budget else None]
    told.append(f"{limit:,} at a time" if limit else None)
    return ", ".join(filter(None, told))


def _said(part: Part, sign: int) -> str:
    return f"{seconds_text(sign * part.more)} s of “{words(part)[0]}”"
