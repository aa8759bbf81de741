"""Profile: the measured kernels of one model on one kind of GPU, and where they come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blendsim.perf.grids import (
    AttentionGrid,
    ChunkTimes,
    Floats,
    Ints,
    ReduceGrid,
    SmallGrid,
    WindowedGrids,
)

#: The GEMMs of a decoder: the columns of gemm.csv, the keys of `derive.gemm_shapes`, in this order.
OPERATORS = ("qkv", "o", "gate_up", "down", "head")
EXPERTS = "experts"
#: Those of a decoder with experts, and all that its experts do, which is one kernel.
EXPERT_OPERATORS = ("qkv", "o", "router", EXPERTS, "head")


def operators_of(experts: object) -> tuple[str, ...]:
    """The operators that a profile of a model with so many experts has times of."""
    return EXPERT_OPERATORS if experts else OPERATORS


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """One layer's kernels, and the LM head, of a model on one of `tp` GPUs, where measured."""

    gpu: str
    model: str
    tp: int
    tokens: Ints  # (M,), ascending
    gemm: Floats  # (M, 5), seconds of `operators`
    decode: AttentionGrid  # over batch × context
    prefill: AttentionGrid  # over batch × prompt length
    reduce: ReduceGrid | None  # None on one GPU
    shape: Mapping[str, int | str]  # of the model that the tables belong to
    notes: tuple[str, ...]  # one a table: measured at this shape, or between which
    meta: Mapping[str, Any]  # provenance
    small: SmallGrid | None = None  # None: not measured, priced by their bytes
    chunks: ChunkTimes | None = None  # None: not measured, priced as whole prompts are
    windowed: WindowedGrids | None = None  # of layers that attend to a window, if there are any

    @property
    def operators(self) -> tuple[str, ...]:
        """The columns of `gemm`."""
        return operators_of(self.shape.get("experts"))

    @property
    def gemm_tile(self) -> int:
        """Tokens that GEMMs compute at a time where `tokens` lie that close; 1: straight lines."""
        return int(self.meta.get("gemm_tile", 1))
