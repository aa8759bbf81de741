"""Which baselines `blendsim compare --engines` means."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blendsim.baselines import Baseline

POOLS = "distserve"  # its prefill and decode pools run another engine's rules, and are asked for so


def find_rows(names: str | None) -> "tuple[Baseline, ...]":
    """The rows of the engines named, as in `vllm,nanoflow`; all rows for None. An engine is served
    by replicas that do all: pools are asked for as `distserve`. UnknownName for what is neither.
    """
    from blendsim.baselines import BASELINES, find_baselines
    from blendsim.errors import UnknownName
    from blendsim.serving.flavour import FLAVOURS
    from blendsim.sim.topology import COLOCATED

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


def _known_as(name: str) -> str:
    """The name of the rows of an engine, or of pools, whatever the case it is written in."""
    from blendsim.serving.flavour import engine_name

    return POOLS if name.lower() == POOLS else engine_name(name)
