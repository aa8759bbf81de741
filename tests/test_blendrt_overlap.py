"""The overlapped executor: the sequential one's tokens and logits, in whatever order lanes run."""

import gc
import random
import weakref
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from oracle_serving import World
from serving_worlds import core_of, worlds_without_host

from blendrt.attention.reference import ReferenceAttention
from blendrt.batch import BatchBuilder, OutputTokens, StepInputs
from blendrt.clock import WallClock
from blendrt.config import TINY
from blendrt.engine import Engine
from blendrt.executor import Executor
from blendrt.executor.overlap import OverlapExecutor
from blendrt.executor.rule import DEFAULT_SHARE, OverlapRule, default_sms
from blendrt.executor.schedule import Schedule, Task
from blendrt.executor.sequential import SequentialExecutor
from blendrt.executor.streams import NO_PARTITION, SM_STEP, OneThread
from blendrt.kv_pool import KvPool
from blendrt.model import Decoder
from blendrt.pages import Pager, pool_pages
from blendrt.recorder import Recorder
from blendrt.replay.warm_up import warm_up
from blendrt.weights import random_weights
from blendsim.batch import Batch
from blendsim.perf.fit import Shares
from blendsim.perf.model import step_model
from blendsim.specs import find_gpu, find_model
from blendsim.system import System

CPU = torch.device("cpu")
CONFIG = replace(TINY, layers=3, hidden=32, intermediate=48, vocab=97)
DECODER = Decoder(CONFIG, random_weights(CONFIG, 0, CPU, torch.float32))


class Always(OverlapRule):
    """Cuts every step, however small."""

    def attention_sms(self, counts: Batch) -> int | None:
        return NO_PARTITION


class AnyOrder:
    """Lanes whose speeds are drawn: any order of the tasks that lanes and waits allow."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def execute(self, schedule: Schedule, run: Callable[[Task], None]) -> None:
        lanes: dict[object, list[int]] = {}
        for i, task in enumerate(schedule.tasks):
            lanes.setdefault(task.lane, []).append(i)
        done: set[int] = set()
        while any(lanes.values()):
            heads = [queue for queue in lanes.values() if queue]
            ready = [q for q in heads if set(schedule.tasks[q[0]].waits) <= done]
            i = self._random.choice(ready).pop(0)
            run(schedule.tasks[i])
            done.add(i)


class Ids:
    """The prompts of a world, as ids of the small vocabulary."""

    def __init__(self, world: World) -> None:
        self._world = world

    def ids(self, row: int, start: int, stop: int) -> np.ndarray:
        return np.array(self._world.prompts[row][start:stop], np.int64) % CONFIG.vocab


def pool_of(world: World, pages: int) -> KvPool:
    return KvPool(CONFIG, pages, world.block, CPU, torch.float32)


def outputs(world: World, make: Callable[[KvPool], Executor]) -> list[list[int]]:
    """Every request's tokens, run by an engine to the end."""
    core = core_of(world)
    builder = BatchBuilder(core, Ids(world), OutputTokens(core.state.requests.output, CPU), CPU)  # type: ignore[arg-type]
    executor = make(pool_of(world, pool_pages(core)))
    Engine(core, builder, executor, WallClock()).run(Recorder())
    return builder.outputs.lists()


def sequential(pool: KvPool) -> Executor:
    return SequentialExecutor(DECODER, ReferenceAttention(), pool)


def overlapped(pool: KvPool, seed: int | None = None) -> OverlapExecutor:
    lanes = None if seed is None else lambda _: AnyOrder(seed)
    return OverlapExecutor(DECODER, ReferenceAttention, pool, Always(), lanes)


@settings(max_examples=8)
@given(worlds_without_host())
def test_tokens_equal_the_sequential_executors(world):
    """Chunked prefill, shared prefixes (within one step too), preemption and recompute."""
    expected = outputs(world, sequential)
    assert outputs(world, overlapped) == expected
    assert outputs(world, lambda pool: overlapped(pool, seed=0)) == expected


#: Six requests, two pairs of which share prompts of several blocks, in memory for half of them.
SHARED = World(
    prompts=((*range(9), 40), (*range(9), 41), (*range(9), 42), (-1,) * 7, (5, 6), (*range(5),)),
    outputs=(6, 9, 3, 8, 12, 5),
    estimates=(6, 9, 3, 8, 12, 5),
    densities=(1.0,) * 6,
    root_density=1.0,
    capacity=14,
    block=3,
    budget=12,
    max_running=5,
    predicted_peak=False,
    sharing=True,
    dual=False,
    first=0,
    output_reserved=0.0,
)


def steps_of(world: World) -> list[StepInputs]:
    """The inputs of every step; decodes compute token 0, since nobody samples here."""
    core = core_of(world)
    builder, pager = (
        BatchBuilder(core, Ids(world), OutputTokens(core.state.requests.output, CPU), CPU),
        Pager(core),
    )  # type: ignore[arg-type]
    made = []
    while not core.is_done:
        counts = core.step()
        made.append(builder.build(pager.follow(), counts))
        core.commit()
    return made


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_logits_and_kv_are_the_sequential_executors_after_every_step(seed):
    pages = pool_pages(core_of(SHARED))
    pools = pool_of(SHARED, pages), pool_of(SHARED, pages)
    one, two = (
        SequentialExecutor(DECODER, ReferenceAttention(), pools[0]),
        overlapped(pools[1], seed),
    )
    steps = steps_of(SHARED)
    for inputs in steps:
        torch.testing.assert_close(two.logits(inputs), one.logits(inputs), rtol=1e-4, atol=1e-5)
        assert (two.is_halved, one.is_halved) == (True, False)
        torch.testing.assert_close(pools[1].k, pools[0].k, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pools[1].v, pools[0].v, rtol=1e-4, atol=1e-5)
    assert sum(inputs.counts.prefill_requests > 1 for inputs in steps) > 1
    assert sum(inputs.counts.decode_requests > 1 for inputs in steps) > 5


def test_a_cut_that_ignores_the_order_of_chunks_would_show():
    """Swap the nano-batches' roles: a chunk then reads KV that this step has yet to write."""

    class Swapped(AnyOrder):
        def execute(self, schedule: Schedule, run: Callable[[Task], None]) -> None:
            super().execute(schedule, lambda task: run(task._replace(nano=1 - task.nano)))

    pages = pool_pages(core_of(SHARED))
    pools = pool_of(SHARED, pages), pool_of(SHARED, pages)
    one = SequentialExecutor(DECODER, ReferenceAttention(), pools[0])
    two = OverlapExecutor(DECODER, ReferenceAttention, pools[1], Always(), lambda _: Swapped(0))
    differ = [not torch.allclose(two.logits(x), one.logits(x), rtol=1e-3) for x in steps_of(SHARED)]
    assert any(differ)


def test_small_steps_run_in_one_piece():
    pool = pool_of(SHARED, pool_pages(core_of(SHARED)))
    executor = OverlapExecutor(DECODER, ReferenceAttention, pool)
    for inputs in steps_of(SHARED):
        executor.logits(inputs)
        assert not executor.is_halved


BUSY = Batch(512, 1, 512 * 513 // 2, 512, 512 * 1024, 512)


@pytest.mark.parametrize(
    ("counts", "is_cut"),
    [
        (BUSY, True),
        (BUSY._replace(decode_requests=0, context_tokens=0), False),
        (BUSY._replace(decode_requests=1, context_tokens=1024), False),
        (BUSY._replace(prefill_tokens=0, decode_requests=256), False),
        (BUSY._replace(decode_requests=63), False),
    ],
)
def test_without_a_model_sizes_decide(counts, is_cut):
    assert (OverlapRule(default_sms=48).attention_sms(counts) == 48) is is_cut
    assert (OverlapRule(default_sms=48).attention_sms(counts) is None) is not is_cut


def test_with_a_model_a_step_is_cut_where_the_halves_take_less():
    """Memory-bound GEMMs cost as much for half the tokens; long reads beside large ones pay."""
    system = System(find_model("llama-3.1-8b"), find_gpu("h200"))
    rule = OverlapRule(default_sms=40, model=step_model(system, "table"))
    assert rule.attention_sms(BUSY._replace(prefill_tokens=1536)) == 40
    assert rule.attention_sms(Batch(0, 0, 0, 32, 32 * 1024, 32)) is None
    tiny_reads = BUSY._replace(decode_requests=4, context_tokens=64)
    assert rule.attention_sms(tiny_reads) is None


def test_a_measured_share_is_chosen_by_the_steps_own_ratio():
    system = System(find_model("llama-3.1-8b"), find_gpu("h200"))
    shares = Shares(np.array([0.1, 1.0, 10.0]), np.array([16, 48, 96]))
    rule = OverlapRule(model=step_model(system, "table"), shares=shares)
    few = BUSY._replace(prefill_tokens=1536, context_tokens=512 * 300)
    many = BUSY._replace(prefill_tokens=1536, context_tokens=512 * 2500)
    found = rule.attention_sms(few), rule.attention_sms(many)
    assert found == (16, 48)


def test_warm_up_runs_a_step_whole_and_cut_under_every_share():
    """What is loaded when it is first needed would count in the first steps that need it."""
    model = step_model(System(find_model("llama-3.1-8b"), find_gpu("h200")), "table")
    rule = OverlapRule(
        model=model, shares=Shares(np.array([0.1, 1.0, 2.0]), np.array([16, 48, 16]))
    )
    made: list[int] = []

    def lanes(sms: int) -> OneThread:
        made.append(sms)
        return OneThread()

    pool = KvPool(CONFIG, 8, 16, CPU, torch.float32)
    executor = OverlapExecutor(DECODER, ReferenceAttention, pool, rule, lanes)
    executor.is_halved = told = object()  # type: ignore[assignment]
    warm_up(executor, pool, 128, CPU)
    assert made == [16, 48]
    assert executor.is_halved is told, "no step of the run was told of"


def test_an_executor_that_nobody_holds_gives_its_pool_back_at_once():
    """A KV pool fills a GPU: the next one has to fit before any collector runs."""
    gc.disable()
    try:
        pool = KvPool(CONFIG, 8, 16, CPU, torch.float32)
        executor = OverlapExecutor(DECODER, ReferenceAttention, pool, Always())
        warm_up(executor, pool, 128, CPU)
        seen = weakref.ref(pool.k)
        del executor, pool
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("sm_count", [108, 132, 142, 148])
def test_the_share_without_a_measurement_is_nanoflows(sm_count):
    sms = default_sms(sm_count)
    assert sms % SM_STEP == 0
    assert sms / sm_count == pytest.approx(DEFAULT_SHARE, abs=SM_STEP / 2 / sm_count)
