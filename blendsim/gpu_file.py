"""A GPU that a file describes: one of our tables with other figures, or one that they lack.

What the file leaves out is as of the GPU that it is `like`, whose kernels are scaled to it
(perf/scaled.py). It is a `GpuSpec` like any other, so that whoever is handed one asks no file.
"""

import re
from dataclasses import replace
from pathlib import Path

from blendsim.errors import BlendsimError, InputError
from blendsim.fields import overlay
from blendsim.files import read_toml_file
from blendsim.specs import GPUS, GpuSpec, find_gpu, find_link, gpu_name

_SUFFIX = ".toml"
_NAME = re.compile(r"\w[\w.+-]*")  # it stands in lists of several, in tables and in paths
_UNITS = {
    "flops": "FLOP/s",
    "fp8_flops": "FLOP/s",
    "fp4_flops": "FLOP/s",
    "bandwidth": "bytes/s",
    "memory_bytes": "bytes",
    "sm_count": "SMs",
}
_FARTHEST = 1_000  # times a figure of the other GPU, either way; beyond, it is of another unit


def is_gpu_file(name: str) -> bool:
    """Whether what stands where a GPU's name may is a file's."""
    return name.lower().endswith(_SUFFIX)


def read_gpu(path: Path) -> GpuSpec:
    """The GPU that a TOML file describes (docs/profiles.md); InputError for what it cannot mean."""
    said = read_toml_file(path, "--gpu")
    for key, example in (("name", "h200-fast"), ("like", "h200")):
        if not isinstance(said.get(key), str):
            raise InputError(f'{path}: {key} is missing; give a text, as in {key} = "{example}"')
    try:
        base = find_gpu(said["like"])
        if isinstance(said.get("link"), str):
            base = replace(base, link=find_link(said.pop("link")))
        gpu = overlay(base, said | {"like": base.name}, str(path))
        require_described(gpu)
    except BlendsimError as error:
        if str(error).startswith(str(path)):
            raise
        raise InputError(f"{path}: {error}") from error
    return gpu


def require_described(gpu: GpuSpec) -> None:
    """InputError unless the GPU has a name of its own, and figures that a GPU like the one whose
    kernels are scaled to it can have.
    """
    if not _NAME.fullmatch(gpu.name) or is_gpu_file(gpu.name):
        raise InputError(
            f"name = {gpu.name!r} is no name; use letters, digits, '.', '_', '+' and '-', and no "
            f"ending {_SUFFIX}"
        )
    if gpu_name(gpu.name) in GPUS:
        raise InputError(
            f"name = {gpu.name!r} is the {gpu_name(gpu.name)} of the tables; give another one"
        )
    base = find_gpu(gpu.like)
    for key, unit in _UNITS.items():
        own, theirs = getattr(gpu, key), getattr(base, key)
        if own == theirs or (own == 0 and key in ("fp8_flops", "fp4_flops")):
            continue
        if theirs == 0:
            raise InputError(
                f"{key} = {own:g}: {base.name} has no kernels in {key[:3]} to scale; leave it out, "
                "or be like another GPU"
            )
        _require_near(key, own, theirs, f"{unit} as {base.name} has", unit)
    speed, theirs = gpu.link.bandwidth, base.link.bandwidth
    _require_near("link bandwidth", speed, theirs, f"bytes/s as {base.name}'s link has", "bytes/s")


def other_figures(gpu: GpuSpec) -> str:
    """What sets the GPU apart from the one that it is like, in words; empty for nothing."""
    base = find_gpu(gpu.like)
    told = [
        f"{key.removesuffix('_bytes')} × {getattr(gpu, key) / getattr(base, key):.4g}"
        for key in _UNITS
        if getattr(gpu, key) != getattr(base, key)
    ]
    if gpu.link != base.link:
        told.append(f"link of {gpu.link.bandwidth / 1e9:g} GB/s and {gpu.link.latency:g} s")
    return ", ".join(told)


def _require_near(key: str, own: float, theirs: float, called: str, unit: str) -> None:
    if not theirs / _FARTHEST <= own <= theirs * _FARTHEST:
        raise InputError(
            f"{key} = {own:g} is not within {_FARTHEST:,} times either way of {theirs:g} {called}; "
            f"give {unit}"
        )
