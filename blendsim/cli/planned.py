"""A plan read from disk, with the settings and the pool that it remembers."""

from collections.abc import Mapping
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
    """The plan at `path`, its pool to be read from `workload` instead where that is given. A plan
    that names no traces, as Python may write one, needs it: it is read as `plan` does by itself.
    """
    from blendsim.errors import BlendsimError, InputError
    from blendsim.plan import read_plan
    from blendsim.settings import remembered, require_same_model

    plan = read_plan(path)
    source = plan.meta.get("source")
    if source is None and workload is None:
        raise InputError(
            f"{path}: does not say which traces it is for; name them with --workload, or plan "
            "again with -o"
        )
    if "settings" not in plan.meta:
        raise InputError(f"{path}: does not say by which settings it was made; plan again with -o")
    try:
        settings = remembered(plan.meta["settings"], "settings")
        require_same_model(settings, plan.meta, "settings")
    except BlendsimError as error:  # a name that is gone since, too, which says no file
        raise InputError(f"{path}: {error}; plan again with -o") from error
    if len(plan.rank) and int(plan.rank.max()) >= settings.dp:
        raise InputError(
            f"{path}: a request is on rank {plan.rank.max():,}, the settings have dp = "
            f"{settings.dp}; plan again with -o"
        )
    return Planned(plan, asked_for(settings, source, workload, f"{path}: read"))


def asked_for(
    settings: "Settings", source: Mapping[str, Any] | None, workload: Path | None, where: str
) -> o.Asked:
    """`settings`, and the pool that a file names as its `source`, to be read from `workload`
    instead where that is given; an error about how it is read begins with `where`.
    """
    from blendsim.fields import overlay
    from blendsim.traces.seam import ReadOptions

    named = [] if workload is None else [str(workload)]
    if source is None:
        return o.Asked(named, settings, ReadOptions(), skip_oversize=False)
    read = overlay(ReadOptions(), given(source["read"]), where)
    return o.Asked(named or source["traces"], settings, read, source["skip_oversize"])


def given(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}
