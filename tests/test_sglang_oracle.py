"""The rounds of SGLang's flavour against a slow second implementation, step by step."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from oracle_sglang import RoundWorld
from sglang_worlds import compare, roomy, round_worlds, rounds_of

from blendsim.serving.state import NONE, WAITING


def crowd(n: int, order: str, **rules: object) -> RoundWorld:
    """Many short requests behind six heads, in memory for a dozen; more wait than `lpm` sorts."""
    rng = np.random.default_rng(n)
    heads = [tuple(range(100 * h, 100 * h + 30 + 2 * h)) for h in range(6)]
    prompts = [heads[rng.integers(6)] + (1_000 + k,) * int(rng.integers(0, 9)) for k in range(n)]
    outputs = rng.integers(1, 60, n)
    world = roomy(prompts, outputs.tolist(), capacity=420, budget=128, max_running=48, order=order)
    limits = outputs * rng.integers(0, 3, n)
    return replace(world, limits=tuple(limits.tolist()), conservativeness=0.05, **rules)


def long_prompts(seed: int) -> RoundWorld:
    """Prompts of many chunks among decodes that were admitted on low estimates."""
    rng = np.random.default_rng(seed)
    n, budget = int(rng.integers(3, 9)), int(rng.integers(3, 12))
    lengths, outputs = rng.integers(1, 60, n), rng.integers(1, 60, n)
    world = roomy(
        [(100 + k,) * int(length) for k, length in enumerate(lengths)],
        outputs.tolist(),
        capacity=int((lengths + outputs).max() + rng.integers(0, 20)),
        budget=budget,
        max_running=min(budget, int(rng.integers(2, 6))),
        mixed=True,
    )
    return replace(world, limits=world.outputs, conservativeness=0.01)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(round_worlds())
def test_both_cores_take_the_same_rounds(world: RoundWorld) -> None:
    assert compare(world) >= max(world.outputs)


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


def test_decodes_and_prompts_in_progress_give_way_to_each_other_in_the_same_rounds() -> None:
    """With mixed chunks memory may lack for either; both cores meet it, and agree."""
    paused, thrown_out = 0, 0
    for world in map(long_prompts, range(80)):
        core = rounds_of(world)
        assert core.rounds is not None
        while not core.is_done:
            before = int(core.state.scalars[0].prefilling)
            core.step()
            s = core.state.scalars[0]
            paused += bool(s.chunks and s.decodes and not core.rounds.scalars[0].decoded)
            thrown_out += before != NONE and core.state.requests[before].status == WAITING
            core.commit()
        compare(world)
    assert paused > 0
    assert thrown_out > 0


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
