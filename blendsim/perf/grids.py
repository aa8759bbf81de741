"""Measured grids: kernel seconds at the points somebody measured, and what lies between them.

Between two points time is a straight line, since every kernel here costs a fixed part plus a part
that grows with its size. Nothing is smoothed: a measured dip or jump stays where it was measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.model_spec import delta_state_bytes
from blendsim.specs import BYTES_PER_VALUE

UNCACHED_BYTES = 1 << 29  # KV of one call that no cache holds: the largest there is has 126 MB


class HeadShape(NamedTuple):
    """What an attention kernel sees on one GPU."""

    heads: int
    kv_heads: int
    head_dim: int
    value_bytes: int = BYTES_PER_VALUE  # of a value of K or V
    window: int = 0  # tokens that a query attends to at most; 0: all
    latent: int = 0  # values that stand for K and V of all heads; 0: each KV head has its own

    @property
    def group(self) -> float:
        """Query heads that share one KV head."""
        return self.heads / self.kv_heads

    @property
    def kv_bytes(self) -> int:
        """Bytes of K and V of one token in one layer."""
        return self.value_bytes * (self.latent or 2 * self.kv_heads * self.head_dim)


class LatentShape(NamedTuple):
    """What the projections of a latent attention see on one GPU, which has `heads` of them."""

    weights: str  # of formats.WEIGHTS
    hidden: int
    heads: int
    head_dim: int
    q_rank: int
    kv_rank: int
    rope_dim: int

    @property
    def parameters(self) -> int:
        """Weights of its matrices."""
        up = self.q_rank * (self.head_dim + self.rope_dim) + self.kv_rank * 2 * self.head_dim
        of_heads = self.heads * (up + self.head_dim * self.hidden)
        return self.hidden * (self.q_rank + self.kv_rank + self.rope_dim) + of_heads


class ExpertShape(NamedTuple):
    """What a kernel for a layer's experts sees on one of `tp` GPUs, each of which has its share of
    every expert's width, or on the busiest one of `ep` GPUs that have as many experts each.
    """

    weights: str  # of formats.WEIGHTS
    hidden: int
    intermediate: int  # of one expert, on all GPUs
    experts: int
    per_token: int  # experts that a token goes through
    tp: int
    ep: int = 1

    @property
    def gpus(self) -> int:
        """GPUs that the experts are on."""
        return self.tp * self.ep


class DeltaShape(NamedTuple):
    """Heads of a gated delta net on one GPU."""

    key_heads: int
    heads: int  # of values

    @property
    def state_bytes(self) -> int:
        """Bytes of a request's state in one layer."""
        return delta_state_bytes(self.key_heads, self.heads)


class ChunkTimes(NamedTuple):
    """Seconds of one layer's attention of single prefill chunks behind computed tokens."""

    tokens: Floats  # (C,), of the chunk
    computed: Floats  # (C,), before it
    seconds: Floats  # (C,)


@dataclass(frozen=True, slots=True, eq=False)
class GemmGrid:
    """Seconds of one GEMM of m tokens by an (n outputs, k inputs) weight; NaN: not measured."""

    tokens: Ints  # (M,), ascending
    outputs: Ints  # (N,), ascending
    inputs: Ints  # (K,), ascending
    seconds: Floats  # (N, K, M)


Shape = TypeVar("Shape", ExpertShape, LatentShape)


@dataclass(frozen=True, eq=False)  # NOTE: no slots: generic ones fail in Python 3.11 when made
class TokenGrid(Generic[Shape]):
    """Seconds of an operator of one layer for m tokens, by its shape; NaN: not measured."""

    tokens: Ints  # (M,), ascending
    seconds: Mapping[Shape, Floats]  # (M,) each


ExpertGrid = TokenGrid[ExpertShape]
LatentGrid = TokenGrid[LatentShape]


@dataclass(frozen=True, slots=True, eq=False)
class AttentionGrid:
    """Seconds of one layer's attention for `batch` requests of `length` tokens; NaN where not
    measured.
    """

    batches: Floats  # (B,), ascending
    lengths: Floats  # (S,), ascending
    seconds: Floats  # (B, S)


@dataclass(frozen=True, slots=True, eq=False)
class DeltaGrid:
    """Seconds of one gated delta net: its convolution and its rule, for `batches` requests."""

    batches: Floats  # (B,), ascending
    decode: Floats  # (B,), of a token each
    lengths: Floats  # (S,), ascending
    prompts: Floats  # (B, S), of so many tokens each; NaN where not measured


class WindowedGrids(NamedTuple):
    """Attention of a layer with a window, as `Profile.decode` and `Profile.prefill` are."""

    decode: AttentionGrid
    prefill: AttentionGrid


@dataclass(frozen=True, slots=True, eq=False)
class SmallGrid:
    """Seconds of a decoder's small operators on `tokens` tokens, a column each."""

    tokens: Ints  # (M,), ascending
    seconds: Floats  # (M, 6), the columns of small.OPERATORS; 0 is part of another


@dataclass(frozen=True, slots=True, eq=False)
class ReduceGrid:
    """Seconds of one all-reduce of `sizes` bytes."""

    sizes: Floats
    seconds: Floats


def along(xs: Floats | Ints, ys: Floats, at: Floats | Ints) -> Floats:
    """`ys` at the points `at`: straight lines between measured points, the first value below them,
    and beyond them the last point's seconds per unit.
    """
    inside = np.interp(at, xs, ys)
    beyond = np.asarray(at, np.float64) / float(xs[-1])
    return np.asarray(np.where(beyond > 1.0, ys[-1] * beyond, inside), np.float64)


def complete(grid: AttentionGrid) -> AttentionGrid:
    """The grid with its holes filled at the rate of the next smaller batch or length, whichever is
    faster per token: a hole lies where the KV cache would not fit, and there rates have settled.
    """
    work = grid.batches[:, None] * grid.lengths[None, :]
    rate = grid.seconds / work
    for i in range(rate.shape[0]):
        for j in range(rate.shape[1]):
            if np.isnan(rate[i, j]):
                near = [rate[i - 1, j] if i else np.nan, rate[i, j - 1] if j else np.nan]
                rate[i, j] = np.nanmin(near)
    return AttentionGrid(grid.batches, grid.lengths, rate * work)


def complete_prefill(grid: AttentionGrid) -> AttentionGrid:
    """Seconds *per prompt token* of causal attention, for whole requests; a hole (too many tokens
    to measure) takes the rate of the next smaller batch.
    """
    keep = grid.batches >= 1.0
    batches, seconds = grid.batches[keep], grid.seconds[keep]
    per_token = seconds / (batches[:, None] * grid.lengths)
    for i in range(1, len(batches)):
        is_hole = np.isnan(per_token[i])
        per_token[i, is_hole] = per_token[i - 1, is_hole]
    return AttentionGrid(batches, grid.lengths, per_token)


def walk_along(chunks: ChunkTimes | None) -> Floats:
    """What a block of prefill attention takes to go along the tokens it reaches, [s, s/token]: the
    line through the smallest chunks, whose few blocks all run at once. Zeros where not measured.

    Larger chunks fill the GPU with such blocks, and what counts is how many pairs there are.
    """
    if chunks is None:
        return np.zeros(2)
    smallest = chunks.tokens == chunks.tokens.min()
    reach, seconds = (chunks.tokens + chunks.computed)[smallest], chunks.seconds[smallest]
    if len(reach) < 2:
        return np.zeros(2)
    slope, start = np.polyfit(reach, seconds, 1)
    return np.array([max(0.0, start), max(0.0, slope)])
