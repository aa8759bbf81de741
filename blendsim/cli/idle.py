"""What was asked for and does nothing in a run, as its commands note it: pacing where steps are not
paced, and options for what is not there.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # nothing heavy before a command runs
    from blendsim.request import Workload
    from blendsim.settings import Settings


def idle(
    several: "Sequence[Settings]", policies: Sequence[str], pool: "Workload | None" = None
) -> list[str]:
    """Notes on a run of plans of these `policies` on these systems, of which a note holds for all
    that it is about; of `pool`, where commands guess lengths.
    """
    return [*_unpaced(several, policies), *_unused(several, pool)]


def _unpaced(several: "Sequence[Settings]", policies: Sequence[str]) -> list[str]:
    """A note where a plan is `paced` and served by dual scan alone."""
    from blendsim.planner.make import PACED

    if PACED not in policies:
        return []
    why = dict.fromkeys(reason for each in several if (reason := _why_unpaced(each)))
    if not why:
        return []
    return [
        f"steps are not paced {' and '.join(why)}: a plan of the policy {PACED} is served by dual "
        "scan there, as one of blend is"
    ]


def _why_unpaced(settings: "Settings") -> str:
    """Where no steps are paced, of these settings (sim/run.py, serving/core.py); else empty."""
    cluster, flavour = settings.cluster, settings.flavour()
    if cluster.is_disaggregated:
        return f"on pools of prefill and decode replicas ({settings.topology})"
    if cluster.steals:
        return "where ranks steal from each other (steals = true)"
    if settings.pp > 1:
        return f"in a pipeline (--pp {settings.pp})"
    if not flavour.can_pace:
        return f"by {flavour.name}" + ("" if flavour.prefill_first else " with knobs of vLLM")
    return ""


def _unused(several: "Sequence[Settings]", pool: "Workload | None") -> list[str]:
    """Notes on settings that none of the systems has a use for."""
    from blendsim.settings import AUTO

    notes = []
    first = several[0]  # link, guess and stealing are the same of all
    if first.link != AUTO and not first.cluster.is_disaggregated:
        notes.append(
            f"--link {first.link} does nothing: KV moves over a link between pools alone "
            "(--topology)"
        )
    if first.steals and not any(each.dp > 1 for each in several):
        notes.append("steals = true does nothing: one replica has no other to take from (--dp)")
    if first.output_guess is not None and pool is not None and pool.has_output.all():
        notes.append(
            f"--output-guess {first.output_guess} does nothing: all output lengths are given"
        )
    return notes
