"""A plan read from disk, with the settings and the pool that it remembers."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from blendsim.cli import options as o

if TYPE_CHECKING:
    from blendsim.plan import Plan
    from blendsim.settings import Settings


class Planned(NamedTuple):
    """A plan and what was asked for when it was made."""

    plan: "Plan"
    asked: o.Asked


def read_planned(path: Path, workload: Path | None) -> Planned:
    """The plan at `path`, its pool to be read from `workload` instead where that is given."""
    from blendsim.cli.config import overlay
    from blendsim.errors import InputError
    from blendsim.plan import read_plan
    from blendsim.settings import Settings
    from blendsim.traces.seam import ReadOptions

    plan = read_plan(path)
    source = plan.meta.get("source")
    if source is None:
        raise InputError(f"{path}: does not say which traces it is for; plan again with -o")
    if "settings" not in plan.meta:
        raise InputError(f"{path}: does not say by which settings it was made; plan again with -o")
    settings = overlay(Settings(), given(plan.meta["settings"]), f"{path}: settings")
    read = overlay(ReadOptions(), given(source["read"]), f"{path}: read")
    if len(plan.rank) and int(plan.rank.max()) >= settings.dp:
        raise InputError(
            f"{path}: a request is on rank {plan.rank.max():,}, the settings have dp = "
            f"{settings.dp}; plan again with -o"
        )
    traces = source["traces"] if workload is None else [str(workload)]
    return Planned(plan, o.Asked(traces, settings, read, source["skip_oversize"]))


def eviction_on(engine: str, settings: "Settings") -> str | None:
    """The eviction that an engine is to have under a plan's settings: none of theirs where they
    were for another engine and its cache evicts by last use whatever a plan says.
    """
    from blendsim.serving.flavour import FLAVOURS

    if engine != settings.engine and engine in FLAVOURS and FLAVOURS[engine].always_lru:
        return None
    return settings.eviction


def given(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}
