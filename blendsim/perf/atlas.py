"""KernelAtlas: everything measured about one GPU, for any model: GEMM over (n, k), attention over
head shapes, all-reduce over GPUs. On disk `profiles/<gpu>/kernels/`.

A model's profile is cut out of its GPU's atlas, so a model nobody imported still gets one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blendsim.files import make_directory
from blendsim.perf.grids import AttentionGrid, GemmGrid, HeadShape, ReduceGrid
from blendsim.perf.plausible import gpu_of, require_gemms, require_prompts, require_reads
from blendsim.perf.records import (
    lengths_of,
    read_rows,
    read_toml,
    require_keys,
    times,
    to_text,
    whole_keys,
    write_rows,
    write_toml,
)
from blendsim.specs import GpuSpec

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
    gpu = gpu_of(meta, directory.parent.name)
    return KernelAtlas(
        gemm=_read_gemm(directory / "gemm.csv", gpu),
        decode=_read_attention(directory / "decode_attention.csv", require_reads, gpu),
        prefill=_read_attention(directory / "prefill_attention.csv", require_prompts, gpu),
        reduce=_read_reduce(directory / "all_reduce.csv"),
        meta=meta,
    )


def _read_reduce(path: Path) -> dict[int, ReduceGrid]:
    """All-reduces by number of GPUs; none where the table has its header only."""
    _, rows = read_rows(path, ["gpus", "bytes", "time_us"])
    if not rows:
        return {}
    gpus, sizes = whole_keys(path, rows, 2).T
    seconds = times(path, rows, [2])[:, 0]
    return {
        int(g): ReduceGrid(sizes[gpus == g].astype(np.float64), seconds[gpus == g])
        for g in np.unique(gpus)
    }


def _read_gemm(path: Path, gpu: GpuSpec | None) -> GemmGrid:
    header, rows = read_rows(path, ["n", "k"])
    tokens = lengths_of(path, header, 2)
    read = times(path, rows, range(2, len(header)), has_holes=True)
    shapes = whole_keys(path, rows, 2)
    require_gemms(path, gpu, 2.0 * shapes.prod(axis=1)[:, None] * tokens, read, 2)
    outputs, inputs = (np.unique(shapes[:, i]) for i in (0, 1))
    seconds = np.full((len(outputs), len(inputs), len(tokens)), np.nan)
    seconds[np.searchsorted(outputs, shapes[:, 0]), np.searchsorted(inputs, shapes[:, 1])] = read
    return GemmGrid(tokens.astype(np.int64), outputs, inputs, seconds)


def _read_attention(
    path: Path, require: Callable[..., None], gpu: GpuSpec | None
) -> dict[HeadShape, AttentionGrid]:
    header, rows = read_rows(path, _SHAPE)
    first = len(_SHAPE)
    lengths = lengths_of(path, header, first)
    read = times(path, rows, range(first, len(header)), has_holes=True)
    sizes = whole_keys(path, rows, first)
    shapes = [HeadShape(*row) for row in sizes[:, :3].tolist()]
    batches = sizes[:, 3].astype(np.float64)
    require(path, gpu, shapes, (batches, lengths), read, first)
    grids = {}
    for shape in dict.fromkeys(shapes):
        of_shape = np.array([other == shape for other in shapes])
        seconds = read[of_shape]
        keep = ~np.isnan(seconds).all(axis=0)
        grids[shape] = AttentionGrid(batches[of_shape], lengths[keep], seconds[:, keep])
    return grids
