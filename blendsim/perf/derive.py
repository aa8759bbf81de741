"""Cut one model's profile out of its GPU's kernel atlas, and say how: which tables were measured at
exactly this shape and which lie between measured ones.
"""

import numpy as np

from blendsim.errors import ProfileError
from blendsim.perf.atlas import STATED, KernelAtlas
from blendsim.perf.grids import AttentionGrid, Floats, GemmGrid, HeadShape, Ints, along
from blendsim.perf.profile import Profile
from blendsim.specs import GpuSpec, ModelSpec

#: The GEMMs of a decoder: the columns of gemm.csv, the keys of `gemm_shapes`, in this order.
OPERATORS = ("qkv", "o", "gate_up", "down", "head")
#: The sizes that decide a model's tables.
SHAPE = ("hidden", "intermediate", "heads", "kv_heads", "head_dim", "vocab")


def gemm_shapes(model: ModelSpec, tp: int) -> dict[str, tuple[int, int]]:
    """(n outputs, k inputs) of each GEMM on one of `tp` GPUs."""
    shape = head_shape(model, tp)
    width = shape.heads * shape.head_dim
    qkv = width + 2 * shape.kv_heads * shape.head_dim
    return {
        "qkv": (qkv, model.hidden),
        "o": (model.hidden, width),
        "gate_up": (2 * model.intermediate // tp, model.hidden),
        "down": (model.hidden, model.intermediate // tp),
        "head": (-(-model.vocab // tp), model.hidden),
    }


def head_shape(model: ModelSpec, tp: int) -> HeadShape:
    """Attention heads on one GPU; KV heads are repeated when there are fewer of them than GPUs."""
    return HeadShape(model.heads // tp, max(1, model.kv_heads // tp), model.head_dim)


def derive_profile(atlas: KernelAtlas, gpu: GpuSpec, model: ModelSpec, tp: int) -> Profile:
    """The profile of `model` on `tp` GPUs, from measured kernels only."""
    if tp > 1 and tp not in atlas.reduce:
        raise ProfileError(
            f"{gpu.name}: no all-reduce measured for --tp {tp}; measured: {sorted(atlas.reduce)}"
        )
    notes = []
    columns = []
    for name, (n, k) in gemm_shapes(model, tp).items():
        seconds, note = gemm_seconds(atlas.gemms["bf16"], n, k)
        columns.append(seconds)
        notes.append(f"gemm {name} {n}×{k}: {note}")
    shape = head_shape(model, tp)
    decode, note = attention(dict(atlas.decode), shape)
    notes.append(f"decode attention {_name(shape)}: {note}")
    prefill, note = attention(dict(atlas.prefill), shape)
    notes.append(f"prefill attention {_name(shape)}: {note}")
    return Profile(
        gpu=gpu.name,
        model=model.name,
        tp=tp,
        tokens=atlas.gemms["bf16"].tokens,
        gemm=np.column_stack(columns),
        decode=decode,
        prefill=prefill,
        reduce=atlas.reduce[tp] if tp > 1 else None,
        shape=shape_of(model),
        notes=tuple(notes),
        meta={key: atlas.meta[key] for key in STATED},
    )


def shape_of(model: ModelSpec) -> dict[str, int]:
    """The sizes that decide a model's tables (the number of layers does not)."""
    return {name: int(getattr(model, name)) for name in SHAPE}


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
    grids = {s: g for s, g in grids.items() if s.value_bytes == shape.value_bytes}
    dims = sorted({s.head_dim for s in grids}, key=lambda d: abs(d - shape.head_dim))
    dim = dims[0]
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
        how = f"measured {_name(near)}, batch × {1 / ratio:g} (same blocks)"
        return AttentionGrid(grid.batches * ratio, grid.lengths, grid.seconds), how
    groups = sorted({s.group for s in grids if s.kv_heads == shape.kv_heads})
    below = max((g for g in groups if g < shape.group), default=None)
    above = min((g for g in groups if g > shape.group), default=None)
    if below is None or above is None:
        raise ProfileError(
            f"no attention measured near {shape.heads} heads on {shape.kv_heads} KV heads; "
            f"groups measured there: {groups}"
        )
    weight = (shape.group - below) / (above - below)
    pair = [HeadShape(round(g * shape.kv_heads), *shape[1:]) for g in (below, above)]
    return _between(grids[pair[0]], grids[pair[1]], weight), (
        f"between measured {_name(pair[0])} and {_name(pair[1])}"
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


def _name(shape: HeadShape) -> str:
    return f"{shape.heads}/{shape.kv_heads}/{shape.head_dim}"
