"""KernelAtlas: everything measured about one GPU, for any model: GEMM over (n, k), attention over
head shapes, experts over their sizes, all-reduce over GPUs. On disk `profiles/<gpu>/kernels/`.

A model's profile is cut out of its GPU's atlas, so a model nobody imported still gets one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blendsim.files import make_directory
from blendsim.formats import BF16, FP8, FP8_BLOCK, KV_FORMATS, NVFP4, WEIGHTS
from blendsim.perf.grids import (
    AttentionGrid,
    ExpertGrid,
    ExpertShape,
    GemmGrid,
    HeadShape,
    ReduceGrid,
)
from blendsim.perf.plausible import (
    gpu_of,
    require_experts,
    require_gemms,
    require_prompts,
    require_reads,
)
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
from blendsim.specs import GpuSpec, ModelSpec

SCHEMA = "kernels"
SCHEMA_VERSION = 1
DIRECTORY = "kernels"
#: What its meta.toml says, for every profile that is cut from it.
STATED = ("source", "backend", "device", "dates", "tables", "small_operators", "waves")
#: The tables of GEMMs by format of weights and of attention by format of KV. Those that are not
#: bf16, and experts.csv, are there only where it was measured.
GEMMS = {
    BF16: "gemm.csv",
    FP8: "gemm_fp8.csv",
    FP8_BLOCK: "gemm_fp8_block.csv",
    NVFP4: "gemm_nvfp4.csv",
}
DECODE = {BF16: "decode_attention.csv", FP8: "decode_attention_fp8.csv"}
PREFILL = {BF16: "prefill_attention.csv", FP8: "prefill_attention_fp8.csv"}
#: Of layers that attend to a window, which is a column more.
DECODE_WINDOWED = {
    kv: name.replace("attention", "attention_windowed") for kv, name in DECODE.items()
}
PREFILL_WINDOWED = {
    kv: name.replace("attention", "attention_windowed") for kv, name in PREFILL.items()
}
EXPERTS = "experts.csv"
REDUCE = "all_reduce.csv"
META = "meta.toml"
_ATTENTION = (DECODE, PREFILL, DECODE_WINDOWED, PREFILL_WINDOWED)
FILES = (
    *GEMMS.values(),
    *(name for names in _ATTENTION for name in names.values()),
    EXPERTS,
    REDUCE,
    META,
)
_SHAPE = ("heads", "kv_heads", "head_dim", "batch")
_WINDOWED_SHAPE = ("heads", "kv_heads", "head_dim", "window", "batch")
_EXPERT = ExpertShape._fields


class Needs(NamedTuple):
    """What a model's profile is cut from beside kernels in bf16."""

    other_weights: bool  # than bf16
    kv: str
    experts: bool
    windows: bool


def needs_of(model: ModelSpec) -> Needs:
    """What a profile of `model` may be cut from."""
    other, windows = model.weights != BF16, model.windowed_layers > 0
    return Needs(other, model.kv, model.experts > 0, windows)


@dataclass(frozen=True, slots=True, eq=False)
class KernelAtlas:
    """Measured kernels of one GPU and where they come from."""

    gemms: Mapping[str, GemmGrid]  # by format of weights: bf16 always, others where measured
    decode: Mapping[HeadShape, AttentionGrid]  # of every format of KV
    prefill: Mapping[HeadShape, AttentionGrid]
    experts: ExpertGrid | None
    reduce: Mapping[int, ReduceGrid]  # by number of GPUs
    meta: Mapping[str, Any]


def write_atlas(atlas: KernelAtlas, directory: Path) -> None:
    """Write `kernels/` of one GPU; a table that it has nothing for is taken away."""
    make_directory(directory)
    for weights, name in GEMMS.items():
        _write_or_remove(directory / name, atlas.gemms.get(weights), _write_gemm)
    for names, grids in (
        (DECODE, atlas.decode),
        (PREFILL, atlas.prefill),
        (DECODE_WINDOWED, atlas.decode),
        (PREFILL_WINDOWED, atlas.prefill),
    ):
        is_windowed = names in (DECODE_WINDOWED, PREFILL_WINDOWED)
        for kv, name in names.items():
            of_table = {
                shape: grid
                for shape, grid in grids.items()
                if (shape.value_bytes, shape.window > 0) == (KV_FORMATS[kv], is_windowed)
            }
            _write_or_remove(directory / name, of_table, _write_attention)
    _write_or_remove(directory / EXPERTS, atlas.experts, _write_experts)
    write_rows(
        directory / REDUCE,
        ["gpus", "bytes", "time_us"],
        (
            [gpus, int(size), to_text(seconds)]
            for gpus, g in sorted(atlas.reduce.items())
            for size, seconds in zip(g.sizes, g.seconds, strict=True)
        ),
    )
    write_toml(directory / META, {"schema": SCHEMA, "version": SCHEMA_VERSION, **atlas.meta})


def _write_or_remove(path: Path, table: Any, write: Callable[[Path, Any], None]) -> None:
    if table:
        write(path, table)
    else:
        path.unlink(missing_ok=True)


def _write_gemm(path: Path, grid: GemmGrid) -> None:
    write_rows(
        path,
        ["n", "k", *map(str, grid.tokens)],
        (
            [n, k, *map(to_text, grid.seconds[i, j])]
            for i, n in enumerate(grid.outputs)
            for j, k in enumerate(grid.inputs)
            if not np.isnan(grid.seconds[i, j]).all()
        ),
    )


def _write_attention(path: Path, grids: Mapping[HeadShape, AttentionGrid]) -> None:
    lengths = sorted({int(s) for g in grids.values() for s in g.lengths})
    is_windowed = any(shape.window for shape in grids)
    write_rows(
        path,
        [*(_WINDOWED_SHAPE if is_windowed else _SHAPE), *map(str, lengths)],
        (
            [
                *shape[:3],
                *([shape.window] if is_windowed else []),
                int(batch),
                *_spread(g, i, lengths),
            ]
            for shape, g in sorted(grids.items())
            for i, batch in enumerate(g.batches)
        ),
    )


def _write_experts(path: Path, grid: ExpertGrid) -> None:
    formats = list(WEIGHTS)
    shapes = sorted(grid.seconds, key=lambda s: (formats.index(s.weights), s))
    write_rows(
        path,
        [*_EXPERT, *map(str, grid.tokens)],
        ([*shape, *map(to_text, grid.seconds[shape])] for shape in shapes),
    )


def _spread(grid: AttentionGrid, row: int, lengths: Sequence[int]) -> list[str]:
    """One row of a grid over the columns of all grids."""
    have = {int(s): to_text(grid.seconds[row, j]) for j, s in enumerate(grid.lengths)}
    return [have.get(s, "") for s in lengths]


def read_atlas(directory: Path, needs: Needs | None = None) -> KernelAtlas:
    """Read what `write_atlas` wrote: all of it, or the tables that are needed."""
    meta = read_toml(directory / "meta.toml", SCHEMA, SCHEMA_VERSION)
    require_keys(directory / "meta.toml", meta, STATED)
    gpu = gpu_of(meta, directory.parent.name)
    return KernelAtlas(
        gemms={
            weights: _read_gemm(directory / name, gpu, weights)
            for weights, name in GEMMS.items()
            if (needs is None or weights == BF16 or needs.other_weights)
            and _is_there(directory / name, weights)
        },
        decode=_read_attentions(directory, (DECODE, DECODE_WINDOWED), require_reads, gpu, needs),
        prefill=_read_attentions(
            directory, (PREFILL, PREFILL_WINDOWED), require_prompts, gpu, needs
        ),
        experts=_read_experts(directory / EXPERTS, gpu)
        if (needs is None or needs.experts) and (directory / EXPERTS).exists()
        else None,
        reduce=_read_reduce(directory / REDUCE),
        meta=meta,
    )


def _is_there(path: Path, kind: str) -> bool:
    """Whether a table is to be read; one of bf16 has to be."""
    return kind == BF16 or path.exists()


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


def _read_gemm(path: Path, gpu: GpuSpec | None, weights: str) -> GemmGrid:
    header, rows = read_rows(path, ["n", "k"])
    tokens = lengths_of(path, header, 2)
    read = times(path, rows, range(2, len(header)), has_holes=True)
    shapes = whole_keys(path, rows, 2)
    operations = 2.0 * shapes.prod(axis=1)[:, None] * tokens
    require_gemms(path, gpu, operations, read, 2, weights)
    outputs, inputs = (np.unique(shapes[:, i]) for i in (0, 1))
    seconds = np.full((len(outputs), len(inputs), len(tokens)), np.nan)
    seconds[np.searchsorted(outputs, shapes[:, 0]), np.searchsorted(inputs, shapes[:, 1])] = read
    return GemmGrid(tokens.astype(np.int64), outputs, inputs, seconds)


def _read_attentions(
    directory: Path,
    kinds: tuple[Mapping[str, str], Mapping[str, str]],
    require: Callable[..., None],
    gpu: GpuSpec | None,
    needs: Needs | None,
) -> dict[HeadShape, AttentionGrid]:
    """Tables by format of KV, of the whole context and of windows."""
    grids: dict[HeadShape, AttentionGrid] = {}
    for names, header in zip(kinds, (_SHAPE, _WINDOWED_SHAPE), strict=True):
        if header is _WINDOWED_SHAPE and needs is not None and not needs.windows:
            continue
        for kv, name in names.items():
            path = directory / name
            if needs is not None and kv not in (BF16, needs.kv):
                continue
            if (header is _SHAPE and kv == BF16) or path.exists():
                grids |= _read_attention(path, header, require, gpu, KV_FORMATS[kv])
    return grids


def _read_attention(
    path: Path,
    shape_header: Sequence[str],
    require: Callable[..., None],
    gpu: GpuSpec | None,
    value_bytes: int,
) -> dict[HeadShape, AttentionGrid]:
    header, rows = read_rows(path, shape_header)
    first = len(shape_header)
    lengths = lengths_of(path, header, first)
    read = times(path, rows, range(first, len(header)), has_holes=True)
    sizes = whole_keys(path, rows, first)
    shapes = [
        HeadShape(heads, kv_heads, head_dim, value_bytes, sum(window))
        for heads, kv_heads, head_dim, *window, _ in sizes.tolist()
    ]
    batches = sizes[:, -1].astype(np.float64)
    require(path, gpu, shapes, (batches, lengths), read, first)
    grids = {}
    for shape in dict.fromkeys(shapes):
        of_shape = np.array([other == shape for other in shapes])
        seconds = read[of_shape]
        keep = ~np.isnan(seconds).all(axis=0)
        grids[shape] = AttentionGrid(batches[of_shape], lengths[keep], seconds[:, keep])
    return grids


def _read_experts(path: Path, gpu: GpuSpec | None) -> ExpertGrid:
    header, rows = read_rows(path, _EXPERT)
    first = len(_EXPERT)
    tokens = lengths_of(path, header, first)
    seconds = times(path, rows, range(first, len(header)), has_holes=True)
    sizes = whole_keys(path, rows, first, tuple(WEIGHTS))
    shapes = [
        ExpertShape(row[0], *of_row)
        for row, of_row in zip(rows, sizes[:, 1:].tolist(), strict=True)
    ]
    require_experts(path, gpu, shapes, tokens, seconds, first)
    return ExpertGrid(tokens.astype(np.int64), dict(zip(shapes, seconds, strict=True)))
