"""A plan followed by somebody else's vLLM: made by hand, with whatever model and settings it has.

`LLM(…, scheduler_cls=SCHEDULER)` in one process (`VLLM_ENABLE_V1_MULTIPROCESSING=0`), and

    with following(llm, plan, workload, params) as courses:
        answers = llm.generate(prompts, params)
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from blendrt.replay.job import Job
from blendrt.vllm.feed import led
from blendrt.vllm.following import ROW, SCHEDULER, Course, FollowsPlan
from blendrt.vllm.lead import admitting_as
from blendsim.errors import InputError
from blendsim.plan import Plan, require_same_workload
from blendsim.prefix import sort_prompts
from blendsim.request import Workload
from blendsim.serving.flavour import FLAVOURS
from blendsim.specs import LINKS, GpuSpec, ModelSpec
from blendsim.system import System

__all__ = ["SCHEDULER", "following"]

# Of a system only the number and size of its KV blocks are asked for, and vLLM says those.
_MODEL = ModelSpec("any", 1, 1, 1, heads=1, kv_heads=1, head_dim=1, vocab=1, context=1 << 20)
_GPU = GpuSpec("any", 1.0, 1.0, memory_bytes=1 << 40, sm_count=1, link=LINKS["pcie4"])


@contextmanager
def following(
    llm: Any, plan: Plan, workload: Workload, params: Sequence[Any], rank: int = 0
) -> Iterator[list[Course]]:
    """While it lasts `llm` follows the rank's plan, whatever order that is served in. The list
    holds how far it did, afterwards.

    `params` are the `SamplingParams` of the workload's requests, an object each, in its order; they
    are told which request they are of, so that requests may be added in any order, all before the
    first step. When answers end, vLLM tells.
    """
    require_same_workload(plan, workload)
    if len({id(each) for each in params}) != len(workload):
        raise InputError(
            f"{len(params)} SamplingParams for {len(workload)} requests; give each its own"
        )
    core = getattr(llm.llm_engine.engine_core, "engine_core", None)
    if core is None:
        raise InputError(
            "vLLM schedules in another process; set VLLM_ENABLE_V1_MULTIPROCESSING=0 before it "
            "is imported"
        )
    scheduler = core.scheduler
    if not isinstance(scheduler, FollowsPlan):
        raise InputError("vLLM was made with another scheduler; make it with LLM(scheduler_cls=…)")
    if not (plan.rank == rank).any():
        raise InputError(f"the plan has no rank {rank}; it has {int(plan.rank.max()) + 1}")
    courses: list[Course] = []
    limit = np.array([each.max_tokens or scheduler.max_model_len for each in params], np.int64)
    room = np.maximum(1, scheduler.max_model_len - workload.prompt_len)
    longest = np.minimum(limit, room)
    with (
        led(scheduler, _job(scheduler, plan, workload), rank, True, courses, longest),
        _told_rows(params),
    ):
        yield courses


@contextmanager
def _told_rows(params: Sequence[Any]) -> Iterator[None]:
    """While it lasts each says which row of the workload it is of."""
    before = [each.extra_args for each in params]
    for row, each in enumerate(params):
        each.extra_args = {**(each.extra_args or {}), ROW: row}
    try:
        yield
    finally:
        for each, extra in zip(params, before, strict=True):
            each.extra_args = extra


def _job(scheduler: Any, plan: Plan, workload: Workload) -> Job:
    """The plan under the rules that vLLM was made with."""
    budget = int(scheduler.max_num_scheduled_tokens)
    settings = plan.meta.get("settings", {})
    flavour = replace(
        FLAVOURS["vllm"],
        token_budget=budget,
        max_running=min(int(scheduler.max_num_running_reqs), budget),
        prefix_sharing=bool(scheduler.cache_config.enable_prefix_caching),
    )
    if (reserved := settings.get("output_reserved")) is not None:
        flavour = replace(flavour, output_reserved=reserved)
    job = Job(
        plan=plan,
        workload=workload,
        output_len=workload.output_limit,
        prompts=sort_prompts(workload),
        system=System(_MODEL, _GPU, block_tokens=int(scheduler.block_size)),
        flavour=flavour,
    )
    return admitting_as(job, settings.get("engine"))
