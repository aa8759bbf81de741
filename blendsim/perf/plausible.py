"""What no kernel can do: times of a table that would have a GPU compute or read faster than it can
are in another unit, or another GPU's.

The margins are those of physics, not of taste. In the tables that are shipped GEMMs reach 0.97 of
the peak at most (0.85 in fp8), experts 0.68, attention of prompts 0.68 (latent
attention the peak, at which perf/latent.py holds it) and reads that no cache holds 0.98 of the
bandwidth; an L40S, whose cache holds 96 MB, reads what is in it at 2.8 times the memory's.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blendsim.arrays import Floats
from blendsim.errors import ProfileError
from blendsim.formats import BF16, FP8
from blendsim.model_spec import DELTA_HEAD
from blendsim.perf.grids import (
    UNCACHED_BYTES,
    DeltaShape,
    ExpertShape,
    HeadShape,
    LatentShape,
)
from blendsim.perf.records import cell
from blendsim.specs import BYTES_PER_VALUE, GPUS, GpuSpec

#: Of the data sheet's figure, which is stated at a clock that GPUs exceed: an H100's 989 TFLOP/s
#: are at 1,830 MHz, and it runs at 1,980 at most, 8 % more.
OVER_PEAK = 1.1
OVER_BANDWIDTH = 2.0  # reads that no cache holds
CACHED_OVER_BANDWIDTH = 10.0  # smaller ones


def gpu_of(meta: Mapping[str, Any], otherwise: str) -> GpuSpec | None:
    """The GPU that a meta.toml names, None where it is not among those known."""
    return GPUS.get(str(meta.get("gpu", otherwise)))


def require_gemms(
    path: Path,
    gpu: GpuSpec | None,
    operations: Floats,
    seconds: Floats,
    first: int,
    weights: str | Sequence[str] = BF16,
) -> None:
    """ProfileError names the GEMM of (rows, columns) that is faster than `gpu` is in its format
    of weights, one for all or one a column; `first` is the index of the first column of times.
    """
    if gpu is not None:
        formats = [weights] if isinstance(weights, str) else weights
        peaks = np.array([[peak_of(gpu, one) for one in formats]])
        _require_computed(path, peaks, operations, seconds, first)


def require_experts(
    path: Path,
    gpu: GpuSpec | None,
    shapes: Sequence[ExpertShape],
    tokens: Floats,
    seconds: Floats,
    first: int,
) -> None:
    """The same of a layer's experts: a shape a row, a number of tokens a column."""
    if gpu is not None:
        each = [6.0 * s.hidden * s.intermediate * s.per_token / s.gpus for s in shapes]
        peaks = np.array([peak_of(gpu, s.weights) for s in shapes])
        _require_computed(path, peaks[:, None], np.outer(each, tokens), seconds, first)


def require_projections(
    path: Path,
    gpu: GpuSpec | None,
    shapes: Sequence[LatentShape],
    tokens: Floats,
    seconds: Floats,
    first: int,
) -> None:
    """ProfileError names the projections of a layer's latent attention that are faster than `gpu`
    is: a shape a row, a number of tokens a column.
    """
    if gpu is not None:
        each = [2.0 * shape.parameters for shape in shapes]
        peaks = np.array([peak_of(gpu, s.weights) for s in shapes])
        _require_computed(path, peaks[:, None], np.outer(each, tokens), seconds, first)


def require_prompts(
    path: Path,
    gpu: GpuSpec | None,
    shapes: Sequence[HeadShape],
    sizes: tuple[Floats, Floats],
    seconds: Floats,
    first: int,
) -> None:
    """The same of causal attention of whole prompts: a shape and a batch a row, a length a column.
    With fp8 KV it may be computed in fp8.
    """
    if gpu is not None:
        of_kv = [BF16 if shape.value_bytes == BYTES_PER_VALUE else FP8 for shape in shapes]
        peaks = np.array([peak_of(gpu, kv) for kv in of_kv])
        width = np.array([shape.heads * shape.head_dim for shape in shapes])
        batches, lengths = sizes
        # A query behind a window's end attends to the window, those before to what there is.
        full = np.minimum(lengths, _reach(shapes))
        pairs = batches[:, None] * (full * (full + 1.0) / 2.0 + (lengths - full) * full)
        _require_computed(path, peaks[:, None], 4.0 * width[:, None] * pairs, seconds, first)


def require_reads(
    path: Path,
    gpu: GpuSpec | None,
    shapes: Sequence[HeadShape],
    sizes: tuple[Floats, Floats],
    seconds: Floats,
    first: int,
) -> None:
    """ProfileError names the decode attention that reads KV faster than `gpu` can."""
    if gpu is None:
        return
    token = np.array([shape.kv_bytes for shape in shapes])
    batches, lengths = sizes
    moved = (token * batches)[:, None] * np.minimum(lengths, _reach(shapes))
    _require_moved(path, gpu, moved, seconds, first, "KV read")


def require_deltas(
    path: Path,
    gpu: GpuSpec | None,
    shapes: Sequence[DeltaShape],
    sizes: tuple[Floats, Floats],
    seconds: Floats,
    first: int,
) -> None:
    """ProfileError names the gated delta net that reads and writes states, or computes three
    products of a token with a state, faster than `gpu` can: a shape and a batch a row, decodes the
    first column, lengths of prompts the others.
    """
    if gpu is None:
        return
    batches, lengths = sizes
    states = np.array([shape.state_bytes for shape in shapes])
    moved = (2 * states * batches)[:, None]
    _require_moved(path, gpu, moved, seconds[:, :1], first, "states moved")
    heads = np.array([shape.heads for shape in shapes])
    each = 3 * 2 * DELTA_HEAD * DELTA_HEAD * heads * batches
    operations = np.outer(each, lengths)
    _require_computed(path, np.array([[gpu.flops]]), operations, seconds[:, 1:], first + 1)


def _require_moved(
    path: Path, gpu: GpuSpec, moved: Floats, seconds: Floats, first: int, what: str
) -> None:
    over = np.where(moved >= UNCACHED_BYTES, OVER_BANDWIDTH, CACHED_OVER_BANDWIDTH)
    at = _fastest(moved / seconds / (over * gpu.bandwidth))
    if at is not None:
        i, j = at
        raise ProfileError(
            f"{cell(path, i, first + j)}: {what} at {moved[i, j] / seconds[i, j] / 1e9:,.0f} GB/s "
            f"by a GPU whose memory has {gpu.bandwidth / 1e9:,.0f}: are the times in microseconds?"
        )


def _reach(shapes: Sequence[HeadShape]) -> Floats:
    """(len(shapes), 1): tokens that a query of each attends to at most."""
    return np.array([[shape.window or np.inf] for shape in shapes])


def peak_of(gpu: GpuSpec, weights: str) -> float:
    """FLOP/s; a GPU without a format computes what is stored so in bf16."""
    return max(gpu.flops, gpu.flops_in(weights))


def _require_computed(
    path: Path, peaks: Floats, operations: Floats, seconds: Floats, first: int
) -> None:
    """`peaks` is FLOP/s by row or by column, (rows, 1) or (1, columns), or of all, (1, 1)."""
    at = _fastest(operations / seconds / (OVER_PEAK * peaks))
    if at is not None:
        i, j = at
        peak = np.broadcast_to(peaks, seconds.shape)[i, j]
        raise ProfileError(
            f"{cell(path, i, first + j)}: {operations[i, j] / seconds[i, j] / 1e12:,.0f} TFLOP/s "
            f"of a GPU that has {peak / 1e12:,.0f}: are the times in microseconds?"
        )


def _fastest(shares: Floats) -> tuple[int, int] | None:
    """Where the largest share is, None if none is above 1. Holes are NaN."""
    if not (shares > 1.0).any():
        return None
    i, j = np.unravel_index(int(np.nanargmax(shares)), shares.shape)
    return int(i), int(j)
