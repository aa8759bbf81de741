"""KernelAtlas: everything measured about one GPU, for any model: GEMM over (n, k), attention over
head shapes, experts and the projections of latent attention over their sizes, all-reduce,
all-gather and reduce-scatter over GPUs. On disk `profiles/<gpu>/kernels/`.

A model's profile is cut out of its GPU's atlas, so a model nobody imported still gets one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blendsim.files import make_directory
from blendsim.formats import BF16, FP8, FP8_BLOCK, KV_FORMATS, NVFP4, WEIGHTS
from blendsim.perf.grids import (
    AttentionGrid,
    DeltaGrid,
    DeltaShape,
    ExpertGrid,
    ExpertShape,
    GemmGrid,
    HeadShape,
    LatentGrid,
    LatentShape,
    ReduceGrid,
    Shape,
    TokenGrid,
)
from blendsim.perf.plausible import (
    gpu_of,
    require_experts,
    require_gemms,
    require_projections,
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
from blendsim.perf.recurrent import TABLE as DELTAS
from blendsim.perf.recurrent import read_deltas, write_deltas
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
ATTENTION = DECODE, PREFILL = "decode_attention", "prefill_attention"
#: Kinds of attention by the size of a HeadShape that tells them from the first, a column more: of
#: the whole context, of a window, and of one vector that stands for all heads' K and V. Heads of
#: WIDE values have tables of their own, with the columns of the first.
_KINDS = ("", "window", "latent", "wide")
_ENDINGS = {"": "", "window": "_windowed", "latent": "_latent", "wide": "_wide"}
_NO_COLUMN = ("", "wide")
WIDE = 256
EXPERTS = "experts.csv"
REDUCE = "all_reduce.csv"
EXCHANGE = "gather_scatter.csv"  # all-gathers and reduce-scatters, for experts of several replicas
META = "meta.toml"
PROJECTIONS = "projections.csv"  # of latent attention
_SHAPE = ("heads", "kv_heads", "head_dim")
_EXCHANGE_HEADER = ("gpus", "bytes", "all_gather_us", "reduce_scatter_us")


def attention_table(name: str, kind: str, kv: str) -> str:
    """The file of DECODE or PREFILL attention of one of _KINDS with KV in a format."""
    return f"{name}{_ENDINGS[kind]}{'' if kv == BF16 else f'_{kv}'}.csv"


def table_of(name: str, shape: HeadShape) -> str:
    """The file of DECODE or PREFILL attention of heads of a shape."""
    kv = next(kv for kv, value_bytes in KV_FORMATS.items() if value_bytes == shape.value_bytes)
    return attention_table(name, _kind(shape), kv)


FILES = (
    *GEMMS.values(),
    *(
        attention_table(name, kind, kv)
        for name in ATTENTION
        for kind in _KINDS
        for kv in KV_FORMATS
    ),
    EXPERTS,
    PROJECTIONS,
    DELTAS,
    REDUCE,
    EXCHANGE,
    META,
)


class Needs(NamedTuple):
    """What a model's profile is cut from beside kernels in bf16."""

    other_weights: bool  # than bf16
    kv: str
    experts: bool
    kind: str  # of _KINDS, beside attention to the whole context
    deltas: bool = False


def needs_of(model: ModelSpec) -> Needs:
    """What a profile of `model` may be cut from."""
    kind = "latent" if model.latent else "window" if model.windowed_layers else ""
    if model.delta_heads or (not kind and model.head_dim == WIDE):
        kind = "wide"
    return Needs(model.weights != BF16, model.kv, model.experts > 0, kind, model.delta_heads > 0)


@dataclass(frozen=True, slots=True, eq=False)
class KernelAtlas:
    """Measured kernels of one GPU and where they come from."""

    gemms: Mapping[str, GemmGrid]  # by format of weights: bf16 always, others where measured
    decode: Mapping[HeadShape, AttentionGrid]  # of every format of KV
    prefill: Mapping[HeadShape, AttentionGrid]
    experts: ExpertGrid | None
    projections: LatentGrid | None  # of latent attention
    reduce: Mapping[int, ReduceGrid]  # by number of GPUs
    gather: Mapping[int, ReduceGrid]  # the same of all-gathers, by the bytes of what is gathered
    scatter: Mapping[int, ReduceGrid]  # and of reduce-scatters, by the bytes of what is summed
    meta: Mapping[str, Any]
    deltas: Mapping[DeltaShape, DeltaGrid] = field(default_factory=dict)


def write_atlas(atlas: KernelAtlas, directory: Path) -> None:
    """Write `kernels/` of one GPU; a table that it has nothing for is taken away."""
    make_directory(directory)
    for weights, name in GEMMS.items():
        _write_or_remove(directory / name, atlas.gemms.get(weights), _write_gemm)
    for name, grids in ((DECODE, atlas.decode), (PREFILL, atlas.prefill)):
        for kind in _KINDS:
            for kv in KV_FORMATS:
                file = attention_table(name, kind, kv)
                of_table = {s: grid for s, grid in grids.items() if table_of(name, s) == file}
                _write_or_remove(directory / file, of_table, partial(_write_attention, kind=kind))
    _write_or_remove(directory / EXPERTS, atlas.experts, _write_tokens)
    _write_or_remove(directory / PROJECTIONS, atlas.projections, _write_tokens)
    _write_or_remove(directory / DELTAS, atlas.deltas, write_deltas)
    write_rows(
        directory / REDUCE,
        ["gpus", "bytes", "time_us"],
        (
            [gpus, int(size), to_text(seconds)]
            for gpus, g in sorted(atlas.reduce.items())
            for size, seconds in zip(g.sizes, g.seconds, strict=True)
        ),
    )
    exchanges = (atlas.gather, atlas.scatter) if atlas.gather else None
    _write_or_remove(directory / EXCHANGE, exchanges, _write_exchange)
    write_toml(directory / META, {"schema": SCHEMA, "version": SCHEMA_VERSION, **atlas.meta})


def _kind(shape: HeadShape) -> str:
    if shape.latent or shape.window:
        return "latent" if shape.latent else "window"
    return "wide" if shape.head_dim == WIDE else ""


def _header(kind: str) -> tuple[str, ...]:
    """The columns of a table of attention before its times."""
    return (*_SHAPE, *([] if kind in _NO_COLUMN else [kind]), "batch")


def _write_exchange(path: Path, grids: tuple[Mapping[int, ReduceGrid], ...]) -> None:
    write_rows(
        path,
        _EXCHANGE_HEADER,
        (
            [gpus, int(size), *map(to_text, seconds)]
            for gpus in sorted(grids[0])
            for size, *seconds in zip(
                grids[0][gpus].sizes, *(grid[gpus].seconds for grid in grids), strict=True
            )
        ),
    )


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


def _write_attention(path: Path, grids: Mapping[HeadShape, AttentionGrid], kind: str) -> None:
    lengths = sorted({int(s) for g in grids.values() for s in g.lengths})
    columns = _header(kind)[:-1]
    write_rows(
        path,
        [*_header(kind), *map(str, lengths)],
        (
            [*(getattr(shape, name) for name in columns), int(batch), *_spread(g, i, lengths)]
            for shape, g in sorted(grids.items())
            for i, batch in enumerate(g.batches)
        ),
    )


def _write_tokens(path: Path, grid: TokenGrid[Any]) -> None:
    """Times by numbers of tokens, a shape a row."""
    formats = list(WEIGHTS)
    shapes = sorted(grid.seconds, key=lambda s: (formats.index(s.weights), s))
    write_rows(
        path,
        [*type(shapes[0])._fields, *map(str, grid.tokens)],
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
    gather, scatter = {}, {}
    if (needs is None or needs.experts) and (directory / EXCHANGE).exists():
        gather, scatter = _read_by_gpus(directory / EXCHANGE, _EXCHANGE_HEADER)
    return KernelAtlas(
        gemms={
            weights: _read_gemm(directory / name, gpu, weights)
            for weights, name in GEMMS.items()
            if (needs is None or weights == BF16 or needs.other_weights)
            and _is_there(directory / name, weights)
        },
        decode=_read_attentions(directory, DECODE, require_reads, gpu, needs),
        prefill=_read_attentions(directory, PREFILL, require_prompts, gpu, needs),
        experts=_read_tokens(directory / EXPERTS, ExpertShape, partial(require_experts, gpu=gpu))
        if needs is None or needs.experts
        else None,
        projections=_read_tokens(
            directory / PROJECTIONS, LatentShape, partial(require_projections, gpu=gpu)
        )
        if needs is None or needs.kind == "latent"
        else None,
        reduce=_read_by_gpus(directory / REDUCE, ("gpus", "bytes", "time_us"))[0],
        gather=gather,
        scatter=scatter,
        meta=meta,
        deltas=read_deltas(directory / DELTAS, gpu) if needs is None or needs.deltas else {},
    )


def _is_there(path: Path, kind: str) -> bool:
    """Whether a table is to be read; one of bf16 has to be."""
    return kind == BF16 or path.exists()


def _read_by_gpus(path: Path, header: Sequence[str]) -> list[dict[int, ReduceGrid]]:
    """Each column of times by number of GPUs; none where the table has its header only."""
    _, rows = read_rows(path, header)
    columns = range(2, len(header))
    if not rows:
        return [{} for _ in columns]
    gpus, sizes = whole_keys(path, rows, 2).T
    return [
        {
            int(g): ReduceGrid(sizes[gpus == g].astype(np.float64), seconds[gpus == g])
            for g in np.unique(gpus)
        }
        for seconds in times(path, rows, columns).T
    ]


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
    name: str,
    require: Callable[..., None],
    gpu: GpuSpec | None,
    needs: Needs | None,
) -> dict[HeadShape, AttentionGrid]:
    """Tables of all kinds and formats of KV that there are, or that are needed."""
    grids: dict[HeadShape, AttentionGrid] = {}
    for kind in _KINDS:
        for kv, value_bytes in KV_FORMATS.items():
            path = directory / attention_table(name, kind, kv)
            if needs is not None and (kind not in ("", needs.kind) or kv not in (BF16, needs.kv)):
                continue
            if _is_there(path, kind or kv):
                grids |= _read_attention(path, kind, require, gpu, value_bytes)
    return grids


def _read_attention(
    path: Path,
    kind: str,
    require: Callable[..., None],
    gpu: GpuSpec | None,
    value_bytes: int,
) -> dict[HeadShape, AttentionGrid]:
    columns = _header(kind)
    header, rows = read_rows(path, columns)
    first = len(columns)
    lengths = lengths_of(path, header, first)
    read = times(path, rows, range(first, len(header)), has_holes=True)
    sizes = whole_keys(path, rows, first)
    shapes = [
        HeadShape(heads, kv_heads, head_dim, value_bytes, **({kind: more[0]} if more else {}))
        for heads, kv_heads, head_dim, *more, _ in sizes.tolist()
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


def _read_tokens(
    path: Path, kind: type[Shape], require: Callable[..., None]
) -> TokenGrid[Shape] | None:
    """What `_write_tokens` wrote; None where there is no such table."""
    if not path.exists():
        return None
    header, rows = read_rows(path, kind._fields)
    first = len(kind._fields)
    tokens = lengths_of(path, header, first)
    seconds = times(path, rows, range(first, len(header)), has_holes=True)
    sizes = whole_keys(path, rows, first, tuple(WEIGHTS))
    shapes = [
        kind(row[0], *of_row) for row, of_row in zip(rows, sizes[:, 1:].tolist(), strict=True)
    ]
    require(path, shapes=shapes, tokens=tokens, seconds=seconds, first=first)
    return TokenGrid(tokens.astype(np.int64), dict(zip(shapes, seconds, strict=True)))
