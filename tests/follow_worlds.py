"""Plans for vLLM to follow: the pool of replay_worlds, its memory little enough that requests are
thrown out, under orders that are taken from one end and from both.
"""

import json
import os
import pickle
import subprocess
from collections import deque
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from replay_worlds import BLOCKS, job_of, planned, pool, prompt_of
from vllm_small import Request, SmallScheduler
from vllm_worlds import World, environment

from blendrt.replay.job import Job
from blendrt.vllm.following import ROW, Course, FollowsPlan
from blendrt.vllm.lead import leading_core
from blendsim.plan import DUAL_SCAN, Plan
from blendsim.prefix import sort_prompts
from blendsim.request import Prompts, from_lengths
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import FLAVOURS, PROMPT_FITS
from blendsim.sim.run import simulate
from blendsim.specs import find_gpu, find_model
from blendsim.steplog import StepLog
from blendsim.system import System

POLICIES = ("dfs", "blend", "paced")
END = 5  # a token


class Planned(FollowsPlan, SmallScheduler):
    """The little scheduler, able to follow."""


@cache
def followed(policy: str) -> Job:
    """300 requests; paced steps evict as vLLM does, whatever is still awaited."""
    job = job_of(*planned(policy, "vllm", pool(300)))
    if job.plan.pacing is None:
        return job
    gains = replace(job.plan.pacing.gains, keeps_awaited=False)
    return job._replace(plan=replace(job.plan, pacing=replace(job.plan.pacing, gains=gains)))


def with_room_to_answer(job: Job) -> Job:
    """The same, whose requests may answer longer than they will."""
    room = BLOCKS * 16 - job.workload.prompt_len - 1
    return job._replace(output_len=np.minimum(2 * job.output_len + 5, room))


@cache
def simulated(policy: str, admission: str = PROMPT_FITS) -> StepLog:
    """What the simulator does with the plan, as the vLLM flavour; perhaps by another rule who is
    admitted.
    """
    problem, _ = planned(policy, "vllm", pool(300))
    job = followed(policy)
    of = (job.plan, job.workload, job.output_len, job.prompts)
    return simulate(*of, problem.model, replace(job.flavour, admission=admission))


def steps_of(log: StepLog) -> list[list[int]]:
    """Of every step: tokens, requests admitted and thrown out, KV blocks in use."""
    tokens = log.count("prefill_tokens") + log.count("decode_requests")
    counts = [log.count(name) for name in ("admitted", "preempted", "held_blocks")]
    return np.stack([tokens, *counts], axis=1).tolist()  # type: ignore[no-any-return]


class Ran(NamedTuple):
    """What came of a run on the little scheduler."""

    steps: list[list[int]]  # as `steps_of`
    answered: dict[int, int]  # tokens, by row
    course: Course | None


def scheduler_for(job: Job, blocks: int = BLOCKS, is_ahead: bool = False) -> Any:
    budget, running = job.flavour.token_budget, job.flavour.max_running
    return Planned(blocks, budget, running, job.flavour.prefix_sharing, is_ahead)


def lead(job: Job, blocks: int = BLOCKS) -> ServingCore:
    return leading_core(job, 0, blocks)


def give(scheduler: Any, job: Job, rows: list[int]) -> None:
    """These requests, in that order."""
    for row in rows:
        prompt, most = prompt_of(job.workload, row), int(job.output_len[row])
        scheduler.add_request(Request(f"request {row}", prompt, most, [END], {ROW: row}))


def run(
    job: Job,
    lengths: Any = None,
    blocks: int = BLOCKS,
    told: int = BLOCKS,
    is_ahead: bool = False,
    is_plain: bool = False,
) -> Ran:
    """All requests, in the plan's order, to their end; row i would answer `lengths[i]` tokens,
    as many as it may unless given. The core is told of `told` blocks.
    """
    scheduler = scheduler_for(job, blocks, is_ahead)
    if not is_plain:
        scheduler.follow(lead(job, told))
    give(scheduler, job, job.plan.order.tolist())
    steps, answered = drive(scheduler, lengths, is_ahead)
    return Ran(steps, answered, None if is_plain else scheduler.unfollow())


def drive(
    scheduler: Any, lengths: Any = None, is_ahead: bool = False
) -> tuple[list[list[int]], dict[int, int]]:
    """Step it until nobody is left."""
    steps: list[list[int]] = []
    answered: dict[int, int] = {}
    pending: deque[tuple[Any, dict[str, int]]] = deque()
    idle = 0
    while scheduler.has_unfinished_requests():
        before = set(scheduler.running)
        output = scheduler.schedule()
        tokens = output.num_scheduled_tokens
        idle = 0 if tokens else idle + 1
        assert idle < 1_000, "something runs while requests are left"
        if tokens:
            block_pool = scheduler.kv_cache_manager.block_pool
            held = block_pool.num_gpu_blocks - 1 - block_pool.get_num_free_blocks()
            entered = len(set(scheduler.running) - before)
            steps.append([sum(tokens.values()), entered, len(output.preempted_req_ids), held])
        sampled = {}
        for name in tokens:
            request = scheduler.requests[name]
            if not request.is_prefill_chunk:
                number = request.num_computed_tokens - request.num_prompt_tokens + 1
                row = int(name.split()[1])
                sampled[name] = END if lengths is not None and number >= lengths[row] else 9
        pending.append((output, sampled))
        if len(pending) > int(is_ahead) or not tokens:
            for request in scheduler.update_from_output(*pending.popleft()):
                row = int(request.request_id.split()[1])
                assert row not in answered, "nobody is answered twice"
                answered[row] = len(request.output)
    largest = max((step[0] for step in steps), default=0)
    assert largest <= scheduler.max_num_scheduled_tokens, "no step is larger than asked"
    return steps, answered


def drawn_job(world: World, rng: np.random.Generator) -> Job:
    """A world of vllm_worlds under an order for both ends, whose lengths are guessed badly."""
    prompts, outputs = world["prompts"], np.array(world["outputs"])
    n = len(prompts)
    content = Prompts(
        offsets=np.cumsum([0, *map(len, prompts)]),
        units=np.concatenate(prompts),
        space=np.zeros(n, np.int32),
        unit_tokens=np.ones(1, np.int32),
        space_names=("tokens",),
    )
    workload = from_lengths([len(prompt) for prompt in prompts], outputs, prompts=content)
    plan = Plan(
        policy="drawn",
        admission=DUAL_SCAN,
        order=rng.permutation(n),
        rank=np.zeros(n, np.int32),
        is_first=np.arange(n) < n // 10,
        is_visible=np.zeros(n, np.bool_),
        expected_output=np.maximum(1, (outputs * rng.uniform(0.3, 2, n)).astype(np.int64)),
        density=np.sort(rng.exponential(1, n))[::-1].copy(),
        root_density=1.0,
        workload_hash="",
        meta={},
    )
    flavour = replace(
        FLAVOURS["vllm"],
        token_budget=world["budget"],
        max_running=world["max_running"],
        prefix_sharing=world["sharing"],
    )
    model = find_model("llama-3.1-8b")
    kv_bytes = world["capacity"] * 16 * model.kv_bytes_per_token
    system = System(model, find_gpu("a100-80g"), kv_bytes=kv_bytes)
    return Job(plan, workload, outputs, sort_prompts(workload), system, flavour)


def stepped_on_vllm(jobs: list[tuple[str, Job, dict[str, Any]]], folder: Path) -> dict[str, Any]:
    """What vLLM's own scheduler does with them, by name: see vllm_oracle/follow.py."""
    root = Path(__file__).resolve().parents[1]
    (folder / "jobs.pickle").write_bytes(pickle.dumps(jobs))
    places = os.pathsep.join([str(root), str(root / "runtime")])
    quiet = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "PYTHONPATH": places}
    script = root / "tests" / "vllm_oracle" / "follow.py"
    done = subprocess.run(
        [str(environment()), str(script), str(folder / "jobs.pickle")],
        capture_output=True,
        text=True,
        env=os.environ | quiet,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    runs: dict[str, Any] = json.loads(done.stdout)["runs"]
    return runs


def answers_of(policy: str) -> dict[int, int]:
    return dict(enumerate(followed(policy).output_len.tolist()))
