"""Qwen3.5 by the commands: a pool planned, simulated and bounded, and what is told of it."""

from dataclasses import replace

import numpy as np
import pytest
from command_line import run_json
from test_losses import account, problem_of, run

from blendsim.cli.remarks import memory_told
from blendsim.request import from_lengths
from blendsim.search import prepare
from blendsim.settings import Settings

SETTINGS = Settings(model="qwen3.5-35b-a3b", gpu="h200")
POLICIES = ("fcfs", "dfs", "blend", "paced")


def test_memory_told_says_what_a_state_holds() -> None:
    (told,) = memory_told(replace(SETTINGS, engine="vllm"))
    assert ", a running request's states as much as 3,152 tokens; " in told


@pytest.mark.parametrize("gpu", ["h200", "b200"])
def test_a_plan_of_it_by_the_name_it_has_is_not_faster_than_its_bounds(gpu: str) -> None:
    asked = ("--trace", "demo:mixed?n=300", "--model", "Qwen/Qwen3.6-35B-A3B", "--gpu", gpu)
    found = run_json("plan", *asked, "--planner", "paced")
    assert 0 < found["optimum_seconds"] <= found["reachable_seconds"] <= found["seconds"]


def test_states_hold_memory_while_requests_run() -> None:
    """KV for ten requests' states and little more: no more than ten run at once."""
    state = SETTINGS.system.window_blocks * SETTINGS.system.block_tokens
    kv_bytes = 10 * (state + 160) * SETTINGS.system.kv_bytes_per_token
    settings = replace(SETTINGS, kv_bytes=kv_bytes, sample=1.0)
    pool = from_lengths([64] * 40, [64] * 40)
    problem = prepare(pool, settings)
    for policy in POLICIES:
        log, _ = run(problem, policy)
        running = log.count("decode_requests") + log.count("prefill_requests")
        assert running.max() == 10, policy


def test_a_run_is_accounted_for() -> None:
    pool = from_lengths([900, 40] * 100, [20, 400] * 100)
    lost = account(problem_of(pool, model=SETTINGS.model, gpu=SETTINGS.gpu))
    assert lost.run - lost.bound == pytest.approx(float(np.sum(lost.steps)) + lost.again)
    assert min(lost.causes.values()) >= -1e-9 * lost.run
