"""A plan simulated on other hardware than it was made for: what has to fit, and what is told."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # nothing heavy before a command runs
    from blendsim.plan import Plan
    from blendsim.request import Workload
    from blendsim.settings import Settings
    from blendsim.system import System


def settings_there(own: "Settings", engine: str | None, given: Mapping[str, Any]) -> "Settings":
    """The settings that a plan was made by, its `own`, with what is `given` for another run."""
    from blendsim.topology import COLOCATED

    changes = dict(given)
    has_pools = given.get("topology", COLOCATED.name) != COLOCATED.name
    if has_pools:  # they replace the ranks the plan was made for
        changes |= {"dp": 1, "steals": False}
    if own.ep is not None and "ep" not in given:
        if "expert_parallel" in given:  # experts of one replica are all that it is of
            changes["ep"] = None
        elif has_pools:
            changes |= {"ep": None, "expert_parallel": own.tp > 1}
    return replace(own if engine is None else own.for_engine(engine), **changes)


def require_all_fit(pool: "Workload", system: "System") -> None:
    """OversizeError unless `system` holds each request of a pool that was read for a plan, which
    cannot do without any of them.
    """
    from blendsim.errors import OversizeError
    from blendsim.traces.limits import oversize

    longest = system.longest_request
    rows = oversize(pool, longest)
    if len(rows):
        raise OversizeError(
            f"{len(rows):,} of the plan's {len(pool):,} requests, {pool.ids[rows[0]]} the first, "
            f"are longer than the {longest:,} tokens that fit on {system.gpus} × "
            f"{system.gpu.name}; choose a larger --gpu, or plan for this one"
        )


def pacing_notes(plan: "Plan", own: "Settings", settings: "Settings") -> list[str]:
    """A note where steps are paced by a plan that another machine's figures pace: `own` are the
    settings it was made by.
    """
    cluster = settings.cluster
    is_paced = plan.pacing is not None and settings.flavour().can_pace
    if not is_paced or cluster.is_disaggregated or cluster.steals or settings.pp > 1:
        return []
    before = _machine(own, plan.meta.get("overlap", own.overlap))
    now = _machine(settings, settings.overlap)
    if before == now:
        return []
    return [f"its steps are paced for {before}, and run on {now}; a plan for that may take less"]


def _machine(settings: "Settings", overlap: str) -> str:
    """What steps are priced by, in words."""
    from blendsim.perf.measured import meant, overlap_meant

    profile = meant(settings.system, settings.profile)
    overlap = overlap_meant(settings.system, overlap, settings.profile)
    model = settings.in_formats
    return f"{settings.gpu}{model} (overlap {overlap}, profile {profile})"
