"""Baselines: a row is planner × engine flavour × topology; `compare` runs them on one workload."""

from collections.abc import Sequence
from typing import NamedTuple

from blendsim.serving.flavour import find_flavour
from blendsim.sim.topology import COLOCATED


class Baseline(NamedTuple):
    """What a system in the comparison does: how it orders requests and which engine serves them."""

    name: str
    policy: str
    engine: str
    topology: str = COLOCATED.name  # or "1P2D": prefill and decode on replicas of their own


BASELINES: tuple[Baseline, ...] = (
    Baseline("vLLM-FCFS", "fcfs", "vllm"),
    Baseline("vLLM-DFS", "dfs", "vllm"),
    Baseline("SGLang-DFS", "dfs", "sglang"),
    Baseline("NanoFlow-Balance", "random", "nanoflow"),
    Baseline("NanoFlow-DFS", "dfs", "nanoflow"),
    Baseline("BlendServe", "blend", "nanoflow"),
    Baseline("Paced", "paced", "nanoflow"),
    Baseline("DistServe-1P1D", "dfs", "sglang", "1P1D"),
    Baseline("DistServe-1P2D", "dfs", "sglang", "1P2D"),
    Baseline("DistServe-2P1D", "dfs", "sglang", "2P1D"),
    Baseline("DistServe-1P3D", "dfs", "sglang", "1P3D"),
)


def find_baselines(engines: Sequence[str]) -> tuple[Baseline, ...]:
    """The rows of these engines, all rows for none; an engine without rows runs both orders that
    matter. UnknownName for an engine that does not exist.
    """
    if not engines:
        return BASELINES
    found: list[Baseline] = []
    for engine in dict.fromkeys(find_flavour(name).name for name in engines):
        rows = [row for row in BASELINES if row.engine == engine]
        found += rows or [Baseline(f"{engine}-{p}", p, engine) for p in ("dfs", "blend")]
    return tuple(found)
