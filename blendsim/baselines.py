"""Baselines: a row is planner × engine flavour × topology; `compare` runs them on one workload."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from blendsim.errors import InputError, UnknownName
from blendsim.serving.flavour import FLAVOURS, VLLM_PLANNED, engine_name, find_flavour
from blendsim.topology import COLOCATED

POOLS = "distserve"  # its prefill and decode pools run another engine's rules, and are asked for so


class Baseline(NamedTuple):
    """What a system in the comparison does: how it orders requests and which engine serves them."""

    name: str
    policy: str
    engine: str
    topology: str = COLOCATED.name  # or "1P2D": prefill and decode on replicas of their own


BASELINES: tuple[Baseline, ...] = (
    Baseline("vLLM-FCFS", "fcfs", "vllm"),
    Baseline("vLLM-DFS", "dfs", "vllm"),
    Baseline("vLLM-DFS-Longest", "dfs-longest", "vllm"),  # ours, for any vLLM
    Baseline("vLLM-planned-DFS", "dfs", VLLM_PLANNED),  # its steps by our scheduler
    Baseline("vLLM-planned-Blend", "blend", VLLM_PLANNED),
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


def named_baselines(names: str | None) -> tuple[Baseline, ...]:
    """The rows that a user names, as in `vllm,nanoflow`; all rows for None. An engine is served by
    replicas that do all: pools are asked for as `distserve`. UnknownName for what is neither.
    """
    if names is None:
        return BASELINES
    rows: list[Baseline] = []
    for name in dict.fromkeys(_known_as(part.strip()) for part in names.split(",")):
        if name == POOLS:
            rows += [row for row in BASELINES if row.topology != COLOCATED.name]
        elif name not in FLAVOURS:
            raise UnknownName("engine", name, (*FLAVOURS, POOLS))
        else:
            rows += [row for row in find_baselines([name]) if row.topology == COLOCATED.name]
    return tuple(rows)


def own_baselines(baselines: Sequence[Baseline], names: Collection[str]) -> tuple[Baseline, ...]:
    """Rows of one's own orders of these names: each by every engine that the baselines have on
    replicas that do all. InputError if that is none.
    """
    engines = dict.fromkeys(row.engine for row in baselines if row.topology == COLOCATED.name)
    if not engines and names:
        raise InputError(
            "orders of your own run on replicas that prefill and decode, and the engines asked for "
            "have none; add one, such as nanoflow"
        )
    return tuple(Baseline(f"{engine}-{name}", name, engine) for name in names for engine in engines)


def _known_as(name: str) -> str:
    """The name of the rows of an engine, or of pools, whatever the case it is written in."""
    return POOLS if name.lower() == POOLS else engine_name(name)
