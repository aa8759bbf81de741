"""Simulate a plan: SimPy holds the world around the replicas, one process each, and compiled code
runs inside them.
"""

from collections.abc import Generator, Mapping
from typing import Any

import numpy as np
import simpy

from blendsim.perf.model import StepModel
from blendsim.plan import Plan
from blendsim.prefix import SortedPrompts
from blendsim.request import Ints, Workload
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import Flavour
from blendsim.sim.engine import Replica
from blendsim.specs import HostMemory
from blendsim.steplog import StepLog


def simulate(
    plan: Plan,
    workload: Workload,
    output_len: Ints,
    prompts: SortedPrompts,
    model: StepModel,
    flavour: Flavour,
    meta: Mapping[str, Any] | None = None,
    host: HostMemory | None = None,
) -> StepLog:
    """The step log of `plan` when request i generates `output_len[i]` tokens. One replica for every
    rank that has requests, each with a `host` memory of its own if there is one.

    Every run ends with the core's conservation check.
    """
    world = simpy.Environment()
    replicas = []
    ranks = np.unique(plan.rank).tolist()
    for rank in ranks:
        core = ServingCore.from_plan(
            plan, workload, output_len, prompts, model.system, flavour, rank, host
        )
        replicas.append(Replica(core, model, flavour, host))
        world.process(_serve(world, replicas[-1]))
    world.run()
    for replica in replicas:
        replica.core.check()
    return StepLog(
        counts=np.concatenate([replica.counts for replica in replicas]),
        times=np.concatenate([replica.times for replica in replicas]),
        replica=np.repeat(np.array(ranks, np.int32), [len(r.counts) for r in replicas]),
        meta=dict(meta or {}) | {"policy": plan.policy, "engine": flavour.name},
    )


def _serve(world: simpy.Environment, replica: Replica) -> Generator[simpy.Event, None, None]:
    """A replica nobody sends messages to runs to its end in one go."""
    yield world.timeout(replica.advance())
