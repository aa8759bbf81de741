"""A plan followed by somebody else's vLLM, and what of it is refused."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from follow_worlds import (
    END,
    POLICIES,
    answers_of,
    drive,
    followed,
    scheduler_for,
    simulated,
    steps_of,
    with_room_to_answer,
)
from replay_worlds import BLOCKS, prompt_of
from vllm_small import Request, SmallScheduler

from blendrt.replay.job import Job
from blendrt.vllm.alone import following
from blendrt.vllm.following import ROW, Course
from blendsim.errors import InputError, PlanMismatch
from blendsim.request import Workload, select


def engine_of(scheduler: Any) -> Any:
    """What somebody's own vLLM is asked for."""
    core = SimpleNamespace(engine_core=SimpleNamespace(scheduler=scheduler))
    return SimpleNamespace(llm_engine=SimpleNamespace(engine_core=core))


def params_of(job: Job) -> list[Any]:
    """vLLM's SamplingParams, as far as they are read."""
    return [SimpleNamespace(max_tokens=int(most), extra_args=None) for most in job.output_len]


@pytest.mark.parametrize("policy", POLICIES)
def test_somebody_elses_vllm_follows_too(policy: str) -> None:
    """It says its own rules; lengths of answers are not known before."""
    job = followed(policy)
    scheduler = scheduler_for(job)
    params = params_of(with_room_to_answer(job))
    with following(engine_of(scheduler), job.plan, job.workload, params) as courses:
        for row, each in enumerate(params):
            prompt, most = prompt_of(job.workload, row), each.max_tokens
            request = Request(f"request {row}", prompt, most, [END], each.extra_args)
            scheduler.add_request(request)
        steps, answered = drive(scheduler, job.output_len)
    assert steps == steps_of(simulated(policy))
    assert answered == answers_of(policy)
    assert courses == [Course(steps=len(steps))]


def refused(
    what: str,
    engine: Any,
    params: list[Any] | None = None,
    workload: Workload | None = None,
    rank: int = 0,
    error: type[InputError] = InputError,
) -> None:
    """Assert that a blended plan is not followed on the engine, with a line that says `what`."""
    job = followed("blend")
    asked = params_of(job) if params is None else params
    with (
        pytest.raises(error, match=what),
        following(engine, job.plan, workload or job.workload, asked, rank),
    ):
        pass


def able() -> Any:
    return engine_of(scheduler_for(followed("blend")))


def test_a_plan_for_another_workload_is_refused() -> None:
    other = select(followed("blend").workload, np.arange(299, -1, -1))
    refused("another workload", able(), workload=other, error=PlanMismatch)


def test_vllm_in_another_process_is_refused() -> None:
    engine = SimpleNamespace(llm_engine=SimpleNamespace(engine_core=SimpleNamespace()))
    refused("VLLM_ENABLE_V1_MULTIPROCESSING=0", engine)


def test_one_set_of_params_for_all_is_refused() -> None:
    refused("give each its own", able(), params_of(followed("blend"))[:1] * 300)


def test_a_scheduler_that_cannot_follow_is_refused() -> None:
    refused("another scheduler", engine_of(SmallScheduler(BLOCKS, 96, 96)))


def test_a_rank_that_the_plan_has_not_is_refused() -> None:
    refused("no rank 7; it has 1", able(), rank=7)


def test_params_are_afterwards_what_they_were() -> None:
    job = followed("blend")
    params = params_of(job)
    params[3].extra_args = {"mine": 1}
    engine = engine_of(scheduler_for(job))
    with following(engine, job.plan, job.workload, params):
        assert params[3].extra_args == {"mine": 1, ROW: 3}
        with (
            pytest.raises(InputError, match="follows one already"),
            following(engine, job.plan, job.workload, params),
        ):
            pass
        assert params[3].extra_args == {"mine": 1, ROW: 3}
    assert [each.extra_args for each in params[2:5]] == [None, {"mine": 1}, None]
