"""What the step model has for the parts of a step: each kind of kernel, and each GEMM."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blendsim.perf.derive import OPERATORS
from blendsim.perf.kernels import memory_seconds, prefill_seconds
from blendsim.perf.measured import model_at, shipped_place
from blendsim.perf.model import StepModel
from blendsim.perf.overlap import SUM
from blendsim.perf.profile import Profile
from blendsim.perf.store import read_profile
from blendsim.specs import GPUS
from blendsim.system import System

Found = dict[str, Any]
SHIPPED = "shipped"
#: As experiments.tracing calls kernels' kinds, which needs torch.
KINDS = GEMM, DECODE, PREFILL, SMALL = "gemm", "decode attention", "prefill attention", "small"


class Priced(NamedTuple):
    """A profile and the step model made of it."""

    name: str
    profile: Profile
    model: StepModel


def models_of(model: str, gpu: str, places: Sequence[Path]) -> list[Priced]:
    """The measured profile of a model's that is shipped for a GPU, if there is one, and those in
    the directories (each a `tp1`); ProfileError where one is of another model.
    """
    from blendrt.profiler.target import CPU_SPEC, find_decoder, spec_of

    spec = spec_of(find_decoder(model))
    system = System(spec, GPUS.get(gpu, CPU_SPEC))
    named = {str(place): place for place in places}
    if (shipped := shipped_place(system)).is_dir():
        named = {SHIPPED: shipped, **named}
    return [
        Priced(name, read_profile(place), model_at(place, system, SUM))
        for name, place in named.items()
    ]


def prices(priced: Sequence[Priced], found: Sequence[Found]) -> Iterator[Found]:
    """What every model has for every step that was run."""
    steps = {one["step"]: one["counts"] for one in found if one["what"] == "row"}
    for name, counts in steps.items():
        for one in priced:
            yield {"what": "model", "step": name, "by": one.name, **priced_parts(one, counts)}


def priced_parts(priced: Priced, counts: Mapping[str, int]) -> Found:
    """Seconds of a step by kind, as `tracing` names them, and by GEMM as the profile has it; the LM
    head is a GEMM.
    """
    model, tables = priced.model, priced.model.tables
    tokens = counts["prefill_tokens"] + counts["decode_requests"]
    chunks = [counts[f"prefill_{of}"] for of in ("tokens", "requests", "pairs")]
    head, small = float(tables.head[counts["sampled_tokens"]]), float(model.small_seconds[tokens])
    kinds = {
        GEMM: float(tables.layers[tokens]) - small + head,
        DECODE: float(memory_seconds(tables, counts["decode_requests"], counts["context_tokens"])),
        PREFILL: float(prefill_seconds(tables, *chunks)) if chunks[0] else 0.0,
        SMALL: small,
    }
    layers = model.system.model.layers
    times = (*[layers] * (len(OPERATORS) - 1), 1)
    rows = (*[tokens] * (len(OPERATORS) - 1), counts["sampled_tokens"])
    operators = {
        name: n * measured_gemm(priced.profile, at, m)
        for at, (name, n, m) in enumerate(zip(OPERATORS, times, rows, strict=True))
    }
    return {"seconds": sum(kinds.values()), "kinds": kinds, "operators": operators}


def measured_gemm(profile: Profile, operator: int, tokens: int) -> float:
    """Seconds of one of a layer's GEMMs, or the LM head, by the profile's rows: for whole tiles
    above one, between two sizes on a straight line, and for no more than a larger size takes, which
    the rows could be filled up to.
    """
    tile, seconds = profile.gemm_tile, profile.gemm[:, operator]
    rows = tokens if tokens <= tile else -(-tokens // tile) * tile
    filled = np.minimum.accumulate(seconds[::-1])[::-1] if tile > 1 else seconds
    return float(np.interp(rows, profile.tokens, filled))
