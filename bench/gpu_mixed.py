"""What steps that mix decodes with prompts take, kernel kind by kernel kind, beside the step model.

    python bench/gpu_mixed.py [--profile gpu-check/profiles/h200/llama-3.1-8b/tp1] [--within 75]
    python bench/gpu_mixed.py --device cpu --quick       # the same path, small, without a GPU

Whole steps (experiments.mixing), as an engine runs them, by graphs, and some kernel by kernel
too. Each is run in a row, issued one run ahead as an engine does, until the power limit has had its
effect; then seconds and clock are told. When a group of steps is timed, so that the profiler slows
none of it, they are traced in rows: seconds of every kind of kernel and of every GEMM, and how long
nothing runs. The mixed ones as an engine runs them come first, those of unlike contexts last. The
step model's parts stand beside them, by the measured profile that is shipped and by those of
`--profile`. All of it goes to the JSON file after every step; tables come last
(gpu_mixed_table.py). About a minute on an H200; what one said is in docs/validation.md.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from gpu_mixed_parts import Found, Priced, models_of, prices
from gpu_mixed_table import tables
from gpu_options import say


class Pace(NamedTuple):
    """Seconds of runs in a row."""

    warm: float  # power control acts after 0.8 s and has settled after 1.1
    row: float
    again: float  # warms up before a trace, which follows a pause
    traced: float  # of which the second half counts


PACE, QUICK_PACE = Pace(1.5, 1.0, 1.1, 0.3), Pace(0.0, 0.0, 0.0, 0.0)


class Late(Exception):
    """The time is up."""


class Bench(NamedTuple):
    """What measures, how long each, and until when."""

    world: Any  # MixWorld
    pace: Pace
    until: float

    def check_time(self, seconds: float) -> None:
        """Raise Late where there is not so much time left."""
        if time.perf_counter() + seconds > self.until:
            raise Late


def rows(bench: Bench, steps: list[Any]) -> Iterator[Found]:
    """Each step in a row of runs."""
    from experiments.stepping import in_a_row, issue_seconds

    device, pace = bench.world.device, bench.pace
    for step in steps:
        bench.check_time(pace.warm + pace.row)
        step.run()  # kernels are compiled and chosen
        host = issue_seconds(device, step.run)
        runs = in_a_row(device, step.run, pace.warm + pace.row)
        settled = runs[-counted(len(runs), pace) :]
        yield {
            "what": "row",
            **named(step),
            "counts": step.inputs.counts._asdict(),
            **medians(settled),
            "counted": len(settled),
            "host": host,
            "runs": [ran._asdict() for ran in runs],
        }
        say(f"{step.mix.name}, {step.way}: {medians(settled)['seconds'] * 1e3:.2f} ms")


def counted(runs: int, pace: Pace) -> int:
    """How many of the runs in a row come when it has settled; half, where nobody waits for that."""
    whole = pace.warm + pace.row
    return max(1, round(runs * (pace.row / whole if whole else 0.5)))


def traces(bench: Bench, steps: list[Any]) -> Iterator[Found]:
    """Each step traced, in a row that has settled; why not, where nothing is traced."""
    from experiments.stepping import in_a_row
    from experiments.tracing import trace

    from blendsim.errors import Unavailable

    device, pace = bench.world.device, bench.pace
    least = pace.again + pace.traced
    bench.check_time(least)
    try:
        # For nobody: the profiler's begin takes long, and a GPU that waits gets a high clock.
        trace(device, lambda: in_a_row(device, steps[0].run, 0.0))
        for step in steps:
            bench.check_time(least)
            in_a_row(device, step.run, pace.again)
            yield {"what": "trace", **named(step), **traced(bench, step)}
    except Unavailable as error:
        yield {"what": "left out", "why": f"traces: {error}"}


def traced(bench: Bench, step: Any) -> Found:
    """What a step's kernels do. A run's seconds are its own; between runs the clock is told."""
    from experiments.stepping import Ran, in_a_row
    from experiments.tracing import by_operator, last_runs, summed_up, trace

    device, runs = bench.world.device, list[Ran]()
    kernels = trace(device, lambda: runs.extend(in_a_row(device, step.run, bench.pace.traced)))
    last, kept = last_runs(kernels, len(runs))
    told, took = summed_up(last, kept), medians(runs[-kept:])
    busy = told["together"] + sum(told["alone"].values())
    return {
        **took,
        "counted": kept,
        "busy": busy,
        "idle": max(0.0, took["seconds"] - busy),
        "kinds": told["kinds"],
        "kernels": told["kernels"],
        "operators": by_operator(last, bench.world.layers, kept),
        "decode_tenths": told["decode_tenths"],
    }


def named(step: Any) -> Found:
    """Which step it is, and how it is run."""
    return {"step": step.mix.name, "way": step.way, "rows": step.rows}


def medians(runs: list[Any]) -> Found:
    """Seconds, and the clock where the GPU told it."""
    clocks = [ran.megahertz for ran in runs if ran.megahertz is not None]
    clock = float(median(clocks)) if clocks else None
    return {"seconds": float(median(ran.seconds for ran in runs)), "megahertz": clock}


def findings(given: argparse.Namespace, began: float, device: Any) -> Iterator[Found]:
    """All that is measured, as far as the time goes."""
    from experiments.mixing import BOTH_WAYS, DIRECT, MIXES, QUICK_MIXES, MixWorld

    from blendrt.machine import describe
    from blendrt.profiler.target import find_decoder, find_target

    world = MixWorld(find_decoder(given.model), device, int(given.kv_gb * 1e9))
    yield {
        "what": "machine",
        **{name: str(value) for name, value in describe(device).items()},
        "model": given.model,
        "gpu": find_target(device).name,
        "layers": world.layers,
        "prefill": world.backend,
        "graph_rows": world.graph_rows,
    }
    say(f"graphs of {', '.join(map(str, world.graph_rows))}, {time.perf_counter() - began:.1f} s")
    bench = Bench(world, QUICK_PACE if given.quick else PACE, began + given.within)
    mixes, both = (QUICK_MIXES, QUICK_MIXES[:1]) if given.quick else (MIXES, BOTH_WAYS)
    engines = [world.step(mix, world.engines_way(mix)) for mix in mixes]
    alike = [step for step in engines if not step.mix.is_unlike]
    first = [step for step in alike if step.mix in both]
    others = [step for step in alike if step.mix not in both]
    others += [world.step(mix, DIRECT) for mix in both]
    for steps in (first, others, [step for step in engines if step.mix.is_unlike]):
        for told in (rows, traces):
            try:
                yield from told(bench, steps)
            except Late:
                why = f"{told.__name__} from some step on: {given.within:g} s are over"
                yield {"what": "left out", "why": why}
                return


def parse() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", help="by itself llama-3.1-8b, on a CPU tiny")
    parser.add_argument("--profile", nargs="+", type=Path, default=[], help="measured, tp1 folders")
    parser.add_argument("--kv-gb", type=float, default=60.0, help="for the KV pool, at most")
    parser.add_argument("--quick", action="store_true", help="tiny steps")
    parser.add_argument("--within", type=float, default=75.0, help="seconds for all of it")
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-mixed.json"))
    given = parser.parse_args()
    given.model = given.model or ("llama-3.1-8b" if given.device == "cuda" else "tiny")
    if not given.output.parent.is_dir():
        parser.error(f"-o {given.output}: there is no folder {given.output.parent}; make it first")
    return given


def measure(given: argparse.Namespace, began: float) -> list[Found]:
    """Measure, price and keep."""
    from blendrt.profiler.target import find_target, open_device

    device = open_device(given.device)
    priced: list[Priced] = models_of(given.model, find_target(device).name, given.profile)
    kept: list[Found] = []
    for found in findings(given, began, device):
        kept.append(found)
        given.output.write_text(json.dumps(kept))
    kept += prices(priced, kept)
    given.output.write_text(json.dumps(kept))
    return kept


def main() -> None:
    """Measure and print."""
    began = time.perf_counter()
    given = parse()
    from blendsim.errors import BlendsimError

    try:
        kept = measure(given, began)
    except BlendsimError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(*tables(kept), sep="\n")


if __name__ == "__main__":
    main()
