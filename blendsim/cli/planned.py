"""A plan read from disk, with the settings and the pool that it remembers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from blendsim.cli import options as o
from blendsim.cli.noted import found, is_there, settled, settled_source

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

    Paths that the plan notes are looked for beside it, too (noted.py).
    """
    from blendsim.errors import BlendsimError, InputError
    from blendsim.plan import read_plan
    from blendsim.settings import MODEL_SPEC, remembered, require_same_model

    plan = read_plan(path)
    source = plan.meta.get("source")
    if source is None and workload is None:
        raise InputError(
            f"{path}: does not say which traces it is for; name them with --workload, or plan "
            "again with -o"
        )
    if "settings" not in plan.meta:
        raise InputError(f"{path}: does not say by which settings it was made; plan again with -o")
    model = plan.meta["settings"].get("model")
    if MODEL_SPEC in plan.meta and isinstance(model, str) and not is_there(found(model, path)):
        raise InputError(f"{path}: {_not_there(model)}, or plan again with -o")
    try:
        settings = remembered(settled(plan.meta["settings"], path), "settings")
        require_same_model(settings, plan.meta, "settings")
    except BlendsimError as error:  # a name that is gone since, too, which says no file
        raise InputError(f"{path}: {error}; plan again with -o") from error
    if len(plan.rank) and int(plan.rank.max()) >= settings.dp:
        raise InputError(
            f"{path}: a request is on rank {plan.rank.max():,}, the settings have dp = "
            f"{settings.dp}; plan again with -o"
        )
    if source is not None:
        source = settled_source(source, path)
    asked = asked_for(settings, source, workload, f"{path}: read")
    return Planned(plan, asked._replace(gone=_gone(asked, path, workload)))


@contextmanager
def naming_files(asked: o.Asked) -> Iterator[None]:
    """Names what the pool was read from where the plan turns out to be another's."""
    from blendsim.errors import PlanMismatch

    try:
        yield
    except PlanMismatch as error:
        told = f"{error}; it was read from {', '.join(asked.traces)}"
        if asked.read.lengths is not None:
            told += f" with the results in {asked.read.lengths}"
        raise PlanMismatch(told) from error


def _gone(asked: o.Asked, plan: Path, workload: Path | None) -> dict[str, str]:
    """What to say of each path that a plan notes and that is not there. A `workload` takes the
    place of its traces.
    """
    traces = [] if workload is not None else filter(_is_file, asked.traces)
    ways = dict.fromkeys(traces, ", or name the trace with --workload")
    others = (asked.read.lengths, asked.read.tokenizer)
    ways |= {str(name): "" for name in others if name is not None}
    return {
        name: f"{plan}: {_not_there(name)}{way}" for name, way in ways.items() if not is_there(name)
    }


def _is_file(trace: str) -> bool:
    """Whether a trace is a file of the user's, and not one that we make or fetch."""
    from blendsim.traces.catalog import CATALOG
    from blendsim.traces.load import DEMO_PREFIX

    return not trace.startswith(DEMO_PREFIX) and trace not in {one.name for one in CATALOG}


def _not_there(noted: str) -> str:
    return (
        f"{noted}: no such file here or beside the plan, which notes it relative to where `plan` "
        "ran; run there"
    )


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
