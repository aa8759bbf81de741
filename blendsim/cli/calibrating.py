"""What `blendsim profile calibrate` reads, and what it says: of steps of a runtime, held against a
profile's kernels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blendsim.errors import InputError
from blendsim.perf.calibrated import Found, RuntimeLogs
from blendsim.perf.calibration import Calibration
from blendsim.report.matching import differing_machines
from blendsim.report.tables import Column, lay_out, number, paragraphs
from blendsim.report.validation_text import signed
from blendsim.serving.flavour import RUNTIMES
from blendsim.settings import remembered, require_same_model
from blendsim.steplog import StepLog, read_steplog
from blendsim.system import System


def read_logs(paths: Sequence[Path]) -> RuntimeLogs:
    """InputError unless all are measured, of the same runtime, model and GPU."""
    logs = [read_steplog(path) for path in paths]
    found = [_ran_on(path, log) for path, log in zip(paths, logs, strict=True)]
    for path, one in zip(paths, found, strict=True):
        if one != found[0]:
            raise InputError(
                f"{path}: is of {_called(*one)}, {paths[0]} of {_called(*found[0])}; "
                "calibrate one at a time"
            )
    return RuntimeLogs(*found[0], tuple(map(str, paths)), tuple(logs))


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


def as_json(found: Found) -> dict[str, Any]:
    """The keys of --json."""
    one = found.calibration
    return {
        "runtime": one.runtime,
        "version": found.logs.version,
        "profile": found.profile,
        "reads": one.reads,
        "step_seconds": one.step,
        "mixed_reads": one.mixed_reads,
        "mixed_step_seconds": one.mixed_step,
        "decode_seconds": one.decode,
        "layer_tokens": [tokens for tokens, _ in one.layers],
        "layer_factors": [factor for _, factor in one.layers],
        "logs": [
            {
                "log": held.name,
                "steps": len(held.run.seconds),
                "mixed_steps": int(held.run.work.is_mixed.sum()),
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
        Column("mixed", [number(float(each.run.work.is_mixed.sum())) for each in held], 2),
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
                f"A step of {_called(one.runtime, found.logs.system)} takes its compute, "
                f"{_beyond(one.reads, one.step)}; with prompts beside decodes it takes "
                f"{_beyond(one.mixed_reads, one.mixed_step)} more."
                f"{_by_tiles(one)}",
                *(f"Note: {note}" for note in found.notes),
            ],
            width,
        ),
    ]


def _beyond(reads: float, seconds: float) -> str:
    return f"{reads:.3f} of its decode reads and {1e3 * seconds:.2f} ms"


def _by_tiles(one: Calibration) -> str:
    """What steps of few tokens and decodes take, if that was found."""
    if not one.layers:
        return ""
    factors = ", ".join(f"{factor:.2f} to {tokens:,.0f}" for tokens, factor in one.layers)
    return (
        f" Each decode takes {1e6 * one.decode:.2f} µs. Layers take of their kernels’ time, by the "
        f"tokens of a step at most: {factors}; with more tokens all of it."
    )


def _errors(title: str, errors: Sequence[tuple[float, float] | None]) -> list[Column]:
    totals = ["–" if each is None else signed(each[0]) for each in errors]
    steps = ["–" if each is None else f"{100 * each[1]:.1f} %" for each in errors]
    return [Column(title, totals), Column("a step", steps, 1)]


def _called(runtime: str, system: System) -> str:
    tp = f" on {system.tp} GPUs" if system.tp > 1 else ""
    return f"{runtime} with {system.model.name}{tp} on {system.gpu.name}"
