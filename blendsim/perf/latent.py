"""Latent attention out of times of whole modules: what a module of DeepSeek-V3 takes for tokens and
contexts of many sizes is cut into its projections, by tokens, and attention, by what it reads.

A module's GEMMs go by its tokens alone, so they are what it takes with hardly any context.
Attention is the remainder.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from blendsim.formats import BF16, FP8, FP8_BLOCK, KV_FORMATS
from blendsim.perf.grids import (
    AttentionGrid,
    HeadShape,
    LatentGrid,
    LatentShape,
    TokenGrid,
    along,
)
from blendsim.specs import GpuSpec

#: Of the model whose modules were timed, as its config.json has them (deepseek-ai/DeepSeek-V3).
_HIDDEN, _HEAD_DIM, _Q_RANK, _KV_RANK, _ROPE_DIM = 7_168, 128, 1_536, 512, 64
#: From so many tokens on a prompt is computed with K and V of every head. On Hopper with bf16 KV a
#: shorter one meets the latent vectors, as decodes do: other GEMMs, another kernel. Where kernels
#: change at other sizes short prompts are still those with next to nothing to attend to.
_EXPANDED = 1_024
_FORMATS = {"bfloat16": BF16, "fp8_block": FP8_BLOCK}
_MILLI = 1e-3  # the package counts in ms

Row = Mapping[str, Any]
Points = dict[tuple[int, int], float]  # seconds by requests and tokens of each


class Module(NamedTuple):
    """What a module was timed with."""

    heads: int
    kv: str  # of formats.KV_FORMATS
    weights: str  # of formats.WEIGHTS


class LatentGrids(NamedTuple):
    """One GPU's latent attention for all numbers of heads."""

    projections: LatentGrid
    decode: dict[HeadShape, AttentionGrid]
    prefill: dict[HeadShape, AttentionGrid]


def is_used(row: Row) -> bool:
    """Whether a row of the package is of a module that is read here: it attends in bf16."""
    return row["mla_dtype"] == "bfloat16" and row["gemm_type"] in _FORMATS


def latent_grids(gpu: GpuSpec, prompts: Iterable[Row], decodes: Iterable[Row]) -> LatentGrids:
    """The parts of whole modules, from rows of those that compute whole prompts and of those that
    decode one token behind `step` others.
    """
    whole, read = _points(prompts), _points(decodes)
    modules = sorted(whole.keys() & read.keys())
    projected: dict[LatentShape, dict[int, float]] = {}
    for module in modules:
        found = projected.setdefault(_shape(module), {})
        # NOTE: differences of measured times are noisy, and single modules were slow. No part is
        # faster than the data sheet allows for its products or reads.
        per_token = 2.0 * _shape(module).parameters / max(gpu.flops, gpu.flops_in(module.weights))
        for n, seconds in _projections(whole[module], read[module]).items():
            found[n] = min(found.get(n, np.inf), max(seconds, n * per_token))
    decode: dict[HeadShape, list[Points]] = {}
    prefill: dict[HeadShape, list[Points]] = {}
    for module in modules:
        value_bytes = KV_FORMATS[module.kv]
        shape = HeadShape(module.heads, 1, _HEAD_DIM, value_bytes, latent=_KV_RANK + _ROPE_DIM)
        per_read = shape.kv_bytes / gpu.bandwidth
        per_pair = 2.0 * module.heads * (2 * _HEAD_DIM + _ROPE_DIM) / gpu.flops
        projections = projected[_shape(module)]
        decode.setdefault(shape, []).append(
            {
                (b, s): max(seconds - _at(projections, b), b * s * per_read)
                for (b, s), seconds in read[module].items()
            }
        )
        prefill.setdefault(shape, []).append(
            {
                (b, s): max(seconds - _at(projections, b * s), b * s * (s + 1) / 2 * per_pair)
                for (b, s), seconds in whole[module].items()
            }
        )
    tokens = np.unique([n for found in projected.values() for n in found])
    of_tokens = {
        shape: np.array([found.get(n, np.nan) for n in tokens.tolist()])
        for shape, found in projected.items()
    }
    return LatentGrids(
        TokenGrid(tokens.astype(np.int64), of_tokens),
        {shape: _mean(points) for shape, points in decode.items()},
        {shape: _mean(points) for shape, points in prefill.items()},
    )


def _points(rows: Iterable[Row]) -> dict[Module, Points]:
    """Seconds of each module by requests and their contexts, new tokens included."""
    found: dict[Module, Points] = {}
    for row in filter(is_used, rows):
        kv = FP8 if row["kv_cache_dtype"] == "fp8" else BF16
        module = Module(row["num_heads"], kv, _FORMATS[row["gemm_type"]])
        point = row["batch_size"], row["isl"] + row["step"]
        found.setdefault(module, {})[point] = row["latency"] * _MILLI
    return found


def _shape(module: Module) -> LatentShape:
    sizes = _HEAD_DIM, _Q_RANK, _KV_RANK, _ROPE_DIM
    return LatentShape(module.weights, _HIDDEN, module.heads, *sizes)


def _projections(whole: Points, read: Points) -> dict[int, float]:
    """Seconds of all but attention by tokens: the least that a module of so many took with short
    contexts, or what the two shortest expanded prompts of so many leave at no query-key pairs.
    """
    found: dict[int, float] = {}

    def offer(tokens: int, seconds: float) -> None:
        found[tokens] = min(found.get(tokens, seconds), seconds)

    shortest = min(s for _, s in read)
    for (b, s), seconds in read.items():
        if s == shortest:
            offer(b, seconds)
    expanded: dict[int, list[tuple[int, float]]] = {}
    for (b, s), seconds in sorted(whole.items(), key=lambda item: item[0][1]):
        if s < _EXPANDED:
            offer(b * s, seconds)
        else:
            expanded.setdefault(b * s, []).append((b * s * (s + 1) // 2, seconds))
    for tokens, times in expanded.items():
        if len(times) > 1:
            (few, least), (more, most) = times[:2]
            offer(tokens, least - (most - least) / (more - few) * few)
    return found


def _at(projections: Mapping[int, float], tokens: int) -> float:
    sizes = np.array(sorted(projections))
    seconds = np.array([projections[n] for n in sizes.tolist()])
    return float(along(sizes, seconds, np.array([tokens]))[0])


def _mean(several: list[Points]) -> AttentionGrid:
    """The grid of what was measured more than once, with several formats of weights."""
    batches = np.unique([b for points in several for b, _ in points])
    lengths = np.unique([s for points in several for _, s in points])
    seconds = np.full((len(batches), len(lengths)), np.nan)
    for i, b in enumerate(batches.tolist()):
        for j, s in enumerate(lengths.tolist()):
            times = [points[b, s] for points in several if (b, s) in points]
            seconds[i, j] = sum(times) / len(times) if times else np.nan
    return AttentionGrid(batches.astype(np.float64), lengths.astype(np.float64), seconds)
