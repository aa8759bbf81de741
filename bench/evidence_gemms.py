"""What other algorithms of cuBLASLt's give (gpu_gemms.py): what is kept of it, and its table."""

import json
from collections.abc import Iterator
from typing import Any

from evidence_runs import Run
from machine import row

from blendsim.perf.derive import OPERATORS

ALGORITHMS = "gemm-algorithms.json"
TORCH, LAYER = "torch", "layer"


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Of what gpu_gemms.py wrote: microseconds in streams, by torch and by the best of the
    library's algorithms, of each GEMM and of a layer in which each runs by its best.
    """
    sizes = []
    for tokens, layer in found["stream"].items():
        gemms = {name: _both(told["sustained"]) for name, told in found["burst"][tokens].items()}
        took = {LAYER: layer, **gemms}
        rounded = {name: [round(x, 1) for x in two] for name, two in took.items()}
        sizes.append({"tokens": int(tokens), **rounded})
    return {"cublasLt": found["lt"], TORCH: found[TORCH], "microseconds": sizes}


def _both(took: dict[str, float]) -> tuple[float, float]:
    """By torch, and by the best of the others."""
    return took[TORCH], min(seconds for way, seconds in took.items() if way != TORCH)


def algorithm_tables(runs: list[Run]) -> dict[str, list[str]]:
    """The table of the last run that has it, by name; none where no run has."""
    for run in reversed(runs):
        path = run.place / ALGORITHMS
        if path.exists():
            return {"gemm-algorithms": list(_table(json.loads(path.read_text())["microseconds"]))}
    return {}


def _table(sizes: list[dict[str, Any]]) -> Iterator[str]:
    gemms = OPERATORS[:4]
    yield row("tokens", "a layer's GEMMs, µs", "to torch's", *(f"{name}, µs" for name in gemms))
    yield row(*["---"] * (3 + len(gemms)))
    for one in sizes:
        own, best = one[LAYER]
        told = {name: " → ".join(f"{x:.1f}" for x in one[name]) for name in (LAYER, *gemms)}
        each = (told[name] for name in gemms)
        yield row(f"{one['tokens']:,}", told[LAYER], f"{best / own:.3f}", *each)
