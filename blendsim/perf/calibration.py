"""What steps of a runtime take beyond their kernels: a correction of the step model, kept beside a
profile.

A step takes compute + reads · m + step seconds, where compute and m are what the kernels of its
prompts, GEMMs and decode attention take alone; one that computes prompts beside decodes takes
mixed_reads · m + mixed_step more. Kernels do not tell these: a runtime may serve both kinds of
attention by one kernel, leave its CUDA graphs for such a step, or run at another clock.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from blendsim.arrays import Bools, Floats
from blendsim.errors import ProfileError
from blendsim.perf.records import read_toml, write_toml
from blendsim.perf.store import FILES, META

SCHEMA, VERSION = "calibration", 1
_LEAST = 0.1  # of what the kernels take to read; nothing reads for nothing
_MOST = 1e3  # times as long, or seconds: no step of any use takes so much


@dataclass(frozen=True, slots=True)
class Calibration:
    """Seconds of a runtime's steps = compute + reads · m + step, and in mixed ones
    mixed_reads · m + mixed_step more. None is below 0, and `reads` is well above.
    """

    runtime: str  # Flavour.runtime: blendrt, vllm
    reads: float = 1.0
    step: float = 0.0  # seconds
    mixed_reads: float = 0.0
    mixed_step: float = 0.0  # seconds

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """For compiled code."""
        return self.reads, self.step, self.mixed_reads, self.mixed_step

    def seconds(self, compute: Floats, memory: Floats, mixed: Bools) -> Floats:
        """Of steps whose kernels take so long one after another."""
        plain = compute + self.reads * memory + self.step
        return np.where(mixed, plain + self.mixed_reads * memory + self.mixed_step, plain)


def file_of(runtime: str) -> str:
    """The file of a runtime's calibration, in the directory of a profile."""
    return f"steps-{runtime}.toml"


def write_calibration(found: Calibration, directory: Path, told: Mapping[str, Any]) -> Path:
    """Write it into a profile's directory, with what is `told` of it (scalars, lists, tables)."""
    path = directory / file_of(found.runtime)
    head = {"schema": SCHEMA, "version": VERSION, "kernels": _kernels(directory)}
    write_toml(path, head | asdict(found) | dict(told))
    return path


def read_calibrations(directory: Path) -> tuple[Calibration, ...]:
    """Those in a profile's directory, in the order of their runtimes; ProfileError for a file that
    is none, or is of other kernels than lie beside it.
    """
    return tuple(_read(path) for path in sorted(directory.glob(file_of("*"))))


def _read(path: Path) -> Calibration:
    content = read_toml(path, SCHEMA, VERSION)
    runtime = content.get("runtime")
    if not isinstance(runtime, str) or path.name != file_of(runtime):
        raise ProfileError(f"{path}: is of runtime {runtime!r}; name it {file_of(str(runtime))}")
    if content.get("kernels") != _kernels(path.parent):
        raise ProfileError(
            f"{path}: was fitted to other kernel tables than lie beside it; remove it, or make it "
            "again with `blendsim profile calibrate`"
        )
    numbers = {}
    for name in (field.name for field in fields(Calibration) if field.name != "runtime"):
        value, least = content.get(name), _LEAST if name == "reads" else 0.0
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not least <= value < _MOST
        ):
            raise ProfileError(
                f"{path}: {name} = {value!r} must be a number from {least:g} to {_MOST:g}; make it "
                "again with `blendsim profile calibrate`"
            )
        numbers[name] = float(value)
    return Calibration(runtime, **numbers)


def _kernels(directory: Path) -> str:
    """Stands for the tables that a profile's directory has: what steps take beyond them is of no
    others.
    """
    digest = hashlib.sha256()
    for name in FILES:
        path = directory / name
        if name != META and path.exists():
            digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
