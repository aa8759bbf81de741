"""How long a run takes and nothing else: the same steps as `simulate`, without a step log.

A search asks this hundreds of times, and a log costs a large simulation up to as much again.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from blendsim.perf.model import StepModel
from blendsim.plan import Plan
from blendsim.prefix import SortedPrompts
from blendsim.request import Ints, Workload
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import Flavour
from blendsim.sim.engine import Replica
from blendsim.sim.run import require_modelled, simulate
from blendsim.sim.topology import COLOCATED, Topology
from blendsim.specs import HostMemory


def run_seconds(
    plan: Plan,
    workload: Workload,
    output_len: Ints,
    prompts: SortedPrompts,
    model: StepModel,
    flavour: Flavour,
    topology: Topology = COLOCATED,
    host: HostMemory | None = None,
) -> float:
    """Seconds until the last replica ends: to the bit those of `simulate`'s log."""
    if topology.is_disaggregated or topology.steals:
        log = simulate(plan, workload, output_len, prompts, model, flavour, topology, host=host)
        return float(log.times[:, :2].sum(axis=1).max(initial=0.0))
    require_modelled(flavour, topology, host)

    def serve(rank: int) -> float:
        core = ServingCore.from_plan(
            plan, workload, output_len, prompts, model.system, flavour, rank, host
        )
        replica = Replica(core, model, flavour, host, keeps_log=False)
        seconds = replica.advance()
        core.check()
        return seconds

    ranks = np.unique(plan.rank).tolist()
    if len(ranks) == 1:
        return serve(ranks[0])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return max(pool.map(serve, ranks), default=0.0)
