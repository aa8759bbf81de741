"""The shapes of a model's kernels on one of its GPUs: of matrices, heads, projections, experts."""

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.formats import BF16, KV_FORMATS, WEIGHTS
from blendsim.perf.grids import DeltaShape, ExpertShape, HeadShape, LatentShape
from blendsim.perf.profile import DELTA, EXPERTS, HEAD, PROJECTIONS, operators_of
from blendsim.specs import ModelSpec

_ALWAYS_BF16 = ("router", "delta_gates", HEAD)
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
    "delta_key_heads": 0,
    "delta_heads": 0,
    "expert_parallel": False,
    "expert_ranks": 1,
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
    keys, values = (size // tp for size in model.delta_widths)
    gate = width if model.delta_heads else 0  # of what attention gives
    to_delta, to_gates, out = DELTA
    gemms = {
        "qkv": (width + gate + 2 * shape.kv_heads * shape.head_dim, hidden),
        "o": (hidden, width),
        to_delta: (2 * keys + 2 * values, hidden),
        to_gates: (2 * model.delta_heads // tp, hidden),
        out: (hidden, values),
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
    `operators_of`. Of replicas that share experts each sends a token there, so that as many go
    through as many times the GPUs.
    """
    counts = {name: n * k for name, (n, k) in gemm_shapes(model, tp).items()}
    counts[EXPERTS] = model.experts_per_token * model.expert_parameters // tp
    counts[PROJECTIONS] = latent_shape(model, tp).parameters
    return {name: counts[name] for name in operators_of(shape_of(model))}


def token_weight_bytes(model: ModelSpec, tp: int) -> dict[str, int]:
    """Bytes of `token_weights`, by operator. Tokens of several replicas may meet at the same
    experts: of those what one token's are.
    """
    counts = token_weights(model, tp)
    counts |= {EXPERTS: counts[EXPERTS] // model.expert_ranks} if EXPERTS in counts else {}
    return {name: int(count * WEIGHTS[format_of(model, name)]) for name, count in counts.items()}


def expert_bytes(model: ModelSpec, tp: int, tokens: Ints) -> Floats:
    """Bytes of one layer's experts on one of `tp` GPUs that a step of so many tokens reads, if
    their loads are even: n tokens that each go through a share s of the experts leave (1 − s)ⁿ of
    them unread. Of replicas that share them each has as many tokens.
    """
    share = model.experts_per_token / model.experts
    touched = 1.0 - (1.0 - share) ** (model.expert_ranks * tokens)
    gpus = tp * model.expert_ranks
    held = model.experts * model.expert_parameters // gpus * WEIGHTS[model.weights]
    return np.asarray(touched * held, np.float64)


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


def delta_shape(model: ModelSpec, tp: int) -> DeltaShape:
    """Heads of a gated delta net on one of `tp` GPUs."""
    return DeltaShape(model.delta_key_heads // tp, model.delta_heads // tp)


def expert_shape(model: ModelSpec, tp: int) -> ExpertShape:
    """A layer's experts on one of `tp` GPUs of each of the replicas that share them."""
    sizes = model.hidden, model.intermediate, model.experts, model.experts_per_token
    spread = (1, tp * model.expert_ranks) if model.expert_parallel else (tp, 1)
    return ExpertShape(model.weights, *sizes, *spread)


def shape_of(model: ModelSpec) -> dict[str, int | str]:
    """What decides a model's tables: its sizes but for the number of layers, and what MORE_SHAPE
    has where it is not as there.
    """
    sizes: dict[str, int | str] = {name: int(getattr(model, name)) for name in SHAPE}
    more = {name: getattr(model, name) for name in MORE_SHAPE}
    return sizes | {name: value for name, value in more.items() if value != MORE_SHAPE[name]}
