"""Reading result tables of runs: speed-ups and how to write them."""

from collections.abc import Iterable, Mapping, Sequence

from paper_repro.claims import Verdict
from paper_repro.runs import COMMON
from paper_repro.systems import BEYOND, DFS
from paper_repro.table import Table


def speedups(
    runs: Table, ours: str, other: str, at: str = COMMON, **where: str
) -> dict[str, float]:
    """By trace, how many times as fast `ours` is as `other`."""
    found = {}
    for row in runs.records(at=at, system=ours, **where):
        rival = runs.record(at=at, system=other, trace=row["trace"], **where)
        found[row["trace"]] = row["tokens_per_second"] / rival["tokens_per_second"]
    return found


def shares(runs: Table, system: str, at: str = COMMON, **where: str) -> dict[str, float]:
    """By trace, the share of the practical optimum."""
    rows = runs.records(at=at, system=system, **where)
    return {row["trace"]: row["share_of_optimum"] for row in rows}


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean."""
    found = list(values)
    return sum(found) / len(found)


def percent(ratio: float) -> str:
    """A speed-up as the gain it is."""
    return f"{100 * (ratio - 1):+.1f} %"


def spread(ratios: Sequence[float]) -> str:
    """Least, most and mean of gains."""
    if len(ratios) == 1:
        return percent(ratios[0])
    return f"{percent(min(ratios))} … {percent(max(ratios))}, mean {percent(mean(ratios))}"


def in_per_cent(share: float, digits: int = 1) -> str:
    """A share of a whole in per cent."""
    return f"{100 * share:.{digits}f} %"


def between(values: Sequence[float], digits: int = 1) -> str:
    """Least and most of some shares."""
    return f"{in_per_cent(min(values), digits)} … {in_per_cent(max(values), digits)}"


def with_ours(verdict: Verdict, runs: Table, **where: str) -> Verdict:
    """The verdict, and in its words what our own policies gain over prefix order in these runs."""
    gains = {name: [*speedups(runs, name, DFS, **where).values()] for name in BEYOND}
    return noting_ours(verdict, {name: spread(found) for name, found in gains.items() if found})


def noting_ours(verdict: Verdict, found: Mapping[str, str]) -> Verdict:
    """The verdict, and in its words what was found of our own policies, by their names."""
    notes = [f"{name}, which is ours: {shown}" for name, shown in found.items()]
    return verdict._replace(words="; ".join([verdict.words, *notes]))
