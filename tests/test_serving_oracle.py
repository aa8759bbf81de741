"""The compiled serving core and its slow twin take the same steps, whatever the world."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from oracle_serving import World
from serving_worlds import compare, worlds, worlds_with_knobs

HEADS = [tuple(range(100 * h, 100 * h + 24)) for h in range(3)]

#: A hundred requests behind three heads, in memory for a few; decodes and prompts are thrown out,
#: by decodes and by prompts.
CROWD = World(
    prompts=tuple(HEADS[k % 3] + (1_000 + k,) * (k % 11) for k in range(100)),
    outputs=tuple(1 + k * 7 % 23 for k in range(100)),
    estimates=tuple(1 + k * 5 % 29 for k in range(100)),
    densities=tuple(3.0 - k / 50 for k in range(100)),
    root_density=1.5,
    capacity=40,
    budget=16,
    max_running=16,
    predicted_peak=False,
    dual=True,
    first=5,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_both_cores_take_the_same_steps(world: World) -> None:
    assert compare(world) >= max(world.outputs)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds_with_knobs())
def test_both_cores_take_the_same_steps_with_vllms_knobs(world: World) -> None:
    assert compare(world) >= max(world.outputs)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(worlds())
def test_plain_kernels_take_the_same_steps(plain_kernels: int, world: World) -> None:
    assert plain_kernels > 0
    compare(world)


@pytest.mark.parametrize("is_dual", [False, True])
@pytest.mark.parametrize("predicted_peak", [False, True])
def test_a_crowd_takes_the_same_steps(is_dual: bool, predicted_peak: bool) -> None:
    compare(replace(CROWD, dual=is_dual, predicted_peak=predicted_peak))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(worlds_with_knobs())
def test_plain_kernels_take_the_same_steps_with_vllms_knobs(
    plain_kernels: int, world: World
) -> None:
    assert plain_kernels > 0
    compare(world)


@pytest.mark.parametrize("is_dual", [False, True])
@pytest.mark.parametrize("knobs", [{"watermark": 4}, {"slice": 6}, {"interval": 4}])
def test_a_crowd_takes_the_same_steps_with_vllms_knobs(
    is_dual: bool, knobs: dict[str, int]
) -> None:
    changed: Any = {"oldest_first": True, "max_running": 14} | knobs
    compare(replace(CROWD, dual=is_dual, **changed))


def test_a_crowd_takes_the_same_steps_through_plain_kernels(plain_kernels: int) -> None:
    compare(replace(CROWD, cascade=True))


@pytest.mark.parametrize("is_dual", [False, True])
@pytest.mark.parametrize("knobs", [{}, {"slice": 6, "max_running": 14}])
def test_a_crowd_spares_the_same_reads(is_dual: bool, knobs: dict[str, int]) -> None:
    """Three heads of 24 tokens, among decodes that are thrown out and come back."""
    changed: Any = {"oldest_first": True, "cascade": True} | knobs
    compare(replace(CROWD, dual=is_dual, **changed))


def test_long_overrun_is_listed_at_the_end_of_the_horizon() -> None:
    """An estimate of one token, doubled to 512, ends more than 256 steps away."""
    world = World(
        prompts=((1,), (2,), (3,)),
        outputs=(600, 300, 300),
        estimates=(1, 1, 1),
        densities=(1.0, 1.0, 1.0),
        capacity=160,
    )
    compare(world)
