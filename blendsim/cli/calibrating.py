"""What `blendsim profile calibrate` does: holds the steps of a runtime against a profile's kernels,
and keeps what they take beyond those beside it.
"""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from blendsim.errors import BlendsimError, InputError, ProfileError
from blendsim.files import make_directory, require_directory
from blendsim.perf.calibrating import Run, fit_steps, priced_run
from blendsim.perf.calibration import Calibration, file_of, write_calibration
from blendsim.perf.measured import chosen_model, chosen_place, meant, profile_place
from blendsim.perf.store import load_profile, write_profile
from blendsim.report.matching import differing_machines
from blendsim.report.tables import Column, lay_out, number, paragraphs
from blendsim.report.validation_text import signed
from blendsim.serving.flavour import RUNTIMES
from blendsim.settings import remembered, require_same_model
from blendsim.steplog import HALVED, StepLog, read_steplog
from blendsim.system import System


class Asked(NamedTuple):
    """The logs of one runtime on one system."""

    runtime: str
    system: System
    names: tuple[str, ...]
    logs: tuple[StepLog, ...]

    @property
    def version(self) -> str:
        """Of the runtime, as the first log has it; empty where it does not."""
        told = [self.logs[0].meta.get(key) or {} for key in ("versions", "machine")]
        return str(next((each[self.runtime] for each in told if self.runtime in each), ""))


class Held(NamedTuple):
    """One log: its steps that decode, and how far their sum and half of them are off."""

    name: str
    run: Run
    kernels: tuple[float, float]  # kernels alone, one after another
    fitted: tuple[float, float]
    left_out: tuple[float, float] | None  # fitted to the other logs; None if they are too few


class Found(NamedTuple):
    """A calibration, and how good it is."""

    asked: Asked
    profile: str
    calibration: Calibration
    held: tuple[Held, ...]
    notes: tuple[str, ...]


def read_logs(paths: Sequence[Path]) -> Asked:
    """InputError unless all are measured, of the same runtime, model and GPU."""
    logs = [read_steplog(path) for path in paths]
    found = [_ran_on(path, log) for path, log in zip(paths, logs, strict=True)]
    for path, one in zip(paths, found, strict=True):
        if one != found[0]:
            raise InputError(
                f"{path}: is of {_called(*one)}, {paths[0]} of {_called(*found[0])}; "
                "calibrate one at a time"
            )
    return Asked(*found[0], tuple(map(str, paths)), tuple(logs))


def _ran_on(path: Path, log: StepLog) -> tuple[str, System]:
    """The runtime of a measured log, and the system, with any KV memory."""
    runtime = log.meta.get("runtime")
    if not isinstance(runtime, str):
        raise InputError(
            f"{path}: is a simulated run; give logs of `replay --gpu -o` or `run --log`"
        )
    if runtime not in RUNTIMES:
        raise InputError(
            f"{path}: is of runtime {runtime!r}, by which no engine here is priced; there are "
            f"{', '.join(RUNTIMES)}"
        )
    settings = remembered(log.meta.get("settings") or {}, f"{path}: settings")
    require_same_model(settings, log.meta, f"{path}: settings")
    system = settings.system
    if others := differing_machines(log.meta, log.meta):
        raise InputError(f"{path}: {others[0]}; plan for the machine it is to run on")
    return runtime, System(system.model, system.gpu, system.tp)


def calibrate(asked: Asked, profile: str) -> Found:
    """Fit all logs together; then, to tell how good that is, the others of each."""
    profile = meant(asked.system, profile)
    model = chosen_model(asked.system, "auto", profile)
    runs = []
    for name, log in zip(asked.names, asked.logs, strict=True):
        try:
            runs.append(priced_run(log, model))
        except BlendsimError as error:
            raise InputError(f"{name}: {error}") from error
    found = fit_steps(asked.runtime, runs)
    kernels = Calibration(asked.runtime)
    held = []
    for i, (name, run) in enumerate(zip(asked.names, runs, strict=True)):
        left_out = _by_others(asked.runtime, run, [*runs[:i], *runs[i + 1 :]])
        held.append(Held(name, run, run.error(kernels), run.error(found), left_out))
    return Found(asked, profile, found, tuple(held), tuple(_notes(asked, found, runs)))


def _by_others(runtime: str, run: Run, others: Sequence[Run]) -> tuple[float, float] | None:
    """None where the others are too few to fit."""
    try:
        return run.error(fit_steps(runtime, others)) if others else None
    except ProfileError:
        return None


def keep(found: Found, output: Path) -> Path:
    """Write it beside its profile under `output`, which gets a copy of that one if it has none:
    both together or neither.
    """
    system = found.asked.system
    place, source = profile_place(output, system), chosen_place(system, found.profile)
    name = file_of(found.asked.runtime)
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
        "version_of_runtime": found.asked.version,
        "profile": found.profile,
        "date": datetime.now(UTC).date().isoformat(),
        "logs": [
            f"{held.name}: {len(held.run.seconds)} steps, {held.run.seconds.sum():.1f} s"
            for held in found.held
        ],
    }
    return write_calibration(found.calibration, place, told)


def as_json(found: Found) -> dict[str, Any]:
    """The keys of --json."""
    one = found.calibration
    return {
        "runtime": one.runtime,
        "version": found.asked.version,
        "profile": found.profile,
        "reads": one.reads,
        "step_seconds": one.step,
        "mixed_reads": one.mixed_reads,
        "mixed_step_seconds": one.mixed_step,
        "logs": [
            {
                "log": held.name,
                "steps": len(held.run.seconds),
                "mixed_steps": int(held.run.is_mixed.sum()),
                "seconds": float(held.run.seconds.sum()),
            }
            | {
                f"{name}_{what}": None if errors is None else errors[i]
                for name, errors in (
                    ("kernels", held.kernels),
                    ("calibrated", held.fitted),
                    ("left_out", held.left_out),
                )
                for i, what in enumerate(("error", "step_error"))
            }
            for held in found.held
        ],
        "notes": found.notes,
    }


def lines(found: Found, width: int) -> list[str]:
    """A table of the logs, and what was found, in words."""
    held, one = found.held, found.calibration
    columns = [
        Column("log", [Path(each.name).name for each in held], is_text=True),
        Column("steps", [number(len(each.run.seconds)) for each in held]),
        Column("mixed", [number(float(each.run.is_mixed.sum())) for each in held], 2),
        Column("seconds", [number(float(each.run.seconds.sum()), 1) for each in held]),
        *_errors("kernels alone", [each.kernels for each in held]),
        *_errors("calibrated", [each.fitted for each in held]),
    ]
    if len(held) > 1:
        columns += _errors("by the others", [each.left_out for each in held])
    return [
        *lay_out(columns, width),
        "",
        *paragraphs(
            [
                f"A step of {_called(one.runtime, found.asked.system)} takes its compute, "
                f"{_beyond(one.reads, one.step)}; with prompts beside decodes it takes "
                f"{_beyond(one.mixed_reads, one.mixed_step)} more.",
                *(f"Note: {note}" for note in found.notes),
            ],
            width,
        ),
    ]


def _beyond(reads: float, seconds: float) -> str:
    return f"{reads:.3f} of its decode reads and {1e3 * seconds:.2f} ms"


def _errors(title: str, errors: Sequence[tuple[float, float] | None]) -> list[Column]:
    totals = ["–" if each is None else signed(each[0]) for each in errors]
    steps = ["–" if each is None else f"{100 * each[1]:.1f} %" for each in errors]
    return [Column(title, totals), Column("a step", steps, 1)]


def _called(runtime: str, system: System) -> str:
    tp = f" on {system.tp} GPUs" if system.tp > 1 else ""
    return f"{runtime} with {system.model.name}{tp} on {system.gpu.name}"


def _notes(asked: Asked, found: Calibration, runs: Sequence[Run]) -> list[str]:
    mixed = sum(int(run.is_mixed.sum()) for run in runs)
    alone = sum(len(run.seconds) for run in runs) - mixed
    notes = []
    if any(log.meta.get("executor") == "overlap" and HALVED not in log.meta for log in asked.logs):
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
