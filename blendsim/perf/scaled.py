"""Kernels of a GPU that a file describes: those of the one that it is like, each at the same share
of the roofline (Williams, Waterman, Patterson, CACM 2009).

A kernel that takes t there takes t · roof′/roof here, where

    roof = max(FLOPs / peak in its format, bytes / bandwidth)

of that kernel's own work, primed by this GPU's figures; an all-reduce's is max(bytes a GPU sends /
its link's bandwidth, the link's latency). So what is bound by the memory follows the memory,
nothing passes a roof that was not passed before, and with equal figures every time is the same to
the last digit. What a launch takes within a kernel's time is not known, and is scaled with it.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats
from blendsim.formats import BF16, FP8
from blendsim.model_spec import DELTA_HEAD
from blendsim.perf.grids import (
    AttentionGrid,
    ChunkTimes,
    DeltaGrid,
    DeltaShape,
    HeadShape,
    ReduceGrid,
    SmallGrid,
    WindowedGrids,
)
from blendsim.perf.model_shapes import (
    delta_shape,
    expert_bytes,
    format_of,
    gemm_shapes,
    head_shape,
    token_weight_bytes,
    token_weights,
)
from blendsim.perf.plausible import peak_of
from blendsim.perf.profile import EXPERTS, Profile
from blendsim.perf.waves import stretch
from blendsim.specs import BYTES_PER_VALUE, GpuSpec, ModelSpec, find_gpu


class _Pair(NamedTuple):
    """The GPU whose kernels were measured, and the one that they are scaled to."""

    before: GpuSpec
    now: GpuSpec

    def longer(self, operations: Floats, moved: Floats, weights: str = BF16) -> Floats:
        """How many times as long a kernel of so much work takes: roof′/roof."""
        before, now = (
            np.maximum(operations / peak_of(gpu, weights), moved / gpu.bandwidth) for gpu in self
        )
        return np.asarray(now / before, np.float64)


def scaled(profile: Profile, model: ModelSpec, gpu: GpuSpec) -> Profile:
    """The profile of `model` on `gpu`, which a file describes, from one measured on the GPU that it
    is like.
    """
    pair = _Pair(find_gpu(gpu.like), gpu)
    shape, tp = head_shape(model, profile.tp), profile.tp
    windowed, delta, chunks, small = profile.windowed, profile.delta, profile.chunks, profile.small
    launch = float(profile.meta["small_operators"]["launch_seconds"])
    return replace(
        profile,
        gpu=gpu.name,
        gemm=_gemms(profile, model, pair),
        decode=_with_cliffs(profile, pair, shape),
        prefill=_prefill(profile.prefill, pair, shape),
        reduce=_reduces(profile.reduce, pair, tp),
        exchange=_reduces(profile.exchange, pair, tp * model.expert_ranks),
        small=None if small is None else _small(small, pair, launch),
        chunks=None if chunks is None else _chunks(chunks, pair, shape),
        windowed=None if windowed is None else _windowed(windowed, pair, shape, model.window),
        delta=None if delta is None else _deltas(delta, pair, delta_shape(model, tp)),
        notes=(f"all tables: those of {pair.before.name}, scaled by the roofline", *profile.notes),
    )


def _gemms(profile: Profile, model: ModelSpec, pair: _Pair) -> Floats:
    """A matrix is read once, and a token's inputs and outputs; of experts the weights that tokens
    go through, and what goes into the layer and out of it.
    """
    shapes, tokens = gemm_shapes(model, profile.tp), profile.tokens.astype(np.float64)
    counts, weights = (of(model, profile.tp) for of in (token_weights, token_weight_bytes))
    columns = []
    for name in profile.operators:
        width = sum(shapes.get(name, (model.hidden, model.hidden)))
        is_experts = name == EXPERTS
        read = expert_bytes(model, profile.tp, profile.tokens) if is_experts else weights[name]
        moved = read + tokens * (BYTES_PER_VALUE * width)
        columns.append(pair.longer(2.0 * tokens * counts[name], moved, format_of(model, name)))
    return profile.gemm * np.column_stack(columns)


def _values(shape: HeadShape) -> int:
    """What a query head is multiplied with for a token that it attends to, and sums up again."""
    return shape.heads * (shape.latent or shape.head_dim)


def _format(shape: HeadShape) -> str:
    return BF16 if shape.value_bytes == BYTES_PER_VALUE else FP8


def _reach(shape: HeadShape, tokens: Floats) -> Floats:
    return np.asarray(np.minimum(tokens, shape.window or np.inf), np.float64)


def _decode(grid: AttentionGrid, pair: _Pair, shape: HeadShape) -> AttentionGrid:
    tokens = grid.batches[:, None] * _reach(shape, grid.lengths)
    operations = 4.0 * _values(shape) * tokens
    longer = pair.longer(operations, shape.kv_bytes * tokens, _format(shape))
    return replace(grid, seconds=grid.seconds * longer)


def _with_cliffs(profile: Profile, pair: _Pair, shape: HeadShape) -> AttentionGrid:
    """Decode attention with its cliffs (perf/waves.py) where another number of SMs has them."""
    grid, waves = _decode(profile.decode, pair, shape), profile.meta["waves"]
    share = 0.0 if shape.latent else float(waves["share"])
    blocks = grid.batches * shape.kv_heads
    before, now = (stretch(blocks, g.sm_count * waves["blocks_per_sm"], share) for g in pair)
    return replace(grid, seconds=grid.seconds * (now / before)[:, None])


def _attend(
    pairs: Floats, queries: Floats, keys: Floats, shape: HeadShape
) -> tuple[Floats, Floats]:
    """FLOPs and bytes of attention of so many pairs: queries are read and outputs written, K and V
    read or written.
    """
    width = shape.heads * shape.head_dim
    return 4.0 * width * pairs, 2 * BYTES_PER_VALUE * width * queries + shape.kv_bytes * keys


def _prefill(grid: AttentionGrid, pair: _Pair, shape: HeadShape) -> AttentionGrid:
    full = _reach(shape, grid.lengths)
    each = full * (full + 1.0) / 2.0 + (grid.lengths - full) * full
    tokens = grid.batches[:, None] * grid.lengths
    work = _attend(grid.batches[:, None] * each, tokens, tokens, shape)
    return replace(grid, seconds=grid.seconds * pair.longer(*work, _format(shape)))


def _chunks(chunks: ChunkTimes, pair: _Pair, shape: HeadShape) -> ChunkTimes:
    pairs = chunks.tokens * (chunks.computed + (chunks.tokens + 1.0) / 2.0)
    work = _attend(pairs, chunks.tokens, chunks.tokens + chunks.computed, shape)
    return chunks._replace(seconds=chunks.seconds * pair.longer(*work, _format(shape)))


def _windowed(grids: WindowedGrids, pair: _Pair, shape: HeadShape, window: int) -> WindowedGrids:
    shape = shape._replace(window=window)
    return WindowedGrids(_decode(grids.decode, pair, shape), _prefill(grids.prefill, pair, shape))


def _small(grid: SmallGrid, pair: _Pair, launch: float) -> SmallGrid:
    """Measured small operators: beyond a launch, which stays, they move bytes."""
    launches = np.minimum(grid.seconds, launch)
    slower = pair.before.bandwidth / pair.now.bandwidth
    rest = grid.seconds - launches
    return replace(grid, seconds=grid.seconds + rest * (slower - 1.0))


def _deltas(grid: DeltaGrid, pair: _Pair, shape: DeltaShape) -> DeltaGrid:
    """Three products of a token with a state, which is read and written; of prompts queries, keys,
    values and outputs besides.
    """
    each = 6.0 * DELTA_HEAD * DELTA_HEAD * shape.heads
    states = 2.0 * shape.state_bytes * grid.batches
    tokens = grid.batches[:, None] * grid.lengths
    beside = BYTES_PER_VALUE * 2 * (shape.key_heads + shape.heads) * DELTA_HEAD
    prompts = pair.longer(each * tokens, states[:, None] + beside * tokens)
    return replace(
        grid,
        decode=grid.decode * pair.longer(each * grid.batches, states),
        prompts=grid.prompts * prompts,
    )


def _reduces(grid: ReduceGrid | None, pair: _Pair, gpus: int) -> ReduceGrid | None:
    """All-reduces over so many GPUs, or a gather and a scatter of as many bytes: each GPU sends
    2 · (gpus − 1)/gpus of them.
    """
    if grid is None:
        return None
    sent = 2.0 * (gpus - 1) / gpus * grid.sizes
    before, now = (np.maximum(sent / g.link.bandwidth, g.link.latency) for g in pair)
    return replace(grid, seconds=grid.seconds * (now / before))
