"""Which idle prefix is evicted first: by last use, or by whether the plan still needs it."""

from dataclasses import replace

import numpy as np
import pytest
from oracle_serving import World
from pacing_worlds import AMPLE
from serving_worlds import compare, core_of, steps

from blendsim import search
from blendsim.errors import InputError, UnknownName
from blendsim.plan import Plan
from blendsim.request import Prompts, Workload, from_lengths
from blendsim.request import pool as pooled
from blendsim.serving.flavour import FLAVOURS, LRU, VLLM_PLANNED, Flavour, find_flavour

LEFT, RIGHT, THIRD = (1,) * 4, (2,) * 4, (3,) * 4


def in_turn(*prompts: tuple[int, ...], capacity: int) -> World:
    """Requests served one at a time, a prompt's block being four tokens long."""
    n = len(prompts)
    return World(
        prompts=tuple((*prompt, 100 + k) for k, prompt in enumerate(prompts)),
        outputs=(1,) * n,
        estimates=(1,) * n,
        densities=(1.0,) * n,
        capacity=capacity,
        max_running=1,
    )


def hits(world: World) -> list[int]:
    """Blocks every request finds."""
    compare(world)
    return [row["hit_tokens"] // world.block for row in steps(core_of(world)) if row["admitted"]]


def computed(world: World) -> tuple[int, int]:
    """Prompt tokens computed, and requests preempted, over the run."""
    rows = list(steps(core_of(world)))
    return sum(row["prefill_tokens"] for row in rows), sum(row["preempted"] for row in rows)


def test_prefix_nobody_waits_for_goes_before_one_that_is_older() -> None:
    world = in_turn(LEFT, RIGHT, RIGHT, THIRD, THIRD, LEFT, capacity=3)
    assert hits(world) == [0, 0, 1, 0, 1, 0]
    assert hits(replace(world, knows_plan=True)) == [0, 0, 1, 0, 1, 1]


def test_prefixes_that_are_all_waited_for_go_by_last_use() -> None:
    world = in_turn(LEFT, RIGHT, THIRD, RIGHT, THIRD, LEFT, capacity=3)
    assert hits(replace(world, knows_plan=True)) == hits(world) == [0, 0, 0, 1, 1, 0]


def test_prefix_of_a_preempted_request_is_waited_for() -> None:
    world = World(
        prompts=((9,) * 4, (*LEFT, 9), (*LEFT, 8)),
        outputs=(16, 12, 1),
        estimates=(1,) * 3,
        densities=(1.0,) * 3,
        capacity=6,
        predicted_peak=False,
        max_running=2,
        knows_plan=True,
    )
    core = core_of(world)
    seen = []
    for row in steps(core):
        state = core.state
        seen.append((row["preempted"], int(state.nodes.waiting[1])))
    assert (1, 2) in seen
    compare(world)


def pool(seed: int, in_dfs_order: bool) -> World:
    """Requests below a random prefix tree, in memory for a few of them."""
    rng = np.random.default_rng(seed)
    block = int(rng.integers(1, 5))

    def layer(tag: int) -> list[tuple[int, ...]]:
        return [(tag + j,) * int(rng.integers(1, 3 * block + 1)) for j in range(3)]

    layers = [layer(1_000), layer(2_000), layer(3_000)]
    prompts = []
    for k in range(int(rng.integers(10, 50))):
        prompt: tuple[int, ...] = ()
        for parts in layers[: rng.integers(0, 4)]:
            prompt += parts[rng.integers(3)]
        prompts.append(prompt + (10_000 + k,) * int(rng.integers(1, 6)))
    if in_dfs_order:
        prompts.sort()
    outputs = rng.integers(1, rng.choice([2, 10, 40]) + 1, len(prompts)).tolist()
    longest = max(len(p) + d for p, d in zip(prompts, outputs, strict=True))
    budget = int(rng.choice([4, 16, 64]))
    return World(
        prompts=tuple(prompts),
        outputs=tuple(outputs),
        estimates=tuple(outputs),
        densities=(1.0,) * len(prompts),
        capacity=-(-longest // block) + int(rng.integers(0, 16)),
        block=block,
        budget=budget,
        max_running=int(rng.integers(1, budget + 1)),
        predicted_peak=bool(rng.integers(2)),
        keeps_own=bool(rng.integers(2)),
    )


def test_plan_aware_eviction_computes_no_more_than_lru_in_dfs_order() -> None:
    """What it saves there are blocks that a preempted request left behind."""
    less = 0
    for seed in range(120):
        world = pool(seed, in_dfs_order=True)
        lru, by_plan = (computed(replace(world, knows_plan=plan))[0] for plan in (False, True))
        assert by_plan <= lru, f"pool {seed}"
        assert world.keeps_own or by_plan == lru, f"pool {seed}"
        less += by_plan < lru
    assert less > 0


def test_plan_aware_eviction_computes_no_more_than_lru_in_any_order_without_preemption() -> None:
    less = 0
    for seed in range(120):
        world = pool(seed, in_dfs_order=False)
        lru, by_plan = (computed(replace(world, knows_plan=plan)) for plan in (False, True))
        if lru[1] == by_plan[1] == 0:
            assert by_plan[0] <= lru[0], f"pool {seed}"
            less += by_plan[0] < lru[0]
    assert less > 10


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("host", [0, 4, 100])
def test_both_cores_take_the_same_steps_on_a_pool(seed: int, host: int) -> None:
    world = pool(seed, in_dfs_order=False)
    compare(replace(world, knows_plan=True, host=host, predicted_peak=False))
    compare(replace(world, knows_plan=False, host=host, keeps_own=not world.keeps_own))


def test_check_finds_a_waiting_reader_too_many() -> None:
    core = core_of(replace(in_turn(LEFT, LEFT, LEFT, capacity=3), knows_plan=True))
    core.step()
    core.commit()
    core.check()
    core.state.nodes.waiting[1] += 1
    with pytest.raises(AssertionError, match="waiting readers are counted"):
        core.check()


def test_every_flavour_evicts_by_last_use_unless_asked() -> None:
    assert {flavour.eviction for flavour in FLAVOURS.values()} == {LRU}
    assert find_flavour("sequential", eviction="plan").eviction == "plan"


def test_paced_steps_evict_by_the_plan_unless_told_otherwise() -> None:
    gains = replace(AMPLE.pacing.gains, keeps_awaited=False)
    as_the_engine = AMPLE._replace(pacing=replace(AMPLE.pacing, gains=gains))
    told = as_the_engine._replace(world=replace(AMPLE.world, knows_plan=True))
    knowing = [int(w.core().state.scalars[0].knows_plan) for w in (AMPLE, as_the_engine, told)]
    assert knowing == [1, 0, 1]


VLLMS = ["vllm", VLLM_PLANNED]


def test_only_vllm_s_cache_evicts_by_last_use_whatever_the_plan_wants() -> None:
    assert AMPLE.pacing.gains.keeps_awaited
    paces = {name for name, flavour in FLAVOURS.items() if flavour.can_pace}
    by_plan = {name for name in paces if FLAVOURS[name].evicts_by_plan(AMPLE.pacing)}
    assert by_plan == {"nanoflow", "sequential"}
    assert paces - by_plan == set(VLLMS)
    assert not FLAVOURS["nanoflow"].evicts_by_plan(None)


@pytest.mark.parametrize("engine", VLLMS)
def test_vllm_cannot_be_asked_to_evict_by_the_plan(engine: str) -> None:
    with pytest.raises(InputError, match=f"^{engine} evicts by last use, .*leave eviction at lru$"):
        find_flavour(engine, eviction="plan")
    assert find_flavour(engine, eviction="lru") == FLAVOURS[engine]


def crowded() -> Workload:
    """Twelve prefixes of 512 tokens with ten readers each, beside long answers; the KV cache that
    the test gives them holds few at a time.
    """
    readers, prefix = 120, 512
    prompts = Prompts(
        np.arange(readers + 1) * prefix,
        np.concatenate([np.arange(prefix, dtype=np.int32) + 1_000 * (k % 12) for k in range(120)]),
        np.zeros(readers, np.int32),
        np.ones(1, np.int32),
        ("tokens",),
    )
    heads = from_lengths([prefix + 40] * readers, [8] * readers, source="heads", prompts=prompts)
    return pooled([heads, from_lengths([20] * 60, [400] * 60, source="long")])


@pytest.mark.parametrize("engine", VLLMS)
def test_simulated_vllm_is_the_same_with_and_without_awaited_prefixes(engine: str) -> None:
    """In a pool in which keeping them changes the steps of an engine that can."""
    workload = crowded()
    settings = search.Settings(engine=engine, kv_bytes=1 << 29)
    plan = search.plan_policy(search.prepare(workload, settings), "paced")
    assert plan.pacing is not None
    gains = replace(plan.pacing.gains, keeps_awaited=False)
    told = replace(plan, pacing=replace(plan.pacing, gains=gains))

    def counts(engine: str, plan: Plan) -> list[list[int]]:
        asked = replace(settings, engine=engine)
        return search.simulate_plan(workload, plan, asked).log.counts.tolist()

    assert counts(engine, plan) == counts(engine, told)
    assert counts("sequential", plan) != counts("sequential", told)


def test_unknown_eviction_names_the_known() -> None:
    with pytest.raises(UnknownName, match="unknown eviction 'fifo'; nearest known: lru, plan"):
        Flavour("odd", "0", eviction="fifo")
