"""Profiles on disk: `profiles/<gpu>/<model>/tp<N>/*.csv + meta.toml`.

A profile holds the kernels of one model on one kind of GPU. A model without a directory of its own
takes the tables of another model of the same shape, else they are cut from the GPU's kernel atlas.
"""

from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from blendsim.errors import ProfileError
from blendsim.perf.atlas import DIRECTORY, read_atlas
from blendsim.perf.derive import OPERATORS, derive_profile, shape_of
from blendsim.perf.grids import AttentionGrid, ReduceGrid, SmallGrid
from blendsim.perf.profile import Profile
from blendsim.perf.records import (
    MICRO,
    column,
    read_rows,
    read_toml,
    to_text,
    write_rows,
    write_toml,
)
from blendsim.perf.small import OPERATORS as SMALL_OPERATORS
from blendsim.specs import GpuSpec, ModelSpec

SCHEMA = "profile"
SCHEMA_VERSION = 1
_REQUIRED = (
    "gpu",
    "model",
    "tp",
    "notes",
    "shape",
    "source",
    "backend",
    "device",
    "small_operators",
    "waves",
)
_GEMM_HEADER = ("tokens", *(f"{name}_us" for name in OPERATORS))
_SMALL_HEADER = ("tokens", *(f"{name}_us" for name in SMALL_OPERATORS))


def write_profile(profile: Profile, directory: Path) -> None:
    """Write one `tp<N>` directory."""
    directory.mkdir(parents=True, exist_ok=True)
    write_rows(
        directory / "gemm.csv",
        _GEMM_HEADER,
        (
            [m, *map(to_text, row)]
            for m, row in zip(profile.tokens.tolist(), profile.gemm, strict=True)
        ),
    )
    for name, grid in (("decode", profile.decode), ("prefill", profile.prefill)):
        write_rows(
            directory / f"{name}_attention.csv",
            ["batch", *(f"{s:g}" for s in grid.lengths)],
            (
                [f"{b:g}", *map(to_text, row)]
                for b, row in zip(grid.batches, grid.seconds, strict=True)
            ),
        )
    if profile.reduce is not None:
        write_rows(
            directory / "all_reduce.csv",
            ["bytes", "time_us"],
            (
                [int(size), to_text(seconds)]
                for size, seconds in zip(profile.reduce.sizes, profile.reduce.seconds, strict=True)
            ),
        )
    if profile.small is not None:
        write_rows(
            directory / "small.csv",
            _SMALL_HEADER,
            (
                [m, *map(to_text, row)]
                for m, row in zip(profile.small.tokens.tolist(), profile.small.seconds, strict=True)
            ),
        )
    head = {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "gpu": profile.gpu,
        "model": profile.model,
        "tp": profile.tp,
        "notes": profile.notes,
        "shape": profile.shape,
    }
    write_toml(directory / "meta.toml", head | dict(profile.meta))


def read_profile(directory: Path) -> Profile:
    """Read what `write_profile` wrote; refuses other files and unknown schema versions."""
    meta = read_toml(directory / "meta.toml", SCHEMA, SCHEMA_VERSION)
    for key in _REQUIRED:
        if key not in meta:
            raise ProfileError(
                f"{directory / 'meta.toml'}: no {key!r}; a profile states {', '.join(_REQUIRED)}"
            )
    path = directory / "gemm.csv"
    _, rows = read_rows(path, _GEMM_HEADER)
    reduce = None
    if meta["tp"] > 1:
        reduce_path = directory / "all_reduce.csv"
        _, pairs = read_rows(reduce_path, ["bytes", "time_us"])
        sizes, times = (column(reduce_path, pairs, i) for i in (0, 1))
        reduce = ReduceGrid(sizes, times * MICRO)
    own = ("schema", "version", "gpu", "model", "tp", "notes", "shape")
    return Profile(
        gpu=meta["gpu"],
        model=meta["model"],
        tp=meta["tp"],
        tokens=column(path, rows, 0).astype(np.int64),
        gemm=np.column_stack([column(path, rows, i + 1) for i in range(len(OPERATORS))]) * MICRO,
        decode=_read_grid(directory / "decode_attention.csv"),
        prefill=_read_grid(directory / "prefill_attention.csv"),
        reduce=reduce,
        shape=meta["shape"],
        notes=tuple(meta["notes"]),
        meta={key: value for key, value in meta.items() if key not in own},
        small=_read_small(directory / "small.csv"),
    )


def _read_small(path: Path) -> SmallGrid | None:
    if not path.exists():
        return None
    _, rows = read_rows(path, _SMALL_HEADER)
    columns = [column(path, rows, i + 1) for i in range(len(SMALL_OPERATORS))]
    return SmallGrid(column(path, rows, 0).astype(np.int64), np.column_stack(columns) * MICRO)


def _read_grid(path: Path) -> AttentionGrid:
    header, rows = read_rows(path, ["batch"])
    lengths = np.array([float(name) for name in header[1:]])
    seconds = np.column_stack([column(path, rows, i + 1) for i in range(len(lengths))]) * MICRO
    return AttentionGrid(column(path, rows, 0), lengths, seconds)


def profiles_directory() -> Path:
    """Where profiles are: beside the package in a checkout, else inside the installed wheel."""
    beside = Path(__file__).resolve().parents[2] / "profiles"
    if beside.is_dir():
        return beside
    # NOTE: a package without __init__.py; importlib.resources gives no usable path for those.
    spec = find_spec("blendsim_profiles")
    for location in spec.submodule_search_locations or () if spec else ():
        return Path(location)
    raise ProfileError("no profiles are installed; run `blendsim profile import -o profiles`")


def load_profile(
    gpu: GpuSpec, model: ModelSpec, tp: int = 1, directory: Path | None = None
) -> Profile:
    """The profile of `model` on `tp` × `gpu`: its own directory, else that of a model of the same
    shape, else cut from the GPU's kernels. ProfileError names what there is.
    """
    root = directory or profiles_directory()
    if not (root / gpu.name).is_dir():
        have = sorted(path.name for path in root.iterdir() if path.is_dir())
        raise ProfileError(f"{root}: no profile for {gpu.name}; there are {', '.join(have)}")
    shape = shape_of(model)
    places = sorted((root / gpu.name).glob(f"*/tp{tp}"), key=lambda p: p.parent.name != model.name)
    for place in places:
        profile = read_profile(place)
        if dict(profile.shape) == shape:
            return replace(profile, model=model.name)
    kernels = root / gpu.name / DIRECTORY
    if not kernels.is_dir():
        have = sorted(f"{p.parent.name}/{p.name}" for p in (root / gpu.name).glob("*/tp*"))
        raise ProfileError(
            f"{root / gpu.name}: no profile for {model.name} tp{tp} and no kernels/ "
            f"to cut it from; there are {', '.join(have) or 'none'}"
        )
    return derive_profile(_atlas(kernels), gpu, model, tp)


_atlas = cache(read_atlas)
