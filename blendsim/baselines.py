"""Baselines: a baseline is a row, planner × engine flavour. `blendsim compare` runs them all on one
workload.
"""

from typing import NamedTuple


class Baseline(NamedTuple):
    """What a system in the comparison does: how it orders requests and which engine serves them."""

    name: str
    policy: str
    engine: str


BASELINES: tuple[Baseline, ...] = (
    Baseline("vLLM-FCFS", "fcfs", "vllm"),
    Baseline("vLLM-DFS", "dfs", "vllm"),
    Baseline("SGLang-DFS", "dfs", "sglang"),
    Baseline("NanoFlow-Balance", "random", "nanoflow"),
    Baseline("NanoFlow-DFS", "dfs", "nanoflow"),
    Baseline("BlendServe", "blend", "nanoflow"),
)
