"""Simulate a plan on a topology. Ranks that never meet run side by side on the cores there are;
SimPy holds the world around those that do.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from blendsim.arrays import Ints
from blendsim.cores import on_all_cores
from blendsim.errors import InputError, Unfit
from blendsim.perf.model import StepModel
from blendsim.plan import Plan
from blendsim.prefix import SortedPrompts
from blendsim.request import Workload, token_counts
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import BY_PLAN, VLLM, Flavour
from blendsim.serving.knobs import AS_SHIPPED
from blendsim.sim.engine import Replica
from blendsim.sim.lock_step import in_lock_step
from blendsim.sim.pools import Pools
from blendsim.sim.stealing import Crew
from blendsim.steplog import StepLog
from blendsim.system import HostMemory, System
from blendsim.topology import COLOCATED, Topology
from blendsim.traces.limits import require_held

STEALING = "stealing between ranks"
_Out = TypeVar("_Out")


def simulate(
    plan: Plan,
    workload: Workload,
    output_len: Ints,
    prompts: SortedPrompts,
    model: StepModel,
    flavour: Flavour,
    topology: Topology = COLOCATED,
    host: HostMemory | None = None,
) -> StepLog:
    """The step log of `plan` when request i generates `output_len[i]` tokens. Colocated: one
    replica for every rank that has requests; pools: the plan feeds the prefill replicas, which are
    numbered before those that decode. Each replica has a `host` memory of its own if there is one.
    Those that share experts wait for each other in every step.

    Every run ends with the core's conservation check. InputError for lengths that no run has,
    ProfileError for steps that the model's profile does not reach.
    """
    require_modelled(flavour, topology, host, model.system)
    model.coverage.require(flavour.token_budget)
    output_len = _one_each(output_len, workload)
    if not topology.is_disaggregated:  # pools look at their decode replicas
        require_held(workload, output_len, flavour.divide(model.system).longest_request)
    if topology.is_disaggregated or topology.steals:
        plan = replace(plan, pacing=None)  # steps are paced for one line and one KV cache
    facts: dict[str, Any] = {
        "policy": plan.policy,
        "engine": flavour.name,
        "topology": topology.name,
    }
    if topology.link is not None and topology.is_disaggregated:
        each = flavour.one_phase
        pools = Pools(plan, workload, output_len, prompts, model, each, topology)
        pools.run()
        replicas = _checked(pools.replicas)
        facts["link"] = topology.link.name
        facts["pools"] = ["prefill"] * topology.prefill + ["decode"] * topology.decode
    elif topology.steals:
        seconds = topology.steal_seconds
        crew = Crew(plan, workload, output_len, prompts, model, flavour, seconds)
        crew.run()
        replicas = _checked(crew.replicas)
        facts["stolen"] = crew.stolen
    else:
        serving = (plan, workload, output_len, prompts, model, flavour, host)
        replicas = ranks_apart(*serving, keeps_log=True, kept=lambda replica: replica)
    log = StepLog(
        counts=_joined([replica.counts for replica in replicas]),
        times=_joined([replica.times for replica in replicas]),
        replica=np.repeat(
            np.array([replica.core.number for replica in replicas], np.int32),
            [len(replica.counts) for replica in replicas],
        ),
        meta=facts,
    )
    assert int(log.count("finished").sum()) == len(workload), "every request is served"
    return in_lock_step(log, model) if model.system.is_joined else log


def _one_each(output_len: object, workload: Workload) -> Ints:
    """The output lengths, if there is one a request. A few passes over a column: nothing beside a
    run.
    """
    lengths = token_counts(output_len, "simulate: output_len")
    if len(lengths) != len(workload):
        raise InputError(
            f"simulate: {len(lengths):,} output_len for {len(workload):,} requests; give one a "
            "request, in the workload's order"
        )
    return lengths


def _checked(replicas: list[Replica]) -> list[Replica]:
    for replica in replicas:
        replica.core.check()
    return replicas


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)  # a large log is not copied


def require_modelled(
    flavour: Flavour, topology: Topology, host: HostMemory | None, system: System
) -> None:
    """InputError for rules of which no combination is modelled on replicas like `system`."""
    by_plan, knobs = flavour.eviction == BY_PLAN, flavour.knobs
    apart = topology.is_disaggregated
    pipelined, pipeline = system.pp > 1, f"--pp {system.pp}"
    in_slices = knobs.long_prefill_token_threshold > 0
    for is_both, what, way in (
        (topology.steals and flavour.prefill_first, STEALING, flavour.name),
        (topology.steals and by_plan, STEALING, "eviction by plan"),
        (host is not None and flavour.prefill_first, "host memory", flavour.name),
        (host is not None and topology.steals, "host memory", STEALING),
        (host is not None and apart, "host memory", topology.name),
        (by_plan and apart, "eviction by plan", topology.name),
        (system.is_joined and apart, f"--ep {system.joined_gpus}", topology.name),
        (system.is_joined and topology.steals, f"--ep {system.joined_gpus}", STEALING),
        (knobs != AS_SHIPPED and apart, "knobs of vLLM", topology.name),
        (pipelined and apart, pipeline, topology.name),
        (pipelined and topology.steals, pipeline, STEALING),
        (pipelined and host is not None, pipeline, "host memory"),
        (pipelined and flavour.cascade, pipeline, "cascade attention"),
        (pipelined and by_plan, pipeline, "eviction by plan"),
        (pipelined and knobs != AS_SHIPPED, pipeline, "knobs of vLLM"),
        (in_slices and host is not None, "long_prefill_token_threshold", "host memory"),
        (by_plan and flavour.prefill_first, "eviction by plan", flavour.name),
    ):
        if is_both:
            raise InputError(f"{what} with {way} is not modelled; leave one of the two out")
    if pipelined and (flavour.overlaps or flavour.prefill_first):
        raise Unfit(
            f"{pipeline} is modelled for engines that run one operator after another, in steps of "
            f"prompts and decodes; {flavour.name} is none",
            f"use --engine {VLLM}, or --tp",
        )
    kind = "of linear attention" if system.model.delta_heads else "with a window"
    windows = f"is not modelled for {system.model.name}, which has layers {kind}"
    if flavour.prefill_first and system.model.windowed_layers:
        raise Unfit(f"engine {flavour.name} {windows}", "use another --engine")
    for is_asked, what in (
        (host is not None, "host memory"),
        (flavour.cascade, "cascade attention"),
    ):
        if is_asked and system.model.windowed_layers:
            raise InputError(f"{what} {windows}; leave it out")
    if flavour.cascade and system.model.latent:
        raise InputError(
            f"cascade attention is not modelled for {system.model.name}, which has latent "
            "attention; leave it out"
        )


def ranks_apart(
    plan: Plan,
    workload: Workload,
    output_len: Ints,
    prompts: SortedPrompts,
    model: StepModel,
    flavour: Flavour,
    host: HostMemory | None,
    keeps_log: bool,
    kept: Callable[[Replica], _Out],
) -> list[_Out]:
    """What is `kept` of each rank's replica, run to its end and checked."""

    def serve(rank: int) -> _Out:
        core = ServingCore.from_plan(
            plan, workload, output_len, prompts, model.system, flavour, rank, host
        )
        replica = Replica(core, model, flavour, host, keeps_log)
        replica.advance()
        core.check()
        return kept(replica)

    return on_all_cores(serve, np.unique(plan.rank).tolist())
