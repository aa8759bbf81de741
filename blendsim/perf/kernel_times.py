"""The time of one kernel at a model's shape, out of what was measured: exactly there, or between
measured shapes, and how it was found.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.errors import NotMeasured
from blendsim.formats import BF16, FP8, FP8_BLOCK, KV_FORMATS
from blendsim.perf.atlas import WIDE, KernelAtlas
from blendsim.perf.grids import (
    AttentionGrid,
    ExpertGrid,
    ExpertShape,
    GemmGrid,
    HeadShape,
    LatentGrid,
    LatentShape,
    along,
)
from blendsim.perf.model_shapes import expert_shape, format_of, gemm_shapes, latent_shape
from blendsim.perf.profile import EXPERTS, PROJECTIONS
from blendsim.specs import GpuSpec, ModelSpec

#: Whose kernels stand for those of a format that was not measured. GEMMs by block that are no
#: launch times take 0.9 to 1.0 of those in fp8. Experts in fp8 take as long as those by block on an
#: L40S and less on a B200 (docs/profiles.md), so that the other way round they would be too fast.
_GEMMS_INSTEAD = {FP8_BLOCK: FP8}
_EXPERTS_INSTEAD = {FP8: FP8_BLOCK}
_APART = " --expert-parallel"


class Found(NamedTuple):
    """An operator's seconds, and where they are from."""

    seconds: Floats
    note: str
    kernels: str  # which these are, in words
    weights: str  # what these were measured with, of formats.WEIGHTS
    table: str  # they come from, as a meta.toml has it


def operator_seconds(
    gpu: GpuSpec, atlas: KernelAtlas, model: ModelSpec, tp: int, name: str, tokens: Ints
) -> Found:
    """Seconds over `tokens` of one of a layer's operators (or of the LM head) on one of `tp` GPUs.
    ProfileError where it was not measured.
    """
    if name == EXPERTS:
        shape, ranks = expert_shape(model, tp), model.expert_ranks
        return expert_seconds(gpu, atlas.experts, shape, tokens, ranks)
    if name == PROJECTIONS:
        return projection_seconds(gpu, atlas.projections, latent_shape(model, tp), tokens)
    weights = format_of(model, name)
    stand_in = _stand_in(weights, atlas.gemms, _GEMMS_INSTEAD)
    if stand_in is None:
        raise NotMeasured(
            f"{gpu.name}: no GEMMs with {weights} weights measured; measured: "
            f"{', '.join(atlas.gemms)}",
            "choose another --gpu or --quantization",
        )
    grid = atlas.gemms[stand_in]
    n, k = gemm_shapes(model, tp)[name]
    seconds, how = gemm_seconds(grid, n, k)
    if grid.tokens is not tokens:
        seconds = along(grid.tokens, seconds, tokens)
    note = f"gemm {name} {n}×{k}{_told(weights, stand_in)}: {how}"
    table = "gemm" if stand_in == BF16 else f"gemm_{stand_in.replace('-', '_')}"
    return Found(seconds, note, "GEMMs", stand_in, table)


def expert_seconds(
    gpu: GpuSpec, grid: ExpertGrid | None, shape: ExpertShape, tokens: Ints, ranks: int = 1
) -> Found:
    """Seconds over `tokens` of each of `ranks` replicas of one layer's experts, which all of them
    go through: straight lines between measured numbers of tokens. ProfileError for a shape that was
    not measured: how experts' times go with their sizes is no line.
    """
    sized = f"{shape.experts} × {shape.intermediate}, {shape.per_token} a token"
    alike = [s for s in grid.seconds if s[1:5] == shape[1:5]] if grid else []
    if grid is None or not alike:
        raise NotMeasured(
            f"{gpu.name}: no experts measured of {sized}, on {shape.hidden} hidden values",
            "choose another --gpu or --model",
        )
    formats = [s.weights for s in alike if s[5:] == shape[5:]]
    stand_in = _stand_in(shape.weights, formats, _EXPERTS_INSTEAD)
    if stand_in is None:
        sizes: dict[tuple[str, bool], list[str]] = {}
        for each in sorted(alike, key=lambda s: s.gpus):
            sizes.setdefault((each.weights, each.ep > 1), []).append(str(each.gpus))
        spread = " --ep" if ranks > 1 else f"{_APART} --tp"
        have = "; ".join(
            f"in {weights} at{spread if is_apart else ' --tp'} {', '.join(found)}"
            for (weights, is_apart), found in sizes.items()
        )
        raise NotMeasured(
            f"{gpu.name}: experts of {sized} were not measured in {shape.weights} at"
            f"{spread if shape.ep > 1 else ' --tp'} {shape.gpus}, but {have}",
            "choose one of these",
        )
    seconds = grid.seconds[shape._replace(weights=stand_in)]
    is_measured = ~np.isnan(seconds)
    at = grid.tokens[is_measured]
    last = "" if at[-1] >= ranks * tokens[-1] else f", beyond {at[-1]} tokens at their rate"
    apart = f", on {shape.ep} GPUs whole" if shape.ep > 1 else ""
    apart += f", at {ranks} times the tokens" if ranks > 1 else ""
    note = f"experts {sized}{_told(shape.weights, stand_in)}{apart}: measured{last}"
    took = along(at, seconds[is_measured], ranks * tokens)
    return Found(took, note, "experts", stand_in, EXPERTS)


def projection_seconds(
    gpu: GpuSpec, grid: LatentGrid | None, shape: LatentShape, tokens: Ints
) -> Found:
    """Seconds over `tokens` of the projections of one layer's latent attention. ProfileError for a
    shape that was not measured.
    """
    alike = [s for s in grid.seconds if s[1:] == shape[1:]] if grid else []
    stand_in = _stand_in(shape.weights, [s.weights for s in alike], _EXPERTS_INSTEAD)
    if grid is None or stand_in is None:
        have = ", ".join(dict.fromkeys(s.weights for s in alike)) or "none of its sizes"
        raise NotMeasured(
            f"{gpu.name}: no latent attention measured with {shape.heads} heads a GPU in "
            f"{shape.weights}; measured: {have}",
            "choose another --gpu, --tp or --quantization",
        )
    seconds = grid.seconds[shape._replace(weights=stand_in)]
    is_measured = ~np.isnan(seconds)
    sized = f"projections of {shape.heads} heads of latent attention"
    note = f"{sized}{_told(shape.weights, stand_in)}: measured with attention, which is taken off"
    at = grid.tokens[is_measured]
    kernels = "projections of latent attention"
    return Found(along(at, seconds[is_measured], tokens), note, kernels, stand_in, PROJECTIONS)


def gemm_seconds(grid: GemmGrid, n: int, k: int) -> tuple[Floats, str]:
    """Seconds over `grid.tokens` of an (n, k) GEMM and how they were found: time is linear in n and
    in k between measured shapes, and beyond the largest grows as the largest one does.
    """
    low_n, high_n, x = _bracket(grid.outputs, n)
    low_k, high_k, y = _bracket(grid.inputs, k)
    seconds: Floats = (1 - x) * (1 - y) * _corner(grid, low_n, low_k)
    for i, j, weight in (
        (high_n, low_k, x * (1 - y)),
        (low_n, high_k, (1 - x) * y),
        (high_n, high_k, x * y),
    ):
        if weight:
            seconds = seconds + weight * _corner(grid, i, j)
    scale = max(1.0, n / grid.outputs[-1]) * max(1.0, k / grid.inputs[-1])
    parts = []
    for name, axis, i, j, weight, size in (
        ("n", grid.outputs, low_n, high_n, x, n),
        ("k", grid.inputs, low_k, high_k, y, k),
    ):
        if size > axis[-1]:
            parts.append(f"{name} beyond the measured {axis[-1]}, at its rate")
        elif weight:
            parts.append(f"between measured {name} {axis[i]} and {axis[j]}")
    return seconds * scale, ", ".join(parts) or "measured"


def _bracket(axis: Ints, value: int) -> tuple[int, int, float]:
    """Indices around `value` and the weight of the upper one; clamped at both ends."""
    high = int(np.clip(np.searchsorted(axis, value), 0, len(axis) - 1))
    if axis[high] <= value or high == 0:
        return high, high, 0.0
    weight = (value - axis[high - 1]) / (axis[high] - axis[high - 1])
    return high - 1, high, float(weight)


def _corner(grid: GemmGrid, i: int, j: int) -> Floats:
    """One measured shape; gaps are bridged along m, and an unmeasured shape takes the rate of the
    next smaller n.
    """
    seconds: Floats = grid.seconds[i, j]
    is_missing = np.isnan(seconds)
    if is_missing.all():
        assert i > 0, "the smallest n was measured at every k"
        return _corner(grid, i - 1, j) * float(grid.outputs[i] / grid.outputs[i - 1])
    if not is_missing.any():
        return seconds
    return along(grid.tokens[~is_missing], seconds[~is_missing], grid.tokens)


def attention(grids: dict[HeadShape, AttentionGrid], shape: HeadShape) -> tuple[AttentionGrid, str]:
    """One layer's attention at `shape`, and how it was found.

    b requests with 2h KV heads are 2b requests with h KV heads to the kernel (independent blocks
    of the same size), so a grid with the same group and other KV heads serves, batch rescaled.
    A group that was not measured lies linearly between its neighbours.
    """
    grids = {s: g for s, g in grids.items() if s[3:] == shape[3:]}  # all but heads and their size
    dims = sorted({s.head_dim for s in grids}, key=lambda d: abs(d - shape.head_dim))
    dim = dims[0]
    if dim == WIDE and len(dims) > 1 and shape not in grids:
        # Few shapes of wide heads were measured; others are those of the next size, scaled.
        dim = dims[1]
    same = {s: g for s, g in grids.items() if s.head_dim == dim}
    wanted = shape._replace(head_dim=dim)
    note = "" if dim == shape.head_dim else f", head size {dim} scaled to {shape.head_dim}"
    grid, how = _by_group(same, wanted)
    if note:
        grid = AttentionGrid(grid.batches, grid.lengths, grid.seconds * shape.head_dim / dim)
    return grid, how + note


def _by_group(grids: dict[HeadShape, AttentionGrid], shape: HeadShape) -> tuple[AttentionGrid, str]:
    if shape in grids:
        return grids[shape], "measured"
    same = [s for s in grids if s.group == shape.group]
    if same:
        near = min(same, key=lambda s: (abs(np.log2(s.kv_heads / shape.kv_heads)), s))
        grid = grids[near]
        ratio = near.kv_heads / shape.kv_heads
        how = f"measured {shape_name(near)}, batch × {1 / ratio:g} (same blocks)"
        return AttentionGrid(grid.batches * ratio, grid.lengths, grid.seconds), how
    groups = sorted({s.group for s in grids if s.kv_heads == shape.kv_heads})
    below = max((g for g in groups if g < shape.group), default=None)
    above = min((g for g in groups if g > shape.group), default=None)
    if below is None or above is None:
        raise NotMeasured(
            f"no attention measured near {shape.heads} heads on {shape.kv_heads} KV heads"
            f"{_over(shape)}; groups measured there: {groups}",
            "choose another --tp, --gpu or --model",
        )
    weight = (shape.group - below) / (above - below)
    pair = [HeadShape(round(g * shape.kv_heads), *shape[1:]) for g in (below, above)]
    return _between(grids[pair[0]], grids[pair[1]], weight), (
        f"between measured {shape_name(pair[0])} and {shape_name(pair[1])}"
    )


def _between(low: AttentionGrid, high: AttentionGrid, weight: float) -> AttentionGrid:
    """The points both grids have, `weight` of the way from `low` to `high`."""
    batches = np.intersect1d(low.batches, high.batches)
    lengths = np.intersect1d(low.lengths, high.lengths)
    parts = [
        g.seconds[np.ix_(np.isin(g.batches, batches), np.isin(g.lengths, lengths))]
        for g in (low, high)
    ]
    return AttentionGrid(batches, lengths, (1 - weight) * parts[0] + weight * parts[1])


def _stand_in(weights: str, measured: Collection[str], instead: Mapping[str, str]) -> str | None:
    """The format whose kernels are taken for `weights`: its own if they were measured."""
    return next((f for f in (weights, instead.get(weights)) if f in measured), None)


def _told(weights: str, stand_in: str) -> str:
    """A format in a note on a table."""
    if weights == BF16:
        return ""
    return f" {weights}" if weights == stand_in else f" {weights}, by those in {stand_in}"


def shape_name(shape: HeadShape) -> str:
    """Heads of a shape, in a note."""
    keys = f"{shape.latent} values" if shape.latent else f"{shape.kv_heads}/{shape.head_dim}"
    return f"{shape.heads}/{keys}{_over(shape)}"


def _over(shape: HeadShape) -> str:
    kv = "" if shape.value_bytes == KV_FORMATS[BF16] else f" over {8 * shape.value_bytes}-bit KV"
    return kv + (f" over a window of {shape.window}" if shape.window else "")
