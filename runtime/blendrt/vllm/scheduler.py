"""The class that vLLM is given: `scheduler_cls="blendrt.vllm.scheduler.PlannedScheduler"`.

Until it is told to follow a plan it schedules as vLLM does. It needs vLLM to be imported.
"""

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from blendrt.vllm.following import FollowsPlan


class InStepScheduler(FollowsPlan, Scheduler):
    """For an engine that schedules a step when the one before is done."""


class PlannedScheduler(FollowsPlan, AsyncScheduler):
    """For an engine that schedules a step ahead; for another one, what it makes is `InStep`."""

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        """vLLM asks a class whether steps are to be scheduled ahead before it knows whether they
        can be, and turns that off for any that is no AsyncScheduler.
        """
        config = named.get("vllm_config") or arguments[0]
        if config.scheduler_config.async_scheduling:
            return super().__new__(cls)
        return InStepScheduler(*arguments, **named)
