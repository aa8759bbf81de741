"""What cut_model.py says of the steps that gpu_cut.py ran, beside what they took.

    PYTHONPATH=.:runtime python bench/cut_said.py

Kernels are those of the last run that measured parts of the GPU, steps of the last that cut some.
Both are milliseconds, said / took; "together" is far ahead, at the clock that kernels were
measured at, "in a row" at the clock that such a row had.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cut_model import Kernels, Parts, account, half_of
from evidence_cut import ATTENTION, CUT, GEMMS, ONE_STREAM, WHOLE, Cuts, in_a_row, least, slowing
from evidence_parts import PARTITIONS
from evidence_runs import OVERLAP, Run, read_runs, system_of
from experiments.cutting import SIZES, Size
from machine import row

from blendsim.batch import Batch
from blendsim.perf.model import step_model
from blendsim.perf.overlap import SUM
from blendsim.perf.store import read_profile

HIGHEST = 1980.0  # MHz, the clock of kernels' bursts
SLOWED = 4  # of the columns, a ratio
RESULTS = Path(__file__).parent / "results" / "h200"
_HEAD = (
    "step",
    "attention's SMs",
    "whole",
    "halves in turn",
    "GEMM lane",
    "attention lane",
    "slowed by",
    "together",
    "in a row",
)


def batch_of(size: Size) -> Batch:
    """The counts of a step, its prompt's chunk the first one."""
    chunks = int(size.prefill > 0)
    counts = {
        "prefill_tokens": size.prefill,
        "prefill_requests": chunks,
        "prefill_pairs": size.prefill * (size.prefill + 1) // 2,
        "decode_requests": size.decodes,
        "context_tokens": size.decodes * size.context,
        "sampled_tokens": size.decodes + chunks,
    }
    return Batch(**counts)


def kernels_of(run: Run) -> Kernels:
    """What a run measured of kernels."""
    profile = read_profile(run.profile)
    parts = Parts(json.loads((run.place / PARTITIONS).read_text()))
    log = next(replay.log for replay in run.replays if replay.executor == OVERLAP)
    return Kernels(step_model(system_of(log), SUM, profile), profile, parts)


def said(size: Size, sms: int, kernels: Kernels, clock: float) -> list[float]:
    """Milliseconds of a step by cut_model.py, in the order of the table."""
    counts = batch_of(size)
    told = account(counts, kernels, sms, clock, 0.0)
    half = half_of(counts, kernels, sms)
    layers = kernels.model.system.model.layers
    head = 1e3 * float(kernels.model.tables.head[counts.sampled_tokens])
    lanes = (2e3 * layers * seconds + head for seconds in (half.dense, half.decode))
    slow = kernels.parts.slowing(sms)
    return [told.whole, told.halves, *lanes, slow, told.scheduled, told.at_clock]


def took(size: Size, way: str, cuts: Cuts) -> list[str]:
    """What was measured of the same."""
    name = size.name
    found = cuts.way(name, way)
    lanes = [least(cuts.way(name, way, part)) for part in (GEMMS, ATTENTION)]
    together = least(found)
    slow = slowing(lanes[0].ms, lanes[1].ms, together.ms)
    whole, halves = (least(cuts.way(name, one)) for one in (WHOLE, ONE_STREAM))
    told: list[Any] = [whole, halves, *lanes, f"{slow:.2f}", together, f"{in_a_row(found).ms:.1f}"]
    return [str(one) for one in told]


def lines(kernels: Kernels, cuts: Cuts) -> Iterator[str]:
    """The table."""
    yield row(*_HEAD)
    yield row(*["---"] * len(_HEAD))
    for size in (size for size in SIZES if size.name in cuts.steps):
        for way in cuts.splits(size.name, ATTENTION):
            clock = in_a_row(cuts.way(size.name, way)).megahertz / HIGHEST
            sms = cuts.sms(way)
            model = said(size, sms, kernels, clock)
            places = [1] * len(model)
            places[SLOWED] = 2
            cells = (f"{x:.{n}f}" for x, n in zip(model, places, strict=True))
            both = zip(cells, took(size, way, cuts), strict=True)
            yield row(size.name, str(sms), *(f"{a} / {b}" for a, b in both))


def main() -> None:
    """Print the table of what is kept."""
    runs = read_runs(RESULTS)
    parted = next(run for run in reversed(runs) if (run.place / PARTITIONS).exists())
    cut = next(run for run in reversed(runs) if (run.place / CUT).exists())
    print(*lines(kernels_of(parted), Cuts(json.loads((cut.place / CUT).read_text()))), sep="\n")


if __name__ == "__main__":
    main()
