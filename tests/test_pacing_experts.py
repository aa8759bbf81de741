"""Paced steps of models with experts, which a few tokens read few of and many nearly all."""

from functools import cache

import pytest
from test_pacing_plan import mixed

from blendsim.planner.pace import FEW, SIZES
from blendsim.search import Problem, Settings, plan_policy, prepare, simulate_plan
from blendsim.traces.load import load


@cache
def seconds(model: str, weights: str, tp: int) -> dict[str, float]:
    """Seconds of the two orders from both ends on a pool of `demo:mixed`."""
    pool = load("demo:mixed?n=4000")
    settings = Settings(model=model, gpu="h200", tp=tp, quantization=weights)
    problem = prepare(pool, settings)
    taken = {}
    for policy in ("blend", "paced"):
        row = simulate_plan(pool, plan_policy(problem, policy), settings)[0]
        assert row.seconds is not None
        taken[policy] = row.seconds
    return taken


def sizes_of(problem: Problem) -> tuple[int, ...]:
    pacing = plan_policy(problem, "paced").pacing
    assert pacing is not None
    return pacing.sizes


def test_steps_of_a_few_tokens_are_told_apart_where_they_differ() -> None:
    pool = mixed()
    assert sizes_of(prepare(pool, Settings(model="mixtral-8x7b", gpu="h200"))) == (*FEW, *SIZES)
    assert sizes_of(prepare(pool, Settings(gpu="h200", quantization="fp8"))) == SIZES


@pytest.mark.parametrize(
    ("model", "weights", "tp"),
    [("qwen3-30b-a3b", "none", 1), ("qwen3-30b-a3b", "fp8", 1), ("mixtral-8x7b", "none", 2)],
)
def test_prompts_are_not_spread_over_steps_that_few_experts_would_do_for(
    model: str, weights: str, tp: int
) -> None:
    """As they are for dense models, where every step reads all weights anyway."""
    taken = seconds(model, weights, tp)
    assert taken["paced"] < 1.01 * taken["blend"]
