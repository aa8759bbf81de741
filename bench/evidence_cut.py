"""Tables of steps cut in two, where a run that is kept measured them (gpu_cut.py): what each way
takes far ahead and in a row, what its lanes take alone, and which kernels the time goes to.
"""

import json
from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

from evidence_runs import Run
from machine import row

CUT = "cut.json"
WHOLE, ONE_STREAM = "whole", "halves, one stream"
ALL, GEMMS, ATTENTION = "all", "without decode attention", "decode attention alone"
_SPLIT, _SMS = "halves, ", " SMs"
_KINDS = ("gemm", "decode attention", "prefill attention", "small")
Found = dict[str, Any]


class Least(NamedTuple):
    """What the GPU needs for a way: milliseconds without waits for the host."""

    ms: float
    is_exact: bool  # else the host was not far ahead, and this is the lesser of what was seen

    def __str__(self) -> str:
        return f"{'' if self.is_exact else '≤ '}{self.ms:.1f}"


class InARow(NamedTuple):
    """What a way takes as an engine runs it: one run behind another."""

    ms: float
    megahertz: float


class Cuts:
    """The ways that steps were run in."""

    def __init__(self, found: list[Found]) -> None:
        told = [f for f in found if f["what"] == "step"]
        self.steps: list[str] = list(dict.fromkeys(f["step"] for f in told))
        self.traces = [f for f in found if f["what"] == "trace"]
        self._of = {(f["step"], f["way"], f["part"]): f for f in told}

    def way(self, step: str, way: str, part: str = ALL) -> Found:
        """One way."""
        return self._of[step, way, part]

    def splits(self, step: str, part: str = ALL) -> list[str]:
        """The ways on parts of the SMs in which that part of a step was run."""
        return [w for s, w, p in self._of if (s, p) == (step, part) and w.endswith(_SMS)]

    def sms(self, way: str) -> int:
        """Attention's SMs of such a way."""
        return int(way.removeprefix(_SPLIT).removesuffix(_SMS))

    def best(self, step: str) -> str:
        """The split that takes the GPU least time."""
        return min(self.splits(step), key=lambda way: least(self.way(step, way)).ms)


def read_cuts(runs: list[Run]) -> Cuts | None:
    """Of the last run that cut steps; None where no run did."""
    for run in reversed(runs):
        path = run.place / CUT
        if path.exists():
            return Cuts(json.loads(path.read_text()))
    return None


def cut_tables(runs: list[Run]) -> dict[str, list[str]]:
    """The tables of the last run that has them, by name; none where no run has."""
    cuts = read_cuts(runs)
    if cuts is None:
        return {}
    return {
        "cut-steps": list(_steps(cuts)),
        "cut-lanes": list(_lanes(cuts)),
        "cut-traces": list(_traces(cuts)),
    }


def least(found: Found) -> Least:
    """Far ahead; where the host was not, no more than that nor than in a row."""
    ahead = 1e3 * _middle(found["ahead"], "seconds")
    if found["is_ahead"]:
        return Least(ahead, True)
    return Least(min(ahead, in_a_row(found).ms), False)


def slowing(one: float, other: float, together: float) -> float:
    """How much longer each lane takes while both run: the shorter runs wholly beside the longer,
    so together = s·short + (long − short).
    """
    short, long = sorted((one, other))
    return 1.0 + (together - long) / short


def _steps(cuts: Cuts) -> Iterator[str]:
    """Each step whole, in halves one after the other, and on the best parts."""
    head = ("step", "way", "far ahead, ms", "to whole", "MHz", "in a row, ms", "to whole", "MHz")
    yield row(*head, "host, ms")
    yield row(*["---"] * (len(head) + 1))
    for step in cuts.steps:
        whole = cuts.way(step, WHOLE)
        for way in (WHOLE, ONE_STREAM, cuts.best(step)):
            found = cuts.way(step, way)
            ahead, run = least(found), in_a_row(found)
            yield row(
                step,
                way,
                str(ahead),
                f"{ahead.ms / least(whole).ms:.2f}",
                f"{_middle(found['ahead'], 'megahertz'):,.0f}",
                f"{run.ms:.1f}",
                f"{run.ms / in_a_row(whole).ms:.2f}",
                f"{run.megahertz:,.0f}",
                f"{1e3 * found['host']:.0f}",
            )


def _lanes(cuts: Cuts) -> Iterator[str]:
    """What the time of a step on parts is made of, far ahead: one cause more in every column."""
    head = ("step", "attention's SMs", "whole", "halves in turn", "GEMM lane", "attention lane")
    more = ("together", "slowed by", "to halves in turn", "in a row")
    yield row(*head, *more)
    yield row(*["---"] * (len(head) + len(more)))
    for step in cuts.steps:
        for way in cuts.splits(step, ATTENTION):
            found = cuts.way(step, way)
            lanes = [least(cuts.way(step, way, part)) for part in (GEMMS, ATTENTION)]
            together, halves = least(found), least(cuts.way(step, ONE_STREAM))
            yield row(
                step,
                str(cuts.sms(way)),
                str(least(cuts.way(step, WHOLE))),
                str(halves),
                *map(str, lanes),
                str(together),
                f"{slowing(lanes[0].ms, lanes[1].ms, together.ms):.2f}",
                f"{together.ms / halves.ms:.2f}",
                f"{in_a_row(found).ms:.1f}",
            )


def _traces(cuts: Cuts) -> Iterator[str]:
    """Kernels' milliseconds far ahead, as the profiler saw them."""
    names = ("GEMMs", "decode attention", "prefill attention", "small", "nothing runs", "two run")
    yield row("step", "way", "ms", *names, "kernels")
    yield row(*["---"] * (len(names) + 4))
    for found in cuts.traces:
        if found["how"] != "far ahead":
            continue
        kinds = (found["kinds"].get(kind, 0.0) for kind in _KINDS)
        times = (found["seconds"], *kinds, found["idle"], found["together"])
        cells = (f"{1e3 * seconds:.1f}" for seconds in times)
        yield row(found["step"], found["way"], *cells, f"{found['kernels']:.0f}")


def in_a_row(found: Found) -> InARow:
    """The second half of a row, when the clock is what the power limit leaves."""
    runs = found["row"][len(found["row"]) // 2 :]
    return InARow(1e3 * _middle(runs, "seconds"), _middle(runs, "megahertz"))


def _middle(runs: list[Found], name: str) -> float:
    return float(median(run[name] for run in runs))
