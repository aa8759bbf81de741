"""Runs on a GPU as gpu_evidence.py keeps them: their findings, profile and replays, and what the
step model says of every step that ran, by the imported profile and by a measured one: that of the
plan, or where a plan was made by the imported one that of the visit.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gpu_options import POLICIES
from numpy.typing import NDArray

from blendsim.arrays import Floats
from blendsim.perf.measured import (
    IMPORTED,
    MEASURED,
    measured_model,
    profile_place,
    shipped_place,
)
from blendsim.perf.model import StepModel, step_model
from blendsim.perf.pricing import price_steps
from blendsim.perf.step import step_costs
from blendsim.perf.store import OVERLAP_FILE
from blendsim.settings import Settings
from blendsim.steplog import HALVED as HALVED
from blendsim.steplog import MEASURED_ROWS, StepLog, read_steplog
from blendsim.system import System

MODELS = (IMPORTED, MEASURED)  # profiles, as `--profile` calls them
#: What a sampled log's meta calls the seconds by each of MODELS; kept files have a former word.
KEPT_AS = {IMPORTED: "shipped", MEASURED: "measured"}
PROFILES = "profiles"  # a run's own
KEPT_OF = "kept_of"  # key of a sampled log's meta: what the whole run is, which is not kept
ROWS = "kernels-beside-rows.json"
SEQUENTIAL, OVERLAP = "sequential", "overlap"
_ORDER = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")


class Replay(NamedTuple):
    """One plan's run."""

    run: str  # which visit to the GPU
    pool: str
    policy: str
    executor: str
    log: StepLog
    prices: Mapping[str, Floats]  # seconds a step by each of MODELS

    @property
    def name(self) -> str:
        """As tables show it."""
        return f"{self.pool}, {self.policy}, {self.executor}"

    @property
    def is_whole(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.log.meta["complete"])

    @property
    def is_sampled(self) -> bool:
        """Whether only a sample of its steps was measured."""
        return MEASURED_ROWS in self.log.meta

    @property
    def is_halved(self) -> NDArray[np.bool_]:
        """(rows,), whether the executor cut the step in two halves."""
        return self.log.is_halved

    @property
    def seconds(self) -> float:
        """Until the last step ends; of a sampled run the estimate, NaN where there is none."""
        if self.is_sampled:
            return float(self.log.meta.get("estimate", {}).get("seconds", np.nan))
        return float((self.log.time("start") + self.log.time("seconds")).max())

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return int(self.log.meta[KEPT_OF]["steps"]) if self.is_sampled else len(self.log)

    @property
    def tokens(self) -> int:
        """Tokens computed in the whole run."""
        if self.is_sampled:
            return int(self.log.meta[KEPT_OF]["tokens"])
        return int(self.log.count("prefill_tokens").sum() + self.log.count("decode_requests").sum())

    def predicted(self, model: str) -> float:
        """Seconds of all steps by one of MODELS."""
        if self.is_sampled:
            return float(self.log.meta[KEPT_OF][KEPT_AS[model]])
        return float(self.prices[model].sum())


class Run(NamedTuple):
    """A visit to the GPU."""

    name: str
    place: Path
    replays: tuple[Replay, ...]

    @property
    def has_profile(self) -> bool:
        """Whether a profile was measured in this visit."""
        return (self.place / PROFILES).is_dir()

    @property
    def prices_itself(self) -> bool:
        """Whether its replays are priced by the profile measured in this visit."""
        own = self.place / PROFILES
        return any(profile_of(self.place, r.log).is_relative_to(own) for r in self.replays)

    @property
    def profile(self) -> Path:
        """The directory of the profile measured in this visit."""
        return next(iter(sorted((self.place / PROFILES).glob("*/*/tp1"))))

    def findings(self, stage: str) -> list[dict[str, Any]]:
        """What a stage of the check found."""
        path = self.place / f"{stage}.json"
        return list(json.loads(path.read_text())["findings"]) if path.exists() else []


def read_runs(root: Path) -> list[Run]:
    """Every run kept under `root`, visit by visit, and of a visit those of other models last; other
    names come after.
    """
    runs = [_run(place) for place in root.iterdir() if (place / "build.json").exists()]
    places = {name: place for place, name in enumerate(_ORDER)}

    def place_of(run: Run) -> tuple[int, str]:
        return places.get(run.name.partition("-")[0], len(_ORDER)), run.name

    return sorted(runs, key=place_of)


def _run(place: Path) -> Run:
    replays = sorted(_replays(place), key=lambda r: (r.pool, POLICIES.index(r.policy), r.executor))
    return Run(place.name, place, tuple(replays))


def _replays(place: Path) -> Iterator[Replay]:
    for path in place.glob("*.parquet"):
        pool, policy, executor = path.stem.rsplit("-", 2)
        log = read_steplog(path)
        yield Replay(
            place.name, pool, policy, executor, log, prices_of(log, profile_of(place, log))
        )


def system_of(log: StepLog) -> System:
    """The replica a log's plan was made for."""
    return Settings(**log.meta["settings"]).system


def profile_of(place: Path, log: StepLog) -> Path:
    """The measured profile a log is priced by: the shipped one if its plan was made by that or
    none was measured beside it, else the one beside it.
    """
    is_by_shipped = log.meta["settings"].get("profile") == MEASURED
    if not is_by_shipped and (place / PROFILES).is_dir():
        return profile_place(place / PROFILES, system_of(log))
    return shipped_place(system_of(log))


def models_of(system: System, place: Path) -> dict[str, StepModel]:
    """The step models of MODELS; where no overlap was measured the imported one twice."""
    imported = step_model(system)
    has_own = (place / OVERLAP_FILE).exists()
    return {IMPORTED: imported, MEASURED: measured_model(place, system) if has_own else imported}


def prices_of(log: StepLog, place: Path) -> dict[str, Floats]:
    """Seconds of every step: of two nano-batches side by side, or whole where that is cheaper, if
    the executor overlaps, else one operator after another.
    """
    overlaps = log.meta["executor"] == OVERLAP
    return {
        name: price_steps(step_costs(model, overlaps, False, 2 if overlaps else 1), log.counts)
        for name, model in models_of(system_of(log), place).items()
    }


def bins_of(
    values: NDArray[Any], edges: Sequence[float]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Bins low ≤ value < high that hold something: a name, and which values are in it."""
    for low, high in pairwise(edges):
        is_here = (values >= low) & (values < high)
        if is_here.any():
            is_last = high == edges[-1]
            yield f"from {_short(low)}" if is_last else f"{_short(low)} to {_short(high)}", is_here


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"
