"""Why a step cut in two halves takes longer than in one piece: the same step in many ways.

    python bench/gpu_cut.py [--within 45] [-o gpu-cut.json]
    python bench/gpu_cut.py --device cpu --quick         # the same path, small, without a GPU

Steps with about as many seconds of reads as of GEMMs, whole (launched kernel by kernel, as halves
are, and not by graphs), in halves one after another, and in halves on parts of the SMs, with both
lanes and with one alone (experiments.cutting). Each is run far ahead, all of it issued before
it begins, and in a row, issued one run ahead as an engine does; beside the seconds stands the clock
the GPU had. Traces tell kernels and lanes apart. All of it goes to the JSON file after every
measurement, tables are printed as they come (gpu_cut_table.py). About twelve seconds a step on an
H200.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from gpu_cut_table import header, line, trace_header, trace_line
from gpu_options import say

SHARES = (48, 56, 64, 80)  # attention's SMs
APART = (48, 64)  # of them, where each lane is run alone, too
Found = dict[str, Any]


class Pace(NamedTuple):
    """How long to measure."""

    aheads: int  # runs far ahead
    pause: float  # seconds, for the power to fall and the clock to rise
    row: float  # seconds of runs in a row


PACE, PART_PACE, QUICK_PACE = Pace(2, 0.15, 0.35), Pace(1, 0.1, 0.25), Pace(1, 0.0, 0.0)


class Late(Exception):
    """The time is up."""


class Bench(NamedTuple):
    """What measures, how long each, and until when."""

    world: Any  # CutWorld
    pace: Pace
    part_pace: Pace  # of parts of a step
    until: float

    def check_time(self) -> None:
        """Raise Late where no time is left."""
        if time.perf_counter() > self.until:
            raise Late


def measured(bench: Bench, size: Any) -> Iterator[Found]:
    """One step in all ways, then traces of the whole one and of the best cut."""
    from experiments.cutting import ALL, ONE_STREAM, WHOLE

    inputs = bench.world.step(size)
    ways = list(bench.world.ways(inputs, SHARES, APART))
    for way in ways:  # kernels are compiled and chosen
        bench.check_time()
        way.run()
    took: dict[str, float] = {}
    for way in sorted(ways, key=lambda way: way.part != ALL):
        bench.check_time()
        found = timings(bench, way)
        yield {"what": "step", "step": size.name, "way": way.name, "part": way.part, **found}
        if way.part == ALL:
            took[way.name] = settled(found["row"])
    best = min(took.keys() - {WHOLE}, key=lambda name: took[name])
    for way in ways:
        if way.part == ALL and way.name in (WHOLE, ONE_STREAM, best):
            bench.check_time()
            yield from traces(bench, size, way)


def timings(bench: Bench, way: Any) -> Found:
    """A way far ahead after a pause, then in a row."""
    from experiments.cutting import ALL
    from experiments.stepping import far_ahead, in_a_row, issue_seconds

    device = bench.world.device
    pace = bench.pace if way.part == ALL else bench.part_pace
    issued = issue_seconds(device, way.run)
    time.sleep(pace.pause)
    bench.world.planned()
    aheads = [far_ahead(device, way.run, issued) for _ in range(pace.aheads)]
    planned = bench.world.planned() / pace.aheads
    row = in_a_row(device, way.run, pace.row)
    return {
        "ahead": [ahead.ran._asdict() for ahead in aheads],
        "is_ahead": all(ahead.is_ahead for ahead in aheads),
        "host": median(ahead.host_seconds for ahead in aheads),
        "planning": planned,
        "row": [ran._asdict() for ran in row],
    }


def settled(row: list[Found]) -> float:
    """Median seconds of a row's second half, when the clock is what the power limit leaves."""
    return float(median(ran["seconds"] for ran in row[len(row) // 2 :]))


def traces(bench: Bench, size: Any, way: Any) -> Iterator[Found]:
    """What a way's kernels do, in a row of runs and far ahead; why not, where nothing is traced."""
    from experiments.stepping import LEAST_RUNS, far_ahead, in_a_row, issue_seconds
    from experiments.tracing import summed_up, trace

    from blendsim.errors import Unavailable

    device, run = bench.world.device, way.run
    issued = 2.0 * issue_seconds(device, run)  # more, under the profiler
    told = {"what": "trace", "step": size.name, "way": way.name}
    for how, runs in (("far ahead", 1), ("in a row", LEAST_RUNS)):
        try:
            if how == "in a row":
                in_a_row(device, run, bench.pace.row / 2)
                kernels = trace(device, lambda: in_a_row(device, run, 0.0))
            else:
                kernels = trace(device, lambda: far_ahead(device, run, issued))
        except Unavailable as error:
            yield {"what": "left out", "why": f"{size.name}, {way.name}: {error}"}
            return
        yield {**told, "how": how, **summed_up(kernels, runs)}


def findings(given: argparse.Namespace, began: float) -> Iterator[Found]:
    """All that is found out, as far as the time goes."""
    from experiments.cutting import QUICK_SIZES, SIZES, CutWorld

    from blendrt.executor.streams import partition_failure
    from blendrt.machine import describe
    from blendrt.profiler.target import find_decoder, open_device

    device = open_device(given.device)
    yield {"what": "machine", **{name: str(value) for name, value in describe(device).items()}}
    if (failure := partition_failure(device)) is not None:
        yield {"what": "left out", "why": f"parts of the SMs: {failure}"}
    config = find_decoder(given.model or ("llama-3.1-8b" if given.device == "cuda" else "tiny"))
    world = CutWorld(config, device, int(given.kv_gb * 1e9))
    say(f"{config.name} made, {time.perf_counter() - began:.1f} s")
    paces = (QUICK_PACE, QUICK_PACE) if given.quick else (PACE, PART_PACE)
    bench = Bench(world, *paces, began + given.within)
    for size in QUICK_SIZES if given.quick else SIZES:
        try:
            yield from measured(bench, size)
        except Late:
            yield {"what": "left out", "why": f"from {size.name} on: {given.within:g} s are over"}
            return
        say(f"{size.name} done, {time.perf_counter() - began:.1f} s")


def main() -> None:
    """Measure and print."""
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", help="by itself llama-3.1-8b, on a CPU tiny")
    parser.add_argument("--kv-gb", type=float, default=60.0, help="for the KV pool, at most")
    parser.add_argument("--quick", action="store_true", help="one tiny step")
    parser.add_argument("--within", type=float, default=45.0, help="seconds for all of it")
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-cut.json"))
    given = parser.parse_args()
    kept: list[Found] = []
    kind = ""
    for found in findings(given, began):
        kept.append(found)
        given.output.write_text(json.dumps(kept))
        if kind != found["what"]:
            kind = found["what"]
            print(*{"step": header, "trace": trace_header}.get(kind, list)(), sep="\n")
        if kind == "left out":
            print(f"Left out: {found['why']}", flush=True)
        elif kind != "machine":
            print({"step": line, "trace": trace_line}[kind](found), flush=True)


if __name__ == "__main__":
    main()
