"""Cut one model's profile out of its GPU's kernel atlas, and say how: which tables were measured at
exactly this shape and which lie between measured ones.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from blendsim.errors import ProfileError
from blendsim.formats import BF16, FP8, FP8_BLOCK, KV_FORMATS, WEIGHTS
from blendsim.perf.atlas import ATTENTION, STATED, KernelAtlas, table_of
from blendsim.perf.grids import (
    AttentionGrid,
    ExpertGrid,
    ExpertShape,
    Floats,
    GemmGrid,
    HeadShape,
    Ints,
    LatentGrid,
    LatentShape,
    WindowedGrids,
    along,
)
from blendsim.perf.profile import EXPERTS, HEAD, PROJECTIONS, Profile, operators_of
from blendsim.perf.profile import OPERATORS as OPERATORS
from blendsim.specs import GpuSpec, ModelSpec

_ALWAYS_BF16 = ("router", HEAD)
#: Whose kernels stand for those of a format that was not measured. GEMMs by block that are no
#: launch times take 0.9 to 1.0 of those in fp8. Experts in fp8 take as long as those by block on an
#: L40S and less on a B200 (docs/profiles.md), so that the other way round they would be too fast.
_GEMMS_INSTEAD = {FP8_BLOCK: FP8}
_EXPERTS_INSTEAD = {FP8: FP8_BLOCK}
_APART = " --expert-parallel"
STAND_INS = "stand_ins"  # key of a profile's meta: which kinds of kernels are of another format
#: The sizes that decide a model's tables.
SHAPE = ("hidden", "intermediate", "heads", "kv_heads", "head_dim", "vocab")
#: What else does, with what it is where a profile does not say it.
MORE_SHAPE: dict[str, int | str] = {
    "experts": 0,
    "experts_per_token": 0,
    "window": 0,
    "dense_intermediate": 0,
    "shared_intermediate": 0,
    "q_rank": 0,
    "kv_rank": 0,
    "rope_dim": 0,
    "expert_parallel": False,
    "weights": BF16,
    "kv": BF16,
}


def gemm_shapes(model: ModelSpec, tp: int) -> dict[str, tuple[int, int]]:
    """(n outputs, k inputs) of each GEMM on one of `tp` GPUs, in the order of `operators_of`;
    experts are none, and projections of a latent attention are timed as one.
    """
    shape, hidden = head_shape(model, tp), model.hidden
    width = shape.heads * shape.head_dim
    mlp = (model.dense_intermediate if model.experts else model.intermediate) // tp
    shared = model.shared_intermediate // tp
    gemms = {
        "qkv": (width + 2 * shape.kv_heads * shape.head_dim, hidden),
        "o": (hidden, width),
        "gate_up": (2 * mlp, hidden),
        "down": (hidden, mlp),
        "shared_gate_up": (2 * shared, hidden),
        "shared_down": (hidden, shared),
        "router": (model.experts, hidden),
        HEAD: (-(-model.vocab // tp), hidden),
    }
    return {name: gemms[name] for name in operators_of(shape_of(model)) if name in gemms}


def format_of(model: ModelSpec, operator: str) -> str:
    """The format of an operator's weights, of formats.WEIGHTS."""
    if operator in _ALWAYS_BF16:
        return BF16
    return model.weights if operator == EXPERTS else model.layer_format


def token_weights(model: ModelSpec, tp: int) -> dict[str, int]:
    """Weights that one token goes through on one of `tp` GPUs, by operator in the order of
    `operators_of`.
    """
    counts = {name: n * k for name, (n, k) in gemm_shapes(model, tp).items()}
    counts[EXPERTS] = model.experts_per_token * model.expert_parameters // tp
    down = model.down_parameters
    counts[PROJECTIONS] = down + (model.attention_parameters - down) // tp
    return {name: counts[name] for name in operators_of(shape_of(model))}


def token_weight_bytes(model: ModelSpec, tp: int) -> dict[str, int]:
    """Bytes of `token_weights`, by operator."""
    counts = token_weights(model, tp)
    return {name: int(count * WEIGHTS[format_of(model, name)]) for name, count in counts.items()}


def head_shape(model: ModelSpec, tp: int) -> HeadShape:
    """Attention heads on one GPU in layers that attend to the whole context; KV heads are repeated
    when there are fewer of them than GPUs.
    """
    heads, kv_heads = model.heads // tp, max(1, model.kv_heads // tp)
    return HeadShape(heads, kv_heads, model.head_dim, KV_FORMATS[model.kv], latent=model.latent)


def latent_shape(model: ModelSpec, tp: int) -> LatentShape:
    """The projections of one layer's latent attention on one of `tp` GPUs."""
    sizes = model.head_dim, model.q_rank, model.kv_rank, model.rope_dim
    return LatentShape(model.layer_format, model.hidden, model.heads // tp, *sizes)


def expert_shape(model: ModelSpec, tp: int) -> ExpertShape:
    """A layer's experts on one of `tp` GPUs."""
    sizes = model.hidden, model.intermediate, model.experts, model.experts_per_token
    return ExpertShape(model.weights, *sizes, *((1, tp) if model.expert_parallel else (tp, 1)))


def derive_profile(atlas: KernelAtlas, gpu: GpuSpec, model: ModelSpec, tp: int) -> Profile:
    """The profile of `model` on `tp` GPUs, from measured kernels only."""
    if tp > 1 and tp not in atlas.reduce:
        raise ProfileError(
            f"{gpu.name}: no all-reduce measured for --tp {tp}; measured: {sorted(atlas.reduce)}"
        )
    notes = []
    columns = []
    used: set[str] = set()  # tables beside those in bf16
    stand_ins: dict[str, str] = {}
    plain = atlas.gemms[BF16]
    tokens = plain.tokens
    shapes = gemm_shapes(model, tp)
    for name in operators_of(shape_of(model)):
        if name == EXPERTS:
            wanted = expert_shape(model, tp)
            seconds, note, stand_in = expert_seconds(gpu, atlas.experts, wanted, tokens)
            used.add(EXPERTS)
            if stand_in != model.weights:
                stand_ins["experts"] = stand_in
        elif name == PROJECTIONS:
            projected = latent_shape(model, tp)
            seconds, note, stand_in = projection_seconds(gpu, atlas.projections, projected, tokens)
            used.add(PROJECTIONS)
            if stand_in != projected.weights:
                stand_ins["projections of latent attention"] = stand_in
        else:
            n, k = shapes[name]
            weights = format_of(model, name)
            found = _stand_in(weights, atlas.gemms, _GEMMS_INSTEAD)
            if found is None:
                raise ProfileError(
                    f"{gpu.name}: no GEMMs with {weights} weights measured; measured: "
                    f"{', '.join(atlas.gemms)}"
                )
            stand_in = found
            if stand_in != weights:
                stand_ins["GEMMs"] = stand_in
            if stand_in != BF16:
                used.add(f"gemm_{stand_in.replace('-', '_')}")
            grid = atlas.gemms[stand_in]
            seconds, how = gemm_seconds(grid, n, k)
            seconds = along(grid.tokens, seconds, tokens) if grid is not plain else seconds
            note = f"gemm {name} {n}×{k}{_told(weights, stand_in)}: {how}"
        columns.append(seconds)
        notes.append(note)
    shape = head_shape(model, tp)
    if not any(s[3:] == shape[3:] for s in atlas.decode):
        raise ProfileError(
            f"{gpu.name}: no attention over {model.kv} KV measured; choose another --gpu, or "
            f"--kv-cache-dtype {BF16}"
        )
    used |= _tables_of(shape)
    decode, note = attention(dict(atlas.decode), shape)
    notes.append(f"decode attention {_name(shape)}: {note}")
    prefill, note = attention(dict(atlas.prefill), shape)
    notes.append(f"prefill attention {_name(shape)}: {note}")
    windowed = None
    if model.windowed_layers:
        windowed, more = _windowed(atlas, gpu, shape._replace(window=model.window))
        notes += more
        used |= _tables_of(shape._replace(window=model.window))
    return Profile(
        gpu=gpu.name,
        model=model.name,
        tp=tp,
        tokens=tokens,
        gemm=np.column_stack(columns),
        decode=decode,
        prefill=prefill,
        reduce=atlas.reduce[tp] if tp > 1 else None,
        shape=shape_of(model),
        notes=tuple(notes),
        meta={key: atlas.meta[key] for key in STATED} | _more_said(atlas, used, stand_ins),
        windowed=windowed,
    )


def _tables_of(shape: HeadShape) -> set[str]:
    """The names of the tables of attention of heads of a shape, as a meta.toml has them."""
    return {table_of(name, shape).removesuffix(".csv") for name in ATTENTION}


def _windowed(
    atlas: KernelAtlas, gpu: GpuSpec, shape: HeadShape
) -> tuple[WindowedGrids, list[str]]:
    """Attention of the layers with a window, and notes on how it was found."""
    windows = sorted({s.window for s in atlas.decode if s.window})
    if shape.window not in windows:
        have = ", ".join(map(str, windows)) or "none"
        raise ProfileError(
            f"{gpu.name}: no attention to windows of {shape.window} tokens measured; measured: "
            f"{have}"
        )
    grids, notes = [], []
    for name, measured in (("decode", atlas.decode), ("prefill", atlas.prefill)):
        grid, note = attention(dict(measured), shape)
        grids.append(grid)
        notes.append(f"{name} attention {_name(shape)}: {note}")
    return WindowedGrids(*grids), notes


def _more_said(
    atlas: KernelAtlas, used: Collection[str], stand_ins: Mapping[str, str]
) -> dict[str, Any]:
    """What a profile says besides: where its tables of other formats and of experts come from, and
    which of them are of another format than its model is.
    """
    more = atlas.meta.get("more_tables", {})
    told = {name: text for name, text in more.items() if name in used}
    said: dict[str, Any] = {"tables": {**atlas.meta["tables"], **told}} if told else {}
    return said | ({STAND_INS: dict(stand_ins)} if stand_ins else {})


def _stand_in(weights: str, measured: Collection[str], instead: Mapping[str, str]) -> str | None:
    """The format whose kernels are taken for `weights`: its own if they were measured."""
    return next((f for f in (weights, instead.get(weights)) if f in measured), None)


def _told(weights: str, stand_in: str) -> str:
    """A format in a note on a table."""
    if weights == BF16:
        return ""
    return f" {weights}" if weights == stand_in else f" {weights}, by those in {stand_in}"


def shape_of(model: ModelSpec) -> dict[str, int | str]:
    """What decides a model's tables: its sizes but for the number of layers, and what MORE_SHAPE
    has where it is not as there.
    """
    sizes: dict[str, int | str] = {name: int(getattr(model, name)) for name in SHAPE}
    more = {name: getattr(model, name) for name in MORE_SHAPE}
    return sizes | {name: value for name, value in more.items() if value != MORE_SHAPE[name]}


def expert_seconds(
    gpu: GpuSpec, grid: ExpertGrid | None, shape: ExpertShape, tokens: Ints
) -> tuple[Floats, str, str]:
    """Seconds over `tokens` of one layer's experts, how they were found, and in which format:
    straight lines between measured numbers of tokens. ProfileError for a shape that was not
    measured: how experts' times go with their sizes is no line.
    """
    sized = f"{shape.experts} × {shape.intermediate}, {shape.per_token} a token"
    alike = [s for s in grid.seconds if s[1:5] == shape[1:5]] if grid else []
    if grid is None or not alike:
        raise ProfileError(
            f"{gpu.name}: no experts measured of {sized}, on {shape.hidden} hidden values; "
            "choose another --gpu or --model"
        )
    formats = [s.weights for s in alike if s[5:] == shape[5:]]
    stand_in = _stand_in(shape.weights, formats, _EXPERTS_INSTEAD)
    if stand_in is None:
        sizes: dict[tuple[str, bool], list[str]] = {}
        for each in sorted(alike, key=lambda s: s.gpus):
            sizes.setdefault((each.weights, each.ep > 1), []).append(str(each.gpus))
        have = "; ".join(
            f"in {weights} at{_APART if is_apart else ''} --tp {', '.join(found)}"
            for (weights, is_apart), found in sizes.items()
        )
        raise ProfileError(
            f"{gpu.name}: experts of {sized} were not measured in {shape.weights} at"
            f"{_APART if shape.ep > 1 else ''} --tp {shape.gpus}, but {have}; choose one of these"
        )
    seconds = grid.seconds[shape._replace(weights=stand_in)]
    is_measured = ~np.isnan(seconds)
    at = grid.tokens[is_measured]
    last = "" if at[-1] >= tokens[-1] else f", beyond {at[-1]} tokens at their rate"
    apart = f", on {shape.ep} GPUs whole" if shape.ep > 1 else ""
    note = f"experts {sized}{_told(shape.weights, stand_in)}{apart}: measured{last}"
    return along(at, seconds[is_measured], tokens), note, stand_in


def projection_seconds(
    gpu: GpuSpec, grid: LatentGrid | None, shape: LatentShape, tokens: Ints
) -> tuple[Floats, str, str]:
    """Seconds over `tokens` of the projections of one layer's latent attention, how they were
    found, and in which format. ProfileError for a shape that was not measured.
    """
    alike = [s for s in grid.seconds if s[1:] == shape[1:]] if grid else []
    stand_in = _stand_in(shape.weights, [s.weights for s in alike], _EXPERTS_INSTEAD)
    if grid is None or stand_in is None:
        have = ", ".join(dict.fromkeys(s.weights for s in alike)) or "none of its sizes"
        raise ProfileError(
            f"{gpu.name}: no latent attention measured with {shape.heads} heads a GPU in "
            f"{shape.weights}; measured: {have}; choose another --gpu, --tp or --quantization"
        )
    seconds = grid.seconds[shape._replace(weights=stand_in)]
    is_measured = ~np.isnan(seconds)
    sized = f"projections of {shape.heads} heads of latent attention"
    note = f"{sized}{_told(shape.weights, stand_in)}: measured with attention, which is taken off"
    return along(grid.tokens[is_measured], seconds[is_measured], tokens), note, stand_in


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
            f"no attention measured near {shape.heads} heads on {shape.kv_heads} KV heads"
            f"{_over(shape)}; groups measured there: {groups}"
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
    keys = f"{shape.latent} values" if shape.latent else f"{shape.kv_heads}/{shape.head_dim}"
    return f"{shape.heads}/{keys}{_over(shape)}"


def _over(shape: HeadShape) -> str:
    kv = "" if shape.value_bytes == KV_FORMATS[BF16] else f" over {8 * shape.value_bytes}-bit KV"
    return kv + (f" over a window of {shape.window}" if shape.window else "")
