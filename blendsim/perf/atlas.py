"""KernelAtlas: everything measured about one GPU, for any model: GEMM over (n, k), attention over
head shapes, all-reduce over GPUs. On disk `profiles/<gpu>/kernels/`.

A model's profile is cut out of its GPU's atlas, so a model nobody imported still gets one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blendsim.errors import ProfileError
from blendsim.files import make_directory
from blendsim.perf.grids import AttentionGrid, GemmGrid, HeadShape, Ints, ReduceGrid
from blendsim.perf.records import (
    MICRO,
    column,
    read_rows,
    read_toml,
    require_keys,
    to_seconds,
    to_text,
    write_rows,
    write_toml,
)

SCHEMA = "kernels"
SCHEMA_VERSION = 1
DIRECTORY = "kernels"
#: What its meta.toml says, for every profile that is cut from it.
STATED = ("source", "backend", "device", "dates", "tables", "small_operators", "waves")
_SHAPE = ("heads", "kv_heads", "head_dim", "batch")


@dataclass(frozen=True, slots=True, eq=False)
class KernelAtlas:
    """Measured kernels of one GPU and where they come from."""

    gemm: GemmGrid
    decode: Mapping[HeadShape, AttentionGrid]
    prefill: Mapping[HeadShape, AttentionGrid]
    reduce: Mapping[int, ReduceGrid]  # by number of GPUs
    meta: Mapping[str, Any]


def write_atlas(atlas: KernelAtlas, directory: Path) -> None:
    """Write `kernels/` of one GPU."""
    make_directory(directory)
    grid = atlas.gemm
    write_rows(
        directory / "gemm.csv",
        ["n", "k", *map(str, grid.tokens)],
        (
            [n, k, *map(to_text, grid.seconds[i, j])]
            for i, n in enumerate(grid.outputs)
            for j, k in enumerate(grid.inputs)
            if not np.isnan(grid.seconds[i, j]).all()
        ),
    )
    for name, grids in (("decode_attention", atlas.decode), ("prefill_attention", atlas.prefill)):
        lengths = sorted({int(s) for g in grids.values() for s in g.lengths})
        write_rows(
            directory / f"{name}.csv",
            [*_SHAPE, *map(str, lengths)],
            (
                [*shape, int(batch), *_spread(g, i, lengths)]
                for shape, g in sorted(grids.items())
                for i, batch in enumerate(g.batches)
            ),
        )
    write_rows(
        directory / "all_reduce.csv",
        ["gpus", "bytes", "time_us"],
        (
            [gpus, int(size), to_text(seconds)]
            for gpus, g in sorted(atlas.reduce.items())
            for size, seconds in zip(g.sizes, g.seconds, strict=True)
        ),
    )
    write_toml(directory / "meta.toml", {"schema": SCHEMA, "version": SCHEMA_VERSION, **atlas.meta})


def _spread(grid: AttentionGrid, row: int, lengths: Sequence[int]) -> list[str]:
    """One row of a grid over the columns of all grids."""
    have = {int(s): to_text(grid.seconds[row, j]) for j, s in enumerate(grid.lengths)}
    return [have.get(s, "") for s in lengths]


def read_atlas(directory: Path) -> KernelAtlas:
    """Read what `write_atlas` wrote."""
    meta = read_toml(directory / "meta.toml", SCHEMA, SCHEMA_VERSION)
    require_keys(directory / "meta.toml", meta, STATED)
    _, rows = read_rows(directory / "all_reduce.csv", ["gpus", "bytes", "time_us"])
    gpus, sizes, times = (column(directory / "all_reduce.csv", rows, i) for i in range(3))
    reduce = {
        int(g): ReduceGrid(sizes[gpus == g], times[gpus == g] * MICRO) for g in np.unique(gpus)
    }
    return KernelAtlas(
        gemm=_read_gemm(directory / "gemm.csv"),
        decode=_read_attention(directory / "decode_attention.csv"),
        prefill=_read_attention(directory / "prefill_attention.csv"),
        reduce=reduce,
        meta=meta,
    )


def _read_gemm(path: Path) -> GemmGrid:
    header, rows = read_rows(path, ["n", "k"])
    tokens: Ints = np.array(list(map(int, header[2:])), np.int64)
    shapes = [(int(row[0]), int(row[1])) for row in rows]
    outputs = np.unique([n for n, _ in shapes]).astype(np.int64)
    inputs = np.unique([k for _, k in shapes]).astype(np.int64)
    seconds = np.full((len(outputs), len(inputs), len(tokens)), np.nan)
    for line, ((n, k), row) in enumerate(zip(shapes, rows, strict=True), start=2):
        try:
            times = [to_seconds(text) for text in row[2:]]
        except ValueError as error:
            raise ProfileError(f"{path}: line {line}: {error}") from error
        seconds[np.searchsorted(outputs, n), np.searchsorted(inputs, k)] = times
    return GemmGrid(tokens, outputs, inputs, seconds)


def _read_attention(path: Path) -> dict[HeadShape, AttentionGrid]:
    header, rows = read_rows(path, _SHAPE)
    lengths = np.array(list(map(int, header[len(_SHAPE) :])), np.float64)
    groups: dict[HeadShape, list[list[str]]] = {}
    for row in rows:
        groups.setdefault(HeadShape(int(row[0]), int(row[1]), int(row[2])), []).append(row[3:])
    grids = {}
    for shape, group in groups.items():
        seconds = np.array([[to_seconds(text) for text in row[1:]] for row in group])
        keep = ~np.isnan(seconds).all(axis=0)
        batches = np.array([float(row[0]) for row in group])
        grids[shape] = AttentionGrid(batches, lengths[keep], seconds[:, keep])
    return grids
