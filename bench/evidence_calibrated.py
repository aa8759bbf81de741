"""Tables of the shipped calibrations: every run that came to its end on the pools that fill the
cache, by kernels alone and by what steps were found to take beyond them.

Which runs a calibration was fitted to stands in its file; the others judge it.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from evidence_engines import DFS, OURS, VLLM, EngineRun, bases_of, engine_runs
from evidence_runs import OVERLAP, system_of
from evidence_runs import Run as Visit
from gpu_vllm import PLAN, Asked
from machine import row

from blendsim.perf.calibrating import MeasuredSteps, priced_run
from blendsim.perf.calibration import SCHEMA, VERSION, Calibration, file_of, read_calibrations
from blendsim.perf.measured import MEASURED, chosen_model, shipped_place
from blendsim.perf.records import read_toml
from blendsim.serving.flavour import BLENDRT, VLLM_PLANNED

_KEPT = "bench/results/h200"  # as the command was given them
_FILLED = "filled"


class Held(NamedTuple):
    """A run: its steps that decode, and the calibration of its runtime."""

    of: EngineRun
    file: str  # as calibrations name it
    run: MeasuredSteps
    by: Calibration
    is_fitted: bool  # the calibration is of this run, among others

    @property
    def kernels(self) -> Calibration:
        """What kernels alone say."""
        return Calibration(self.by.runtime)

    def over(self, other: "Held") -> tuple[float, float, float]:
        """How many times as long the other one takes: measured, by kernels alone, calibrated."""
        measured = other.run.seconds.sum() / self.run.seconds.sum()
        said = (
            other.run.priced(theirs).sum() / self.run.priced(ours).sum()
            for ours, theirs in ((self.kernels, other.kernels), (self.by, other.by))
        )
        return float(measured), *map(float, said)


def held_runs(visits: list[Visit]) -> list[Held]:
    """By pool, then visit; the slowest first."""
    found = [_held(one) for one in engine_runs(visits) if one.is_whole and _FILLED in one.pool]
    return sorted(found, key=lambda held: (held.of.pool, visits.index(held.of.visit)))


def _held(one: EngineRun) -> Held:
    system = system_of(one.log)
    place, runtime = shipped_place(system), BLENDRT if one.engine == OURS else VLLM
    by = next(each for each in read_calibrations(place) if each.runtime == runtime)
    told = read_toml(place / file_of(runtime), SCHEMA, VERSION)["logs"]
    file = _file(one)
    run = priced_run(one.log, chosen_model(system, "auto", MEASURED))
    return Held(one, file, run, by, any(line.split(":")[0] == file for line in told))


def _file(one: EngineRun) -> str:
    if one.engine == OURS:
        return f"{_KEPT}/{one.visit.name}/{one.pool}-{one.policy}-{OVERLAP}.parquet"
    scheduler = PLAN if one.engine == VLLM_PLANNED else VLLM
    asked = Asked(one.pool, one.policy, scheduler, one.budget, one.running)
    return f"{_KEPT}/{one.visit.name}/{VLLM}/{asked.stem}.parquet"


def calibrated_table(visits: list[Visit]) -> Iterator[str]:
    """How far sums of steps, and half of the steps, are off."""
    yield row(
        "pool", "run", "engine, order, token budget", "seconds",
        "kernels alone", "a step", "calibrated", "a step", "fitted to it",
    )  # fmt: skip
    yield row(*["---"] * 9)
    for held in held_runs(visits):
        errors = (held.run.error(held.kernels), held.run.error(held.by))
        yield row(
            held.of.pool,
            held.of.visit.name,
            held.of.name,
            f"{held.run.seconds.sum():.1f}",
            *(cell for total, step in errors for cell in (f"{total:+.1%}", f"{step:.1%}")),
            "yes" if held.is_fitted else "",
        )


def gains(visits: list[Visit]) -> Iterator[tuple[Held, Held]]:
    """Every run beside prefix order of the same runtime, visit and pool, and beside vLLM's by
    itself (`bases_of`).
    """

    def where(held: Held) -> tuple[str, str]:
        return held.of.pool, held.of.visit.name

    for _, group in groupby(held_runs(visits), where):
        found = list(group)
        own = [held for held in found if (held.of.engine, held.of.policy) == (OURS, DFS)]
        for held in found:
            if held.of.engine == OURS:
                yield from ((held, base) for base in own if base is not held)
            theirs = bases_of(held.of, [each.of for each in found])
            yield from ((held, each) for base in theirs for each in found if each.of is base)


def calibrated_gain_table(visits: list[Visit]) -> Iterator[str]:
    """How much faster, measured and by both."""
    head = ("pool", "run", "faster", "than", "measured", "kernels alone", "error", "calibrated")
    yield row(*head, "error", "fitted to both")
    yield row(*["---"] * (len(head) + 2))
    for held, base in gains(visits):
        measured, *said = held.over(base)
        cells = (cell for x in said for cell in (f"{x:.3f}", f"{x / measured - 1.0:+.1%}"))
        both = "yes" if held.is_fitted and base.is_fitted else ""
        pool, visit = held.of.pool, held.of.visit.name
        yield row(pool, visit, held.of.name, base.of.name, f"{measured:.3f}", *cells, both)
