"""How long a run takes, or whether it preempts, and nothing else: the same steps as `simulate`,
without a step log.

A search asks this hundreds of times, and a log costs a large simulation up to as much again.
"""

from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.perf.model import StepModel
from blendsim.plan import Plan
from blendsim.prefix import SortedPrompts
from blendsim.request import Workload
from blendsim.serving.flavour import Flavour
from blendsim.sim.engine import Replica
from blendsim.sim.run import ranks_apart, require_modelled, simulate
from blendsim.system import HostMemory
from blendsim.topology import COLOCATED, Topology


class Timed(NamedTuple):
    """A run, without its steps."""

    seconds: float  # until the last replica ends
    preempts: bool  # whether a request was preempted


def time_plan(
    plan: Plan,
    workload: Workload,
    output_len: Ints,
    prompts: SortedPrompts,
    model: StepModel,
    flavour: Flavour,
    topology: Topology = COLOCATED,
    host: HostMemory | None = None,
) -> Timed:
    """The run of these requests: its seconds are to the bit those of `simulate`'s log."""
    if topology.is_disaggregated or topology.steals or model.system.is_joined:
        log = simulate(plan, workload, output_len, prompts, model, flavour, topology, host=host)
        return Timed(log.end, bool(log.count("preempted").any()))
    require_modelled(flavour, topology, host, model.system)
    serving = (plan, workload, output_len, prompts, model, flavour, host)
    ended = ranks_apart(*serving, keeps_log=False, kept=_ended)
    return Timed(
        max((each.seconds for each in ended), default=0.0), any(each.preempts for each in ended)
    )


def _ended(replica: Replica) -> Timed:
    return Timed(replica.now, bool(replica.core.state.requests.was_preempted.any()))


def rank_ends(
    plan: Plan,
    output_len: Ints,
    workload: Workload,
    prompts: SortedPrompts,
    model: StepModel,
    flavour: Flavour,
    ranks: int,
) -> Floats:
    """(ranks,) seconds until each rank ends, if they never meet; 0 of one without requests."""
    ends = np.zeros(ranks)
    serving = (plan, workload, output_len, prompts, model, flavour, None)
    found = ranks_apart(*serving, keeps_log=False, kept=lambda replica: replica.now)
    ends[np.unique(plan.rank)] = found
    return ends
