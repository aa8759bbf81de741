"""A calibration found in logs of one runtime, how good it is, and keeping it beside its profile."""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from blendsim.errors import BlendsimError, InputError, ProfileError
from blendsim.files import make_directory, require_directory
from blendsim.perf.calibrating import MeasuredSteps, fit_steps, priced_run
from blendsim.perf.calibration import Calibration, file_of, write_calibration
from blendsim.perf.measured import chosen_model, chosen_place, meant, profile_place
from blendsim.perf.store import load_profile, write_profile
from blendsim.steplog import HALVED, StepLog
from blendsim.system import System


class RuntimeLogs(NamedTuple):
    """The logs of one runtime on one system."""

    runtime: str
    system: System
    names: tuple[str, ...]
    steps: tuple[StepLog, ...]

    @property
    def version(self) -> str:
        """Of the runtime, as the first log has it; empty where it does not."""
        told = [self.steps[0].meta.get(key) or {} for key in ("versions", "machine")]
        return str(next((each[self.runtime] for each in told if self.runtime in each), ""))


class Held(NamedTuple):
    """One log: its steps that decode, and how far their sum and half of them are off."""

    name: str
    run: MeasuredSteps
    kernels: tuple[float, float]  # kernels alone, one after another
    fitted: tuple[float, float]
    left_out: tuple[float, float] | None  # fitted to the other logs; None if they are too few


class Found(NamedTuple):
    """A calibration, and how good it is."""

    logs: RuntimeLogs
    profile: str
    calibration: Calibration
    held: tuple[Held, ...]
    notes: tuple[str, ...]


def calibrate(logs: RuntimeLogs, profile: str) -> Found:
    """Fit all logs together; then, to tell how good that is, the others of each."""
    profile = meant(logs.system, profile)
    model = chosen_model(logs.system, "auto", profile)
    runs = []
    for name, log in zip(logs.names, logs.steps, strict=True):
        try:
            runs.append(priced_run(log, model))
        except BlendsimError as error:
            raise InputError(f"{name}: {error}") from error
    found = fit_steps(logs.runtime, runs)
    kernels = Calibration(logs.runtime)
    held = []
    for i, (name, run) in enumerate(zip(logs.names, runs, strict=True)):
        left_out = _by_others(logs.runtime, run, [*runs[:i], *runs[i + 1 :]])
        held.append(Held(name, run, run.error(kernels), run.error(found), left_out))
    return Found(logs, profile, found, tuple(held), tuple(_notes(logs, found, runs)))


def _by_others(
    runtime: str, run: MeasuredSteps, others: Sequence[MeasuredSteps]
) -> tuple[float, float] | None:
    """None where the others are too few to fit."""
    try:
        return run.error(fit_steps(runtime, others)) if others else None
    except ProfileError:
        return None


def _notes(logs: RuntimeLogs, found: Calibration, runs: Sequence[MeasuredSteps]) -> list[str]:
    mixed = sum(int(run.work.is_mixed.sum()) for run in runs)
    alone = sum(len(run.seconds) for run in runs) - mixed
    notes = []
    if any(log.meta.get("executor") == "overlap" and HALVED not in log.meta for log in logs.steps):
        notes.append(
            "steps that an overlapping executor cut in halves are taken for whole ones, since its "
            "log does not say which they are; replay by --executor sequential has none"
        )
    if not (found.mixed_reads or found.mixed_step):
        notes.append(
            f"prompts beside decodes were not found to cost anything more, in {mixed:,} such steps"
        )
    if len(runs) == 1:
        notes.append(
            f"of one run ({mixed:,} mixed steps, {alone:,} of decodes alone): give a second log, "
            "of another pool, to see how far it holds"
        )
    return notes


def keep(found: Found, output: Path) -> Path:
    """Write it beside its profile under `output`, which gets a copy of that one if it has none:
    both together or neither.
    """
    system = found.logs.system
    place, source = profile_place(output, system), chosen_place(system, found.profile)
    name = file_of(found.logs.runtime)
    require_directory(place, [name])
    if place.is_dir():
        if source is None or not place.samefile(source):
            raise InputError(
                f"{place}: has a profile; add to it with --profile {output}, or choose another -o"
            )
        return _write(found, place)
    make_directory(place.parent)
    with TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as passing:
        made = Path(passing) / place.name
        if source is None:
            write_profile(load_profile(system.gpu, system.model, system.tp), made)
        else:
            shutil.copytree(source, made)
        _write(found, made)
        made.rename(place)
    return place / name


def _write(found: Found, place: Path) -> Path:
    """The calibration into the directory of its profile, and what is told of it."""
    told: dict[str, Any] = {
        "version_of_runtime": found.logs.version,
        "profile": found.profile,
        "date": datetime.now(UTC).date().isoformat(),
        "logs": [
            f"{held.name}: {len(held.run.seconds)} steps, {held.run.seconds.sum():.1f} s"
            for held in found.held
        ],
    }
    return write_calibration(found.calibration, place, told)
