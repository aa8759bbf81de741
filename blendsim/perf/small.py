"""Small operators of a decoder: norms with residual, rotary embedding, KV write, activation.

A profile that measured them is asked. Else, since they move bytes and compute next to nothing: time
= launch + bytes / (share × peak bandwidth). Share and launch are the profile's (the source's own
figures); engines fuse what can be fused, so each operator reads its input once and writes its
output once.

A measured time of 0 means that the engine has no kernel for the operator: it is part of another
one, and its time is in that one's.
"""

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.formats import KV_FORMATS
from blendsim.perf.grids import SmallGrid, along
from blendsim.perf.model_shapes import head_shape
from blendsim.perf.profile import Profile
from blendsim.specs import BYTES_PER_VALUE
from blendsim.system import System

#: What a measured profile tells apart, and how often each stands in a layer and outside of all.
OPERATORS = ("norm", "rotary", "kv_write", "residual", "activation", "embedding")
_IN_A_LAYER = np.array([2.0, 1.0, 1.0, 2.0, 1.0, 0.0])  # residual: where it is not in the norm
_ONCE = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 1.0])
WRITES_KV = "attention_writes_kv"  # key of small_operators: attention's times include the write


def layer_bytes(
    system: System, writes_kv: bool = False, is_dense: bool = False, is_delta: bool = False
) -> list[int]:
    """Bytes a token that each small operator of one layer moves on one GPU: without the KV write
    where attention `writes_kv` within its own time. `is_dense`: of a first layer without experts,
    `is_delta`: of a gated delta net.
    """
    model, tp = system.model, system.tp
    shape = head_shape(model, tp)
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    values = {
        "norm before attention, with residual": 4 * model.hidden,
        "norm before MLP, with residual": 4 * model.hidden,
    }
    has_experts = model.experts > 0 and not is_dense  # whose kernel has their activation
    mlp = model.dense_intermediate if is_dense else model.intermediate
    mlp = model.shared_intermediate if has_experts else mlp
    if mlp:
        values["activation"] = 3 * mlp // tp
    if has_experts and model.shared_intermediate:
        values["sum of shared and other experts"] = 3 * model.hidden
    if is_delta:
        values["norm and gate of the output"] = 3 * model.delta_widths[1] // tp
        return [BYTES_PER_VALUE * count for count in values.values()]
    if model.delta_heads:
        values["gate of the output"] = 3 * queries
    if not model.latent:  # whose projections were measured with all of theirs
        values["rotary embedding"] = 2 * (queries + keys)
    if model.qk_norm:
        values["norms of queries and keys"] = 2 * (queries + keys)
    moved = [BYTES_PER_VALUE * count for count in values.values()]
    if writes_kv or model.latent:
        return moved
    return [*moved, 2 * keys * (BYTES_PER_VALUE + KV_FORMATS[model.kv])]


def small_seconds(system: System, profile: Profile, tokens: Ints) -> Floats:
    """Seconds of all small operators of a step of `tokens` tokens: every layer's, and once the
    embedding and the last norm.
    """
    if profile.small is not None:
        return _measured_seconds(profile.small, system.model.layers, tokens)
    figures = profile.meta["small_operators"]
    bandwidth = figures["bandwidth_share"] * system.gpu.bandwidth
    model, writes_kv = system.model, bool(figures.get(WRITES_KV))
    per_layer = layer_bytes(system, writes_kv)
    per_dense = layer_bytes(system, writes_kv, is_dense=True)
    once = [2 * BYTES_PER_VALUE * model.hidden, 4 * BYTES_PER_VALUE * model.hidden]
    layers, dense = model.layers - model.dense_layers, model.dense_layers
    deltas = model.windowed_layers if model.delta_heads else 0
    per_delta = layer_bytes(system, is_delta=True)
    layers -= deltas
    operators = layers * len(per_layer) + dense * len(per_dense) + len(once)
    operators += deltas * len(per_delta)
    launches = operators * figures["launch_seconds"]
    moved = layers * sum(per_layer) + dense * sum(per_dense) + sum(once)
    moved += deltas * sum(per_delta)
    return np.asarray(np.where(tokens > 0, launches + tokens * (moved / bandwidth), 0.0))


def _measured_seconds(grid: SmallGrid, layers: int, tokens: Ints) -> Floats:
    """Between measured sizes straight lines."""
    each = grid.seconds @ (layers * _IN_A_LAYER + _ONCE)
    return np.asarray(np.where(tokens > 0, along(grid.tokens, each, tokens), 0.0), np.float64)
