"""The cores of prefill and decode pools: who computes which prompts, and what they may assume.

A prefill replica's requests have one output token, the prompt's own, and it expects no more. Decode
replicas share one table of all requests, since which of them a prompt goes to is decided late.
"""

from dataclasses import replace

import numpy as np

from blendsim.arrays import Ints
from blendsim.cutting import cut_line, equal
from blendsim.errors import InputError, OversizeError
from blendsim.perf.density import closed_form
from blendsim.perf.model import StepModel
from blendsim.plan import DUAL_SCAN, Plan, deal
from blendsim.prefix import SortedPrompts, shared_tokens
from blendsim.request import Workload
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import Flavour
from blendsim.serving.fresh import PlannedLine, beside, new_state
from blendsim.topology import Topology


def require_servable(
    workload: Workload, output_len: Ints, model: StepModel, topology: Topology
) -> None:
    """Refuse what would stand still: a request that one decode replica alone cannot hold, and pools
    of more replicas than there are requests.
    """
    system = model.system
    room = system.room
    longest = int((workload.prompt_len + output_len).max(initial=0))
    if longest > room:
        raise OversizeError(
            f"a request of {longest} tokens does not fit the {room} KV tokens of a decode replica; "
            "use a larger --tp or --gpu, or drop it (--skip-oversize, in Python "
            "traces.without_oversize)"
        )
    if max(topology.prefill, topology.decode) > len(workload):
        raise InputError(
            f"{topology.name} has a pool of more replicas than there are requests, "
            f"{len(workload):,}; give smaller pools"
        )


def prefill_cores(
    plan: Plan,
    workload: Workload,
    prompts: SortedPrompts,
    model: StepModel,
    flavour: Flavour,
    topology: Topology,
) -> list[ServingCore]:
    """A core a rank of the plan, which is for the prefill replicas or for one that is dealt out."""
    over = _over_prefill(plan, workload, prompts, model, topology)
    over = replace(over, expected_output=np.ones_like(plan.expected_output))
    ones = np.ones(len(plan), np.int64)
    return [
        ServingCore.from_plan(over, workload, ones, prompts, model.system, flavour, rank)
        for rank in range(topology.prefill)
    ]


def decode_cores(
    plan: Plan,
    workload: Workload,
    output_len: Ints,
    model: StepModel,
    flavour: Flavour,
    topology: Topology,
    holder: Ints,
) -> list[ServingCore]:
    """Cores over all requests, numbered by workload row. Nothing waits in their lines: they receive
    prompts that are computed.
    """
    n, system = len(plan), flavour.divide(model.system)
    expected = np.empty(n, np.int64)
    expected[plan.order] = plan.expected_output
    # NOTE: prefixes are not shared here, as SGLang's decode servers do by default.
    line = PlannedLine(
        prompt=workload.prompt_len,
        output=output_len,
        expected=expected,
        density=np.zeros(n),
        root_density=0.0,
        is_dual=False,
        first_count=0,
    )
    state = new_state(line, system, flavour)
    state.requests.generated = 1  # the prompt's own
    nobody = np.zeros(0, np.int64)
    return [
        ServingCore(beside(state, nobody, 0), np.arange(n), holder, topology.prefill + replica)
        for replica in range(topology.decode)
    ]


def _over_prefill(
    plan: Plan, workload: Workload, prompts: SortedPrompts, model: StepModel, topology: Topology
) -> Plan:
    """The plan over the prefill replicas: as it is if it is for so many, of which some may have no
    requests, else one rank's cut into equal prompt work (and, where the dual scanner takes both
    ends, equal answers).
    """
    ranks, pool = plan.replicas, topology.prefill
    if ranks == pool:
        return plan
    if ranks > 1:
        remedy = f"{pool} or for 1" if pool > 1 else "1"
        raise InputError(
            f"the plan is for {ranks} ranks, {topology.name} prefills on {pool}; plan for {remedy}"
        )
    is_dual = plan.admission == DUAL_SCAN
    costs = closed_form(model.system, workload.prompt_len[plan.order], plan.expected_output)
    shared = shared_tokens(workload, prompts, model.system.block_tokens)[plan.order]
    unshared = (workload.prompt_len[plan.order] - shared).astype(np.float64)
    prompt = unshared * costs.seconds_per_token
    answers = costs.memory if is_dual else np.zeros(len(plan))
    rank = cut_line(prompt, answers, int(plan.is_first.sum()), is_dual, equal(topology.prefill))
    return deal(plan, rank)
