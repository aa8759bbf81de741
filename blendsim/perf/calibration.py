"""What steps of a runtime take beyond their kernels: a correction of the step model, kept beside a
profile.

A step of B decodes takes compute + reads · m + decode · B + step seconds, where compute and m are
what the kernels of its prompts, GEMMs and decode attention take alone; one that computes prompts
beside decodes takes mixed_reads · m + mixed_step more. In compute, what depends on the step's
tokens alone (GEMMs and small operators, not the LM head) counts with a factor a tile of tokens.
Kernels do not tell these: a runtime may serve both kinds of attention by one kernel, choose another
GEMM than was timed, leave its CUDA graphs for a mixed step, or run at another clock.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blendsim.arrays import Bools, Floats, Ints
from blendsim.errors import ProfileError
from blendsim.perf.records import read_toml, write_toml
from blendsim.perf.store import FILES, META

SCHEMA, VERSION = "calibration", 2
LEAST = 0.1  # of what the kernels take to read; nothing reads for nothing
_MOST = 1e3  # times as long, or seconds: no step of any use takes so much
_AGAIN = "make it again with `blendsim profile calibrate`"
_NUMBERS = ("reads", "step", "mixed_reads", "mixed_step", "decode")
_TILES, _FACTORS = "layer_tokens", "layer_factors"


class KernelSeconds(NamedTuple):
    """(steps,) each: what the kernels of steps take, one after another, and what steps hold."""

    compute: Floats  # seconds, all but decode attention
    memory: Floats  # seconds, decode attention
    is_mixed: Bools  # computes prompts beside decodes
    layers: Floats  # seconds, of compute what depends on the step's tokens alone
    tokens: Ints
    decodes: Ints  # requests


@dataclass(frozen=True, slots=True)
class Calibration:
    """Seconds of a runtime's steps = compute + reads · m + decode · B + step, and in mixed ones
    mixed_reads · m + mixed_step more. None is below 0, and `reads` is well above.
    """

    runtime: str  # Flavour.runtime: blendrt, vllm
    reads: float = 1.0
    step: float = 0.0  # seconds
    mixed_reads: float = 0.0
    mixed_step: float = 0.0  # seconds
    decode: float = 0.0  # seconds for each request that decodes
    #: Tokens of a step at most, ascending, and what the layers' kernels of such a step are
    #: multiplied by; those of more tokens than all of these by 1.
    layers: tuple[tuple[float, float], ...] = ()

    @property
    def numbers(self) -> tuple[float, float, float, float, float]:
        """For compiled code."""
        return self.reads, self.step, self.mixed_reads, self.mixed_step, self.decode

    def factors(self, tokens: Ints) -> Floats:
        """(n,): what the layers' kernels are multiplied by in steps of so many tokens."""
        if not self.layers:
            return np.ones(len(tokens))
        tiles, factors = zip(*self.layers, strict=True)
        return np.append(factors, 1.0)[np.searchsorted(tiles, tokens)]

    def divided(self, parts: int) -> "Calibration":
        """The same where a token or a request stands for `parts` of them."""
        layers = tuple((tile / parts, factor) for tile, factor in self.layers)
        return replace(self, decode=self.decode * parts, layers=layers)

    def seconds(self, work: "KernelSeconds") -> Floats:
        """Of steps whose kernels take so long one after another."""
        plain = work.compute + (self.factors(work.tokens) - 1.0) * work.layers
        plain = plain + self.reads * work.memory + self.decode * work.decodes + self.step
        return np.where(
            work.is_mixed, plain + self.mixed_reads * work.memory + self.mixed_step, plain
        )


def file_of(runtime: str) -> str:
    """The file of a runtime's calibration, in the directory of a profile."""
    return f"steps-{runtime}.toml"


def write_calibration(found: Calibration, directory: Path, told: Mapping[str, Any]) -> Path:
    """Write it into a profile's directory, with what is `told` of it (scalars, lists, tables)."""
    path = directory / file_of(found.runtime)
    head = {"schema": SCHEMA, "version": VERSION, "kernels": _kernels(directory)}
    numbers = {name: getattr(found, name) for name in ("runtime", *_NUMBERS)}
    tiles, factors = zip(*found.layers, strict=True) if found.layers else ((), ())
    by_tile = {_TILES: list(map(int, tiles)), _FACTORS: factors}
    write_toml(path, head | numbers | by_tile | dict(told))
    return path


def read_calibrations(directory: Path) -> tuple[Calibration, ...]:
    """Those in a profile's directory, in the order of their runtimes; ProfileError for a file that
    is none, or is of other kernels than lie beside it.
    """
    return tuple(_read(path) for path in sorted(directory.glob(file_of("*"))))


def _read(path: Path) -> Calibration:
    try:
        content = read_toml(path, SCHEMA, VERSION)
    except ProfileError as error:  # which speaks of profiles
        raise ProfileError(f"{str(error).partition(';')[0]}; {_AGAIN}") from error
    runtime = content.get("runtime")
    if not isinstance(runtime, str) or path.name != file_of(runtime):
        raise ProfileError(f"{path}: is of runtime {runtime!r}; name it {file_of(str(runtime))}")
    if content.get("kernels") != _kernels(path.parent):
        raise ProfileError(
            f"{path}: was fitted to other kernel tables than lie beside it; remove it, or {_AGAIN}"
        )
    numbers = {
        name: _number(path, name, content.get(name), LEAST if name == "reads" else 0.0)
        for name in _NUMBERS
    }
    return Calibration(runtime, **numbers, layers=_layers(path, content))


def _layers(path: Path, content: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    tiles, factors = (content.get(name) for name in (_TILES, _FACTORS))
    if not isinstance(tiles, list) or not isinstance(factors, list) or len(tiles) != len(factors):
        raise ProfileError(
            f"{path}: {_TILES} and {_FACTORS} must be two lists of one length; {_AGAIN}"
        )
    found = [_number(path, _TILES, tile, 1.0, np.inf) for tile in tiles]
    if found != sorted(set(found)):
        raise ProfileError(f"{path}: {_TILES} = {tiles} must ascend; {_AGAIN}")
    return tuple(
        (tile, _number(path, _FACTORS, factor, LEAST))
        for tile, factor in zip(found, factors, strict=True)
    )


def _number(path: Path, name: str, value: object, least: float, most: float = _MOST) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < most:
        raise ProfileError(
            f"{path}: {name} = {value!r} must be a number from {least:g} to {most:g}; {_AGAIN}"
        )
    return float(value)


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
