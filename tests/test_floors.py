"""The bound with every step's floors: above the reachable bound, and never beaten."""

from dataclasses import replace

import numpy as np
import pytest
from floors import bound_with_floors, lower_lines, prefill_lines
from hypothesis import given, settings
from hypothesis import strategies as st
from test_optimum import SMALL, tiny_pool

from blendsim import search
from blendsim.perf.hull import hull_corners
from blendsim.perf.kernels import prefill_seconds
from blendsim.perf.model import step_model
from blendsim.prefix import sort_prompts
from blendsim.report.optimum import best_times, bounds, least_work
from blendsim.request import from_lengths
from blendsim.serving.flavour import find_flavour
from blendsim.sim.run import simulate
from blendsim.specs import GPUS, MODELS
from blendsim.system import System

MODEL = step_model(System(MODELS["llama-3.1-8b"], GPUS["a100-80g"]), "table")


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("overlap", ["sum", "max", "table"])
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_no_schedule_beats_the_bound_with_floors(
    data: st.DataObject, overlap: str, pieces: int
) -> None:
    n = data.draw(st.integers(1, 10))
    lengths = data.draw(
        st.lists(st.tuples(st.integers(1, 400), st.integers(1, 200)), min_size=n, max_size=n)
    )
    pool = tiny_pool(
        lengths,
        data.draw(st.lists(st.integers(0, 400), min_size=n, max_size=n)),
        data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)),
    )
    budget = data.draw(st.sampled_from([16, 64, 2_048]))
    problem = search.prepare(pool, search.Settings(overlap=overlap, sample=1.0, kv_bytes=SMALL))
    flavour = replace(
        find_flavour("nanoflow"), token_budget=budget, max_running=budget, nano_batches=pieces
    )
    asked = (pool, pool.output_len, problem.prompts, problem.model, budget, 1, pieces)
    least = bound_with_floors(*asked)
    assert bounds(*asked).reachable <= least
    for policy in ("dfs", "blend", "paced"):
        plan = search.plan_policy(problem, policy)
        log = simulate(plan, pool, pool.output_len, problem.prompts, problem.model, flavour)
        assert log.end >= least * (1 - 1e-9)


def test_a_run_has_as_many_steps_as_the_longest_answer_has_tokens() -> None:
    """Without overlap, KV to spare and prompts that fill 5,000 steps to 161 tokens each, no less
    than 5,000 steps of that size, or of the two beside it on the convex hull of their costs.
    """
    pool = from_lengths([100] * 8_001, [1] * 8_000 + [5_000])
    model = step_model(System(MODELS["llama-3.1-8b"], GPUS["a100-80g"]), "sum")
    prompts = sort_prompts(pool)
    work = least_work(pool, pool.output_len, prompts, model.system.block_tokens)
    sizes = np.arange(1.0, 2_049.0)
    cost = model.layer_seconds[1:2_049]
    hull = hull_corners(sizes, cost)
    each = float(np.interp(work.tokens / 5_000, sizes[hull], cost[hull]))
    beside = best_times(work, model)
    steps = 5_000 * each + beside.beside + beside.memory
    least = bound_with_floors(pool, pool.output_len, prompts, model, 2_048)
    assert least > 1.2 * bounds(pool, pool.output_len, prompts, model, 2_048).reachable
    assert steps * (1 - 1e-4) <= least < 1.1 * steps


def test_floors_count_where_memory_holds_few_requests() -> None:
    """A head a step for a handful of decodes, and attention of prompts of 30 tokens."""
    pool = from_lengths([30] * 2_000, [60] * 2_000)
    prompts = sort_prompts(pool)
    small = step_model(System(MODELS["llama-3.1-8b"], GPUS["a100-80g"], kv_bytes=SMALL), "table")
    plain = bounds(pool, pool.output_len, prompts, small, 2_048).reachable
    assert bound_with_floors(pool, pool.output_len, prompts, small, 2_048) > 1.01 * plain


@given(st.lists(st.tuples(st.integers(1, 600), st.integers(0, 3_000)), min_size=1, max_size=8))
def test_prefill_attention_of_any_step_is_above_the_lines(chunks: list[tuple[int, int]]) -> None:
    tokens = sum(q for q, _ in chunks)
    pairs = sum(q * c + q * (q + 1) // 2 for q, c in chunks)
    charged = prefill_seconds(MODEL.tables, tokens, len(chunks), pairs)
    for a, b in prefill_lines(MODEL):
        assert charged >= (a * tokens + b * pairs) * (1 - 1e-9)


def test_prefill_lines_say_more_of_short_prompts_than_the_best_rate() -> None:
    """Steps of whole prompts of 265 tokens."""
    lines = prefill_lines(MODEL)
    assert len(lines) > 1
    floor = (lines @ np.array([265.0, 265 * 133])).max()
    assert floor > 1.2 * 265 * 133 * MODEL.best_prefill_seconds_per_pair


@given(st.lists(st.integers(1, 100), min_size=2, max_size=12), st.floats(0.0, 5.0))
def test_lines_are_below_all_points_and_no_steeper_than_asked(
    heights: list[int], steepest: float
) -> None:
    x, y = np.arange(1.0, len(heights) + 1.0), np.array(heights, np.float64)
    for a, b in lower_lines(x, y, steepest):
        assert a >= 0.0
        assert 0.0 <= b <= steepest
        assert (a + b * x <= y * (1 + 1e-12)).all()
        assert ((a + b * x) >= y * (1 - 1e-9)).any()  # each touches one
