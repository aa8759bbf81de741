"""§6.5: speed-ups simulated against speed-ups measured on a GPU.

Measured are those of orders over prefix order, on our runtime, in one visit to an H200 each: runs
to their end that docs/validation.md is made from (bench/results/h200), of the pools that fill the
KV cache. Simulated are the same steps by the step model of the GPU as it is shipped, kernels
measured there and calibrated by whole steps; runs that the calibration was fitted to are shown and
do not count. Two earlier ones, which `blendsim validate --json` wrote (results/measured), are of a
runtime that cut steps in two, which it does no more: they are shown and do not count either.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from blendsim.perf.calibration import SCHEMA, VERSION, file_of
from blendsim.perf.measured import MEASURED as BY_MEASURED
from blendsim.perf.measured import chosen_model, shipped_place
from blendsim.perf.pricing import price_steps
from blendsim.perf.records import read_toml
from blendsim.serving.flavour import BLENDRT, find_flavour
from blendsim.settings import Settings
from blendsim.steplog import StepLog, read_steplog
from paper_repro.claims import Verdict, near
from paper_repro.lab import REPOSITORY, Lab
from paper_repro.reading import mean
from paper_repro.table import Table

MEASURED = REPOSITORY / "paper_repro" / "results" / "measured"
VISITS = REPOSITORY / "bench" / "results" / "h200"
COLUMNS = ("run", "simulated", "measured", "error", "counts")
_POOLS, _BASE, _RUN = "filled", "dfs", "overlap"  # in the names of logs


def measure(lab: Lab) -> dict[str, Table]:
    """`speedups`: a row a measured pair of policies; none while no GPU has run."""
    early = [_early(path) for path in sorted(MEASURED.glob("*.json"))]
    return {"speedups": Table(COLUMNS, (*early, *_rows()))}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """The mean relative difference."""
    table = tables["speedups"]
    every = zip(table.column("error"), table.column("counts"), strict=True)
    errors = [abs(error) for error, counts in every if counts]
    if not errors:
        return [Verdict("sec65", "not measured yet", None, "no GPU has run")]
    off = mean(errors)
    shown = (
        f"{off:.2%} in the mean of {len(errors)}, {max(errors):.1%} at most: paced and searched "
        "plans over prefix order on an H200, their steps priced by a model of it that is "
        "calibrated on other runs"
    )
    return [near("sec65", off, shown)]


def _early(path: Path) -> tuple[str, float, float, float, int]:
    speedup = json.loads(path.read_text())["speedup"]
    simulated, measured = speedup["simulated"], speedup["measured"]
    return path.stem, simulated, measured, simulated / measured - 1, 0


def _rows() -> Iterator[tuple[str, float, float, float, int]]:
    """Of every visit and pool each order that ran to its end beside prefix order."""
    for base_path in sorted(VISITS.glob(f"*/*{_POOLS}-{_BASE}-{_RUN}.parquet")):
        base = read_steplog(base_path)
        priced = _priced(base)
        pool = base_path.stem.removesuffix(f"-{_BASE}-{_RUN}")
        for path in sorted(base_path.parent.glob(f"{pool}-*-{_RUN}.parquet")):
            log = read_steplog(path)
            if path == base_path or not (base.meta["complete"] and log.meta["complete"]):
                continue
            policy = path.stem.removeprefix(f"{pool}-").removesuffix(f"-{_RUN}")
            measured = base.end / log.end
            simulated = priced / _priced(log)
            is_fitted = _is_fitted(base_path, base) or _is_fitted(path, log)
            name = f"{base_path.parent.name}, {pool}: {policy} over {_BASE}"
            yield name, simulated, measured, simulated / measured - 1, int(not is_fitted)


def _settings(log: StepLog) -> Settings:
    return Settings(**log.meta["settings"])


def _priced(log: StepLog) -> float:
    """Seconds of a run's steps, one operator after another, as the runtime runs them."""
    system = _settings(log).system
    model = chosen_model(system, "auto", BY_MEASURED)
    return float(price_steps(find_flavour("sequential").costs(model), log.counts).sum())


def _is_fitted(path: Path, log: StepLog) -> bool:
    """Whether the shipped calibration was fitted to this run, among others."""
    place = shipped_place(_settings(log).system) / file_of(BLENDRT)
    if not place.exists():
        return False
    named = read_toml(place, SCHEMA, VERSION)["logs"]
    return any(line.startswith(f"{path.relative_to(REPOSITORY)}:") for line in named)
