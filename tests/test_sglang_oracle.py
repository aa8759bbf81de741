"""The rounds of SGLang's flavour against a slow second implementation, step by step."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from oracle_sglang import RoundWorld
from sglang_worlds import compare, roomy, round_worlds

from blendsim.serving import (
    admission,
    batcher,
    cache_order,
    forecast,
    kv,
    line,
    new_tokens,
    retraction,
    rounds,
    sides,
)

_MODULES = (
    kv,
    sides,
    forecast,
    admission,
    batcher,
    new_tokens,
    line,
    cache_order,
    retraction,
    rounds,
)


def crowd(n: int, order: str, **rules: object) -> RoundWorld:
    """Many short requests behind six heads, in memory for a dozen; more wait than `lpm` sorts."""
    rng = np.random.default_rng(n)
    heads = [tuple(range(100 * h, 100 * h + 30 + 2 * h)) for h in range(6)]
    prompts = [heads[rng.integers(6)] + (1_000 + k,) * int(rng.integers(0, 9)) for k in range(n)]
    outputs = rng.integers(1, 60, n)
    world = roomy(prompts, outputs.tolist(), capacity=420, budget=128, max_running=48, order=order)
    limits = outputs * rng.integers(0, 3, n)
    return replace(world, limits=tuple(limits.tolist()), conservativeness=0.05, **rules)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(round_worlds())
def test_both_cores_take_the_same_rounds(world: RoundWorld) -> None:
    assert compare(world) >= max(world.outputs)


@pytest.fixture
def plain_kernels(monkeypatch: pytest.MonkeyPatch) -> int:
    """Every serving kernel replaced by its plain-Python function; gives how many there are."""
    count = 0
    for module in _MODULES:
        for name, value in list(vars(module).items()):
            if hasattr(value, "py_func"):
                monkeypatch.setattr(module, name, value.py_func)
                count += 1
    return count


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(round_worlds())
def test_plain_kernels_take_the_same_rounds(plain_kernels: int, world: RoundWorld) -> None:
    assert plain_kernels > 0
    compare(world)


@pytest.mark.parametrize("order", ["fcfs", "lpm", "dfs-weight"])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_crowd_takes_the_same_rounds(order: str, mixed: bool) -> None:
    compare(crowd(140, order, mixed=mixed))


def test_a_crowd_takes_the_same_rounds_from_both_ends() -> None:
    densities = tuple(3.0 - k / 50 for k in range(100))
    compare(crowd(100, "fcfs", dual=True, first=5, densities=densities, root_density=1.5))


@pytest.mark.parametrize("order", ["lpm", "dfs-weight"])
def test_a_crowd_takes_the_same_rounds_through_plain_kernels(
    plain_kernels: int, order: str
) -> None:
    compare(crowd(40, order))


def test_outputs_beyond_the_clip_take_the_same_rounds() -> None:
    """Limits above 4,096: what may be generated is clipped at first, and one by one no more."""
    world = roomy(
        [(1,), (2,) * 9, (3,) * 5, (4,)],
        [4_200, 4_140, 30, 4_090],
        limits=(4_300, 0, 9_000, 4_097),
        capacity=15_000,
        conservativeness=0.1,
    )
    compare(world)
