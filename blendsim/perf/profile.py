"""Profile: the measured kernels of one model on one kind of GPU, and where they come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blendsim.arrays import Floats, Ints
from blendsim.perf.grids import (
    AttentionGrid,
    ChunkTimes,
    DeltaGrid,
    ReduceGrid,
    SmallGrid,
    WindowedGrids,
)
from blendsim.specs import ModelSpec

EXPERTS = "experts"  # all that a layer's experts do, which is one kernel
PROJECTIONS = "projections"  # all of a latent attention but attention itself
MLP = ("gate_up", "down")
SHARED = ("shared_gate_up", "shared_down")
DELTA = ("delta_in", "delta_gates", "delta_out")  # of gated delta nets
HEAD = "head"
#: The GEMMs of a dense decoder: the columns of gemm.csv, in this order.
OPERATORS = ("qkv", "o", *MLP, HEAD)


def operators_of(shape: Mapping[str, object]) -> tuple[str, ...]:
    """The operators that a profile has times of, by what decides its tables
    (`model_shapes.shape_of`).
    """
    experts = shape.get("experts")
    return (
        *((PROJECTIONS,) if shape.get("kv_rank") else ("qkv", "o")),
        *(DELTA if shape.get("delta_heads") else ()),
        *(MLP if not experts or shape.get("dense_intermediate") else ()),
        *(SHARED if shape.get("shared_intermediate") else ()),
        *(("router", EXPERTS) if experts else ()),
        HEAD,
    )


def layers_with(model: ModelSpec, operator: str) -> int:
    """How many layers have an operator; the LM head stands for one."""
    if operator == HEAD:
        return 1
    if operator in DELTA:
        return model.windowed_layers
    if operator in ("qkv", "o") and model.delta_heads:
        return model.full_layers
    if operator in MLP and model.experts:
        return model.dense_layers
    return model.layers_with_experts if operator in ("router", EXPERTS, *SHARED) else model.layers


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """One layer's kernels, and the LM head, of a model on one of `tp` GPUs, where measured."""

    gpu: str
    model: str
    tp: int
    tokens: Ints  # (M,), ascending
    gemm: Floats  # (M, O), seconds of `operators`
    decode: AttentionGrid  # over batch × context
    prefill: AttentionGrid  # over batch × prompt length
    reduce: ReduceGrid | None  # None on one GPU
    shape: Mapping[str, int | str]  # of the model that the tables belong to
    notes: tuple[str, ...]  # one a table: measured at this shape, or between which
    meta: Mapping[str, Any]  # provenance
    small: SmallGrid | None = None  # None: not measured, priced by their bytes
    chunks: ChunkTimes | None = None  # None: not measured, priced as whole prompts are
    windowed: WindowedGrids | None = None  # of layers that attend to a window, if there are any
    exchange: ReduceGrid | None = None  # of experts that replicas share, by bytes of all tokens
    delta: DeltaGrid | None = None  # of gated delta nets, if there are any

    @property
    def operators(self) -> tuple[str, ...]:
        """The columns of `gemm`."""
        return operators_of(self.shape)

    @property
    def gemm_tile(self) -> int:
        """Tokens that GEMMs compute at a time where `tokens` lie that close; 1: straight lines."""
        return int(self.meta.get("gemm_tile", 1))
