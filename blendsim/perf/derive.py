"""Cut one model's profile out of its GPU's kernel atlas, and say how: which tables were measured at
exactly this shape and which lie between measured ones.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from blendsim.errors import NotMeasured, ProfileError
from blendsim.formats import BF16
from blendsim.perf.atlas import ATTENTION, EXCHANGE, STATED, KernelAtlas, table_of
from blendsim.perf.grids import HeadShape, ReduceGrid, WindowedGrids, along
from blendsim.perf.kernel_times import attention, operator_seconds, shape_name
from blendsim.perf.model_shapes import delta_shape, format_of, head_shape, shape_of
from blendsim.perf.profile import OPERATORS as OPERATORS
from blendsim.perf.profile import Profile, operators_of
from blendsim.perf.recurrent import TABLE, derived
from blendsim.specs import GpuSpec, ModelSpec

STAND_INS = "stand_ins"  # key of a profile's meta: which kinds of kernels are of another format


def derive_profile(atlas: KernelAtlas, gpu: GpuSpec, model: ModelSpec, tp: int) -> Profile:
    """The profile of `model` on `tp` GPUs, from measured kernels only."""
    if tp > 1 and tp not in atlas.reduce:
        sizes = ", ".join(map(str, (1, *sorted(atlas.reduce))))
        raise NotMeasured(
            f"{gpu.name}: no all-reduce measured for --tp {tp}",
            f"choose one of --tp {sizes}, and more replicas with --dp",
        )
    tokens = atlas.gemms[BF16].tokens
    operators = {
        name: operator_seconds(gpu, atlas, model, tp, name, tokens)
        for name in operators_of(shape_of(model))
    }
    notes = [found.note for found in operators.values()]
    used = {found.table for found in operators.values()}
    stand_ins = {
        found.kernels: found.weights
        for name, found in operators.items()
        if found.weights != format_of(model, name)
    }
    exchange = None
    if model.expert_ranks > 1:
        exchange = _exchange(atlas, gpu, tp, model.expert_ranks)
        used.add(EXCHANGE.removesuffix(".csv"))
    shape = head_shape(model, tp)
    if not any(s[3:] == shape[3:] for s in atlas.decode):
        raise NotMeasured(
            f"{gpu.name}: no attention over {model.kv} KV measured",
            f"choose another --gpu, or --kv-cache-dtype {BF16}",
        )
    used |= _tables_of(shape)
    decode, note = attention(dict(atlas.decode), shape)
    notes.append(f"decode attention {shape_name(shape)}: {note}")
    prefill, note = attention(dict(atlas.prefill), shape)
    notes.append(f"prefill attention {shape_name(shape)}: {note}")
    windowed = None
    delta = None
    if model.delta_heads:
        delta = derived(gpu, atlas.deltas, model, tp)
        heads = delta_shape(model, tp)
        notes.append(f"gated delta net {heads.key_heads}/{heads.heads}: measured")
        used.add(TABLE.removesuffix(".csv"))
    elif model.windowed_layers:
        windowed, more = _windowed(atlas, gpu, shape._replace(window=model.window))
        notes += more
        used |= _tables_of(shape._replace(window=model.window))
    return Profile(
        gpu=gpu.name,
        model=model.name,
        tp=tp,
        tokens=tokens,
        gemm=np.column_stack([found.seconds for found in operators.values()]),
        decode=decode,
        prefill=prefill,
        reduce=atlas.reduce[tp] if tp > 1 else None,
        shape=shape_of(model),
        notes=tuple(notes),
        meta={key: atlas.meta[key] for key in STATED} | _more_said(atlas, used, stand_ins),
        windowed=windowed,
        exchange=exchange,
        delta=delta,
    )


def _exchange(atlas: KernelAtlas, gpu: GpuSpec, tp: int, ranks: int) -> ReduceGrid:
    """What a layer's experts that `ranks` replicas of `tp` GPUs share take of the network, by the
    bytes of all their tokens: those are gathered on all GPUs and the sums scattered, each GPU with
    its part of its replica's tokens, which the replica gathers once more (vLLM's
    `allgather_reducescatter`).
    """
    gpus, measured = tp * ranks, sorted(atlas.gather.keys() & atlas.scatter.keys())
    for wanted in (gpus, tp):
        if wanted > 1 and wanted not in measured:
            have = ", ".join(map(str, measured)) or "none; run `blendsim profile import` again"
            raise ProfileError(
                f"{gpu.name}: no all-gather of {wanted} GPUs measured, for --ep {gpus} with --tp "
                f"{tp}; measured: {have}"
            )
    gather, scatter = atlas.gather[gpus], atlas.scatter[gpus]
    seconds = gather.seconds + along(scatter.sizes, scatter.seconds, gather.sizes)
    if tp > 1:
        own = atlas.gather[tp]
        seconds = seconds + along(own.sizes, own.seconds, gather.sizes / ranks)
    return ReduceGrid(gather.sizes, seconds)


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
        raise NotMeasured(
            f"{gpu.name}: no attention to windows of {shape.window} tokens measured; measured: "
            f"{have}",
            "choose another --gpu or --model",
        )
    grids, notes = [], []
    for name, measured in (("decode", atlas.decode), ("prefill", atlas.prefill)):
        grid, note = attention(dict(measured), shape)
        grids.append(grid)
        notes.append(f"{name} attention {shape_name(shape)}: {note}")
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
