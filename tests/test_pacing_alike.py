"""Paced plans of pools without two ends: requests that are alike, or nearly."""

from dataclasses import replace

import numpy as np
import pytest
from pacing_worlds import AMPLE
from serving_worlds import core_of

from blendsim.pacing import LEAST_ALIKE, is_compute_heavy
from blendsim.report.metrics import Row
from blendsim.request import Workload, from_lengths
from blendsim.search import Problem, Settings, plan_policy, prepare, simulate_plan
from blendsim.serving.flavour import find_flavour
from blendsim.serving.fresh_pace import TIGHT
from blendsim.serving.state import NONE
from blendsim.sim.run import simulate


def alike(prompt: int, outputs: np.ndarray) -> Workload:
    pool = from_lengths(np.full(len(outputs), prompt), outputs)
    return replace(pool, is_known=np.zeros(len(pool), np.bool_))


def run(pool: Workload, sample: float, policy: str = "paced") -> Row:
    settings = Settings(gpu="a100-80g", sample=sample)
    return simulate_plan(pool, plan_policy(prepare(pool, settings), policy), settings)[0]


def recomputed(pool: Workload, row: Row) -> float:
    return row.recomputed_tokens / float(pool.prompt_len.sum() + pool.output_len.sum())


def test_who_is_less_than_twice_as_dense_as_the_pool_is_of_the_memory_heavy_end() -> None:
    density = np.array([0.1, 1.0, 1.9, 2.0, 2.1, 40.0])
    seen = np.ones(6, np.bool_)
    assert is_compute_heavy(density, 1.0, seen).tolist() == [False] * 4 + [True] * 2
    assert not is_compute_heavy(np.full(3, 0.7), 0.7 * (1.0 - 1e-12), seen[:3]).any()


def test_who_is_denser_than_the_pool_and_of_unknown_length_is_of_the_compute_heavy_end() -> None:
    density = np.array([0.1, 1.0, 1.9, 2.0, 2.1, 40.0])
    hidden = np.zeros(6, np.bool_)
    assert is_compute_heavy(density, 1.0, hidden).tolist() == [False] * 2 + [True] * 4
    assert not is_compute_heavy(np.full(3, 0.7), 0.7 * (1.0 - 1e-12), hidden[:3]).any()


@pytest.mark.parametrize("sample", [1.0, 0.01])
def test_answers_of_one_length_fill_the_cache_whether_known_or_seen_in_a_sample(
    sample: float,
) -> None:
    """Ends that were counted over more time than they were spread over held half of them back."""
    pool = alike(1_000, np.full(2_000, 1_000))
    row = run(pool, sample)
    assert row.kv_use > 0.8
    assert row.recomputed_tokens == 0
    assert row.seconds is not None
    assert row.seconds < 0.95 * float(run(pool, sample, "dfs").seconds or 0.0)


def test_a_length_that_a_sample_shows_is_as_good_as_known() -> None:
    """100 + 1,000 tokens entered together and ended together: a fifth was computed again."""
    pool = alike(100, np.full(2_000, 1_000))
    seen, known = run(pool, 0.01), run(pool, 1.0)
    assert seen.recomputed_tokens == 0
    assert seen.seconds == pytest.approx(known.seconds, rel=0.01)


def test_known_lengths_that_vary_hardly_overflow_the_cache() -> None:
    """Those denser than the pool, half of it, entered together and grew together."""
    outputs = np.random.default_rng(1).gamma(1.0, 1_000.0, 3_000)
    pool = alike(100, np.maximum(1, outputs.astype(np.int64)))
    assert recomputed(pool, run(pool, 1.0)) < 0.01


def first_seen(pool: Workload, seen: int) -> Problem:
    """Plans may see the lengths of the first `seen` requests; the others' are given nowhere."""
    return prepare(replace(pool, has_output=np.arange(len(pool)) < seen), Settings(sample=1.0))


def seconds(pool: Workload, problem: Problem, policy: str) -> float:
    """What the policy's plan takes on the pool's true lengths."""
    plan, flavour = plan_policy(problem, policy), find_flavour("nanoflow")
    log = simulate(plan, pool, pool.output_len, problem.prompts, problem.model, flavour)
    return log.end


def test_a_length_that_one_request_shows_does_not_pass_for_known() -> None:
    """Its spread is 1. Who took 500 for certain where they vary took longer than prefix order."""
    outputs = np.random.default_rng(1).gamma(11.0, 500.0 / 11.0, 3_000).astype(np.int64)
    outputs[0] = 500
    pool = alike(2_000, outputs)
    one = first_seen(pool, 1)
    assert seconds(pool, one, "paced") < 0.97 * seconds(pool, one, "dfs")


@pytest.mark.parametrize(
    ("spread", "seen", "is_tight"),
    [
        (1.0 + TIGHT, LEAST_ALIKE, True),
        (1.02 + TIGHT, LEAST_ALIKE, False),
        (1.0, LEAST_ALIKE - 1, False),
        (1.0, 0, False),
    ],
)
def test_unknown_lengths_that_hardly_vary_are_forecast_one_by_one_if_enough_were_seen(
    spread: float, seen: int, is_tight: bool
) -> None:
    world = replace(
        AMPLE.world,
        prompts=AMPLE.world.prompts + tuple((9, k) for k in range(seen)),
        outputs=AMPLE.world.outputs + (5,) * seen,
        estimates=AMPLE.world.estimates + (5,) * seen,
        densities=AMPLE.world.densities + (0.05,) * seen,
    )
    pacing = replace(AMPLE.pacing, spread=(spread,))
    core = core_of(world, pacing, (False,) * 6 + (True,) * seen, (0,) * (6 + seen))
    assert (core.state.requests.kind[:6] == NONE).all() == is_tight


@pytest.mark.parametrize(("count", "prompt", "output"), [(5, 131_000, 72), (20, 32_000, 500)])
def test_the_last_prompt_is_computed_in_large_steps(count: int, prompt: int, output: int) -> None:
    """It waits no longer, and steps of 16 tokens computed 100,000 of it once nothing else did."""
    pool = from_lengths([prompt] * count, [output] * count)
    paced, in_order = (run(pool, 1.0, policy) for policy in ("paced", "dfs"))
    assert paced.reported_seconds < 1.02 * in_order.reported_seconds
