"""Profiles on disk: `profiles/<gpu>/<model>/tp<N>/*.csv + meta.toml`.

A profile holds the kernels of one model on one kind of GPU. A model without a directory of its own
takes the tables of another model of the same shape, else they are cut from the GPU's kernel atlas.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.errors import ProfileError
from blendsim.files import make_directory
from blendsim.formats import KV_FORMATS, WEIGHTS
from blendsim.perf.atlas import DIRECTORY, needs_of, read_atlas
from blendsim.perf.derive import derive_profile
from blendsim.perf.grids import (
    AttentionGrid,
    ChunkTimes,
    HeadShape,
    ReduceGrid,
    SmallGrid,
    WindowedGrids,
)
from blendsim.perf.model_shapes import (
    MORE_SHAPE,
    SHAPE,
    delta_shape,
    format_of,
    head_shape,
    shape_of,
    token_weights,
)
from blendsim.perf.plausible import gpu_of, require_gemms, require_prompts, require_reads
from blendsim.perf.profile import OPERATORS, Profile, operators_of
from blendsim.perf.records import (
    MICRO,
    cell,
    column,
    keys,
    lengths_of,
    read_rows,
    read_toml,
    require_keys,
    require_rows,
    times,
    to_text,
    whole_keys,
    write_rows,
    write_toml,
)
from blendsim.perf.recurrent import TABLE as DELTAS
from blendsim.perf.recurrent import read_deltas, write_deltas
from blendsim.perf.scaled import scaled
from blendsim.perf.small import OPERATORS as SMALL_OPERATORS
from blendsim.printable import listed
from blendsim.specs import GpuSpec, ModelSpec, find_gpu

SCHEMA = "profile"
SCHEMA_VERSION = 1
_HEAD = ("gpu", "model", "tp", "notes", "shape")
_REQUIRED = (*_HEAD, "source", "backend", "device", "small_operators", "waves")
_SMALL_HEADER = ("tokens", *(f"{name}_us" for name in SMALL_OPERATORS))
CHUNKS = "prefill_chunks"
CHUNK_HEADER = ("tokens", "computed", "time_us")
META = "meta.toml"
MOST_LISTED = 5  # profiles that an error names
OVERLAP_FILE = "overlap.csv"  # measured: memory_over_compute, time_over_compute
#: The files that a profile is written as; a GPU's kernels have the first four and the last, and
#: others besides.
FILES = (
    "gemm.csv",
    "decode_attention.csv",
    "prefill_attention.csv",
    "all_reduce.csv",
    "exchange.csv",
    "decode_attention_windowed.csv",
    "prefill_attention_windowed.csv",
    DELTAS,
    "small.csv",
    f"{CHUNKS}.csv",
    META,
)


def place_under(root: Path, gpu: GpuSpec, model: ModelSpec, tp: int) -> Path:
    """Where under `root` the profile of a model on so many GPUs lies."""
    return root / gpu.measured_as / model.label / f"tp{tp}"


def write_profile(profile: Profile, directory: Path) -> None:
    """Write one `tp<N>` directory. Tables that another profile had there and this one has not are
    removed, with what was measured of its overlap.
    """
    make_directory(directory)
    for name in (*FILES, OVERLAP_FILE):
        (directory / name).unlink(missing_ok=True)
    write_gemm(directory / "gemm.csv", profile.tokens, profile.gemm, profile.operators)
    write_attention(directory / "decode_attention.csv", profile.decode)
    write_attention(directory / "prefill_attention.csv", profile.prefill)
    if profile.windowed is not None:
        for name, grid in zip(WindowedGrids._fields, profile.windowed, strict=True):
            write_attention(directory / f"{name}_attention_windowed.csv", grid)
    if profile.delta is not None:
        model = _model_of({name: getattr(profile, name) for name in _HEAD})
        assert model is not None, "a profile is of a model that its GPUs can share"
        write_deltas(directory / DELTAS, {delta_shape(model, profile.tp): profile.delta})
    if profile.reduce is not None:
        write_reduce(directory / "all_reduce.csv", profile.reduce)
    if profile.exchange is not None:
        write_reduce(directory / "exchange.csv", profile.exchange)
    if profile.small is not None:
        write_small(directory / "small.csv", profile.small)
    if profile.chunks is not None:
        write_chunks(directory / f"{CHUNKS}.csv", profile.chunks)
    head = {name: getattr(profile, name) for name in _HEAD}
    write_meta(directory, head | dict(profile.meta))


def write_meta(directory: Path, content: Mapping[str, Any]) -> None:
    """Write what a profile says of itself: the fields of _REQUIRED, and what else there is."""
    head = {"schema": SCHEMA, "version": SCHEMA_VERSION}
    write_toml(directory / META, head | dict(content))


def write_gemm(
    path: Path, tokens: Ints, seconds: Floats, operators: Sequence[str] = OPERATORS
) -> None:
    """Write a table of GEMMs, a row a size."""
    _write_columns(path, _gemm_header(operators), tokens, seconds)


def _gemm_header(operators: Sequence[str]) -> tuple[str, ...]:
    return ("tokens", *(f"{name}_us" for name in operators))


def write_reduce(path: Path, grid: ReduceGrid) -> None:
    """Write a table of all-reduces, a row a size."""
    rows = zip(grid.sizes, grid.seconds, strict=True)
    write_rows(path, ["bytes", "time_us"], ([int(b), to_text(seconds)] for b, seconds in rows))


def write_small(path: Path, grid: SmallGrid) -> None:
    """Write a table of small operators, a row a size."""
    _write_columns(path, _SMALL_HEADER, grid.tokens, grid.seconds)


def write_chunks(path: Path, chunks: ChunkTimes) -> None:
    """Write a table of single prefill chunks, a row each."""
    rows = zip(*chunks, strict=True)
    write_rows(path, CHUNK_HEADER, ([int(q), int(c), to_text(s)] for q, c, s in rows))


def _write_columns(path: Path, header: Sequence[str], tokens: Ints, seconds: Floats) -> None:
    rows = zip(tokens.tolist(), seconds, strict=True)
    write_rows(path, header, ([m, *map(to_text, row)] for m, row in rows))


def write_attention(path: Path, grid: AttentionGrid) -> None:
    """Write a table of attention, a row a batch."""
    rows = zip(grid.batches, grid.seconds, strict=True)
    header = ["batch", *(f"{length:g}" for length in grid.lengths)]
    write_rows(path, header, ([f"{b:g}", *map(to_text, row)] for b, row in rows))


def read_profile(directory: Path) -> Profile:
    """Read what `write_profile` wrote; refuses other files, unknown schema versions, and tables
    with what is no time, out of order, or faster than the GPU.
    """
    meta = read_toml(directory / META, SCHEMA, SCHEMA_VERSION)
    require_keys(directory / META, meta, _REQUIRED)
    gpu, model = gpu_of(meta, ""), _model_of(meta)
    operators = operators_of(shape_of(model) if model else {})
    tokens, gemm = _read_columns(directory / "gemm.csv", _gemm_header(operators))
    shape = None if model is None else head_shape(model, meta["tp"])
    grids = _read_attention(directory, "", gpu, shape)
    windowed = None
    delta = None
    if model is not None and model.delta_heads:
        found = read_deltas(directory / DELTAS, gpu)
        delta = found.get(delta_shape(model, meta["tp"]))
        if delta is None:
            raise ProfileError(
                f"{directory / DELTAS}: no heads of {model.name} on {meta['tp']} GPU(s); run "
                "`blendsim profile import` again"
            )
    elif model is not None and shape is not None and model.window:
        windowed = _read_attention(directory, "_windowed", gpu, shape._replace(window=model.window))
    if model is not None:
        sizes = np.array(list(token_weights(model, meta["tp"]).values()))
        work = 2.0 * tokens[:, None] * sizes
        formats = [format_of(model, name) for name in operators]
        require_gemms(directory / "gemm.csv", gpu, work, gemm, 1, formats)
    own = ("schema", "version", *_HEAD)
    is_joined = model is not None and model.expert_ranks > 1
    return Profile(
        gpu=meta["gpu"],
        model=meta["model"],
        tp=meta["tp"],
        tokens=tokens,
        gemm=gemm,
        decode=grids.decode,
        prefill=grids.prefill,
        reduce=_read_reduce(directory / "all_reduce.csv") if meta["tp"] > 1 else None,
        shape=meta["shape"],
        notes=tuple(meta["notes"]),
        meta={key: value for key, value in meta.items() if key not in own},
        small=_read_small(directory / "small.csv"),
        chunks=_read_chunks(directory / f"{CHUNKS}.csv"),
        windowed=windowed,
        exchange=_read_reduce(directory / "exchange.csv") if is_joined else None,
        delta=delta,
    )


def _read_attention(
    directory: Path, kind: str, gpu: GpuSpec | None, shape: HeadShape | None
) -> WindowedGrids:
    """Both tables of attention of a kind of layers, no faster than the GPU for heads of `shape`."""
    grids = []
    for name, require in (("decode", require_reads), ("prefill", require_prompts)):
        path = directory / f"{name}_attention{kind}.csv"
        grids.append(grid := _read_grid(path))
        if shape is not None:
            shapes = [shape] * len(grid.batches)
            require(path, gpu, shapes, (grid.batches, grid.lengths), grid.seconds, 1)
    _require_whole_prompts(path, grids[1])
    return WindowedGrids(*grids)


def _model_of(meta: Mapping[str, Any]) -> ModelSpec | None:
    """The sizes that a profile says it is of; None where they are none that its GPUs can share,
    which no model asks for.
    """
    shape, tp = meta["shape"], meta["tp"]
    sizes = [shape.get(name) for name in SHAPE] if isinstance(shape, Mapping) else [None]
    if not all(type(size) is int and size > 0 for size in [*sizes, tp]):
        return None
    more = {name: shape.get(name, usual) for name, usual in MORE_SHAPE.items()}
    if not isinstance(more["expert_parallel"], bool):
        return None
    counts = [more[name] for name, usual in MORE_SHAPE.items() if type(usual) is int]
    formats = (more["weights"], WEIGHTS), (more["kv"], KV_FORMATS)
    if not all(type(count) is int and count >= 0 for count in counts):
        return None
    if not more["expert_ranks"]:
        return None
    if not all(isinstance(name, str) and name in known for name, known in formats):
        return None
    own = {name: shape[name] for name in SHAPE} | more
    model = ModelSpec(meta["model"], 1, context=1, **own)
    return model if model.heads % tp == 0 else None


def _read_columns(path: Path, header: Sequence[str]) -> tuple[Ints, Floats]:
    """Sizes and seconds of a table of `_write_columns` without holes."""
    _, rows = read_rows(path, header)
    seconds = times(path, rows, range(1, len(header)))
    return whole_keys(path, rows, 1)[:, 0], seconds


def _read_reduce(path: Path) -> ReduceGrid:
    _, rows = read_rows(path, ["bytes", "time_us"])
    seconds = times(path, rows, [1])[:, 0]
    return ReduceGrid(keys(path, rows, 1)[:, 0], seconds)


def _read_small(path: Path) -> SmallGrid | None:
    """Here a time of 0 is one that another operator includes."""
    if not path.exists():
        return None
    _, rows = read_rows(path, _SMALL_HEADER)
    require_rows(path, rows)
    columns = [column(path, rows, i + 1) for i in range(len(SMALL_OPERATORS))]
    seconds = np.column_stack(columns)
    for i, j in np.argwhere(~(seconds >= 0.0))[:1].tolist():
        raise ProfileError(f"{cell(path, i, j + 1)}: {rows[i][j + 1]!r} is no time of 0 or more")
    return SmallGrid(whole_keys(path, rows, 1)[:, 0], seconds * MICRO)


def _read_chunks(path: Path) -> ChunkTimes | None:
    if not path.exists():
        return None
    _, rows = read_rows(path, CHUNK_HEADER)
    seconds = times(path, rows, [2])[:, 0]
    tokens, computed = (column(path, rows, i) for i in (0, 1))
    return ChunkTimes(tokens, computed, seconds)


def _read_grid(path: Path) -> AttentionGrid:
    header, rows = read_rows(path, ["batch"])
    lengths = lengths_of(path, header, 1)
    seconds = times(path, rows, range(1, len(header)), has_holes=True)
    batches = keys(path, rows, 1)[:, 0]
    if np.isnan(seconds[0, 0]):
        raise ProfileError(f"{cell(path, 0, 1)}: no time; holes are filled from smaller sizes")
    return AttentionGrid(batches, lengths, seconds)


def _require_whole_prompts(path: Path, grid: AttentionGrid) -> None:
    """ProfileError unless there are two batches of whole requests, the first without holes."""
    whole = np.flatnonzero(grid.batches >= 1.0)
    if len(whole) < 2:
        raise ProfileError(f"{path}: {len(whole)} batches of 1 or more; measure two")
    for j in np.flatnonzero(np.isnan(grid.seconds[whole[0]]))[:1].tolist():
        raise ProfileError(
            f"{cell(path, int(whole[0]), j + 1)}: no time; holes are filled from smaller batches"
        )


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
    shape, else cut from the GPU's kernels; of a GPU that a file describes those of the one that it
    is like, scaled. ProfileError names what there is.
    """
    if gpu.like:
        return scaled(load_profile(find_gpu(gpu.like), model, tp, directory), model, gpu)
    root = directory or profiles_directory()
    if not (root / gpu.name).is_dir():
        have = sorted(path.name for path in root.iterdir() if path.is_dir())
        raise ProfileError(
            f"{root}: no profile for {gpu.name}; there are {listed(have, MOST_LISTED)}"
        )
    shape = shape_of(model)
    places = sorted((root / gpu.name).glob(f"*/tp{tp}"), key=lambda p: p.parent.name != model.label)
    for place in places:
        profile = read_profile(place)
        if dict(profile.shape) == shape:
            return replace(profile, model=model.name)
    kernels = root / gpu.name / DIRECTORY
    if not kernels.is_dir():
        have = sorted(f"{p.parent.name}/{p.name}" for p in (root / gpu.name).glob("*/tp*"))
        raise ProfileError(
            f"{root / gpu.name}: no profile for {model.label} tp{tp} and no kernels/ "
            f"to cut it from; there are {listed(have, MOST_LISTED)}"
        )
    return derive_profile(_atlas(kernels, needs_of(model)), gpu, model, tp)


_atlas = cache(read_atlas)
