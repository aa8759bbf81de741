"""Rows of the source package to our grids: times in seconds by sizes, holes where nothing was
measured.
"""

from collections.abc import Iterable

import numpy as np

from blendsim.arrays import Floats
from blendsim.formats import BF16, FP8, KV_FORMATS
from blendsim.perf.grids import (
    AttentionGrid,
    ExpertGrid,
    ExpertShape,
    GemmGrid,
    HeadShape,
    ReduceGrid,
)
from blendsim.perf.package import Row
from blendsim.perf.package_rows import WEIGHTS
from blendsim.specs import BYTES_PER_VALUE

_MILLI = 1e-3  # the package counts in ms


def gemm_grid(rows: Iterable[Row]) -> GemmGrid:
    """Over all m, n and k; each point was measured once."""
    rows = list(rows)
    m, n, k = (np.unique([row[c] for row in rows]).astype(np.int64) for c in "mnk")
    seconds = np.full((len(n), len(k), len(m)), np.nan)
    for row in rows:
        at = (
            np.searchsorted(n, row["n"]),
            np.searchsorted(k, row["k"]),
            np.searchsorted(m, row["m"]),
        )
        seconds[at] = row["latency"] * _MILLI
    return GemmGrid(m, n, k, seconds)


def attention_grids(rows: Iterable[Row]) -> dict[HeadShape, AttentionGrid]:
    """Grids by head shape; a point measured twice is its mean."""
    shapes: dict[HeadShape, dict[tuple[int, int], list[float]]] = {}
    for row in rows:
        value_bytes = KV_FORMATS[FP8 if row["kv_cache_dtype"] == "fp8" else BF16]
        heads = (row["num_heads"], row["num_key_value_heads"], row["head_dim"])
        shape = HeadShape(*heads, value_bytes, row.get("window_size") or 0)
        point = (row["batch_size"], row["isl"] + row["step"])
        shapes.setdefault(shape, {}).setdefault(point, []).append(row["latency"] * _MILLI)
    grids = {}
    for shape, points in sorted(shapes.items()):
        batches = np.unique([b for b, _ in points]).astype(np.float64)
        lengths = np.unique([s for _, s in points]).astype(np.float64)
        seconds = np.full((len(batches), len(lengths)), np.nan)
        for (b, s), times in points.items():
            at = (np.searchsorted(batches, b), np.searchsorted(lengths, s))
            seconds[at] = sum(times) / len(times)
        grids[shape] = AttentionGrid(batches, lengths, seconds)
    return grids


def expert_grid(rows: Iterable[Row]) -> ExpertGrid:
    """Every shape over all numbers of tokens; each point was measured once."""
    rows = list(rows)
    tokens = np.unique([row["num_tokens"] for row in rows]).astype(np.int64)
    seconds: dict[ExpertShape, Floats] = {}
    for row in rows:
        shape = ExpertShape(
            weights=WEIGHTS[row["moe_dtype"]],
            hidden=row["hidden_size"],
            intermediate=row["inter_size"],
            experts=row["num_experts"],
            per_token=row["topk"],
            tp=row["moe_tp_size"],
            ep=row["moe_ep_size"],
        )
        times = seconds.setdefault(shape, np.full(len(tokens), np.nan))
        times[np.searchsorted(tokens, row["num_tokens"])] = row["latency"] * _MILLI
    return ExpertGrid(tokens, seconds)


def reduce_grids(rows: Iterable[Row]) -> dict[int, ReduceGrid]:
    """By numbers of GPUs, over bytes."""
    groups: dict[int, dict[int, float]] = {}
    for row in rows:
        # NOTE: message_size counts 16-bit values: only so do its figures stay at what NVLink and
        # PCIe carry, and vLLM's own kernel end at its limit of 8 MiB.
        size = row["message_size"] * BYTES_PER_VALUE
        groups.setdefault(row["num_gpus"], {})[size] = row["latency"] * _MILLI
    return {
        gpus: ReduceGrid(
            np.array(sorted(points), np.float64), np.array([points[s] for s in sorted(points)])
        )
        for gpus, points in sorted(groups.items())
    }
