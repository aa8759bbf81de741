"""Lanes and timers of a GPU, on a stand-in for CUDA's streams and events."""

from collections.abc import Iterator
from itertools import combinations
from types import ModuleType, SimpleNamespace

import pytest
import torch
from cuda_stand_in import Device, Stream, install

from blendrt.executor import streams
from blendrt.executor.schedule import Piece, build_schedule, reads, writes
from blendrt.executor.streams import NO_PARTITION, CudaLanes, Partition, split_gpu
from blendrt.profiler.timer import EventTimer

GPU = torch.device("cuda", 0)
LAYERS = 4
SECONDS = {Piece.START: 2e-4, Piece.DECODE: 8e-4, Piece.REST: 6e-4}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    split_gpu.cache_clear()
    yield install(monkeypatch)
    split_gpu.cache_clear()


def lanes() -> CudaLanes:
    return CudaLanes(Partition(Stream("attention"), Stream("gemm"), 48))


def run_step(device: Device, on: CudaLanes, step: int) -> None:
    schedule = build_schedule(LAYERS)
    on.execute(schedule, lambda task: device.work((step, task), SECONDS[task.piece]))


def test_streams_and_events_keep_every_read_after_its_write(device):
    """Two steps, so that events are recorded again; the second comes after all of the first."""
    on = lanes()
    for step in range(2):
        run_step(device, on, step)
    tasks = build_schedule(LAYERS).tasks
    assert len(device.before) == 2 * len(tasks)
    for (i, first), (j, then) in combinations([(s, t) for s in range(2) for t in tasks], 2):
        touch = writes(first) & (reads(then) | writes(then)) or reads(first) & writes(then)
        if i != j or touch:
            assert (i, first) in device.before[j, then]


def test_the_callers_work_comes_before_a_step_and_after_it(device):
    device.work("inputs", 1.0)
    run_step(device, lanes(), 0)
    device.work("next", 0.0)
    tasks = [name for name in device.before if isinstance(name, tuple)]
    assert all("inputs" in device.before[task] for task in tasks)
    assert set(tasks) <= device.before["next"]


def test_two_nano_batches_take_little_more_than_the_longer_lane(device):
    """GEMMs of 0.8 ms and attention of 0.8 ms a layer and half: all but the ends are hidden."""
    run_step(device, lanes(), 0)
    gemms = 2 * LAYERS * (SECONDS[Piece.START] + SECONDS[Piece.REST])
    ends = SECONDS[Piece.START] + SECONDS[Piece.REST]
    assert device.current.time == pytest.approx(gemms + ends, rel=0.03)
    assert device.current.time < 0.6 * 2 * gemms


def test_without_the_splitter_two_plain_streams_are_used(device, monkeypatch):
    monkeypatch.setattr(streams, "can_partition", lambda _: False)
    parts = split_gpu(GPU, 48)
    assert parts.attention_sms == NO_PARTITION
    assert parts.attention is not parts.gemm


def test_the_splitter_gives_attention_its_share_and_gemms_the_rest(device, monkeypatch):
    """FlashInfer returns a stream and a resource for each count asked for, and for what is left."""
    asked = []

    def split(place: torch.device, counts: list[int]):
        asked.append((place, counts))
        parts = [SimpleNamespace(sm=SimpleNamespace(smCount=n)) for n in (48, 84)]
        return [Stream("share"), Stream("rest")], parts

    library = ModuleType("flashinfer.green_ctx")
    library.split_device_green_ctx_by_sm_count = split  # type: ignore[attr-defined]
    monkeypatch.setattr(streams.importlib, "import_module", lambda name: library)
    monkeypatch.setattr(streams, "can_partition", lambda _: True)
    parts = split_gpu(GPU, 44)
    assert split_gpu(GPU, 44) is parts
    assert asked == [(GPU, [44])]
    assert (parts.attention.name, parts.gemm.name) == ("share", "rest")  # type: ignore[attr-defined]
    assert parts.attention_sms == 48


def test_the_event_timer_tells_seconds_of_one_call(device):
    timer = EventTimer(GPU, repeats=3)
    assert timer.seconds(lambda i: device.work(("call", i), 7e-5)) == pytest.approx(7e-5)
    assert device.slept > 0


def test_a_pair_takes_until_both_are_done(device, monkeypatch):
    monkeypatch.setattr(streams, "can_partition", lambda _: False)
    timer = EventTimer(GPU, repeats=3)
    found = timer.together(
        lambda i: device.work(("attention", i), 3e-4),
        lambda i: device.work(("gemm", i), 5e-4),
        NO_PARTITION,
    )
    assert found == pytest.approx(5e-4)


def test_a_call_is_told_its_number_so_that_buffers_turn(device):
    numbers: list[int] = []

    def call(i: int) -> None:
        numbers.append(i)
        device.work(i, 1e-6)

    EventTimer(GPU, repeats=2).seconds(call)
    assert max(numbers) == EventTimer.MOST_CALLS - 1


def test_a_gpu_whose_driver_refuses_the_split_says_why(monkeypatch):
    """What is installed may be refused all the same: then it is two plain streams, and a reason."""

    def refuse(device: torch.device, sms: int) -> Partition:
        raise RuntimeError("CUDA error code=914\nFailed to split")

    streams.partition_failure.cache_clear()
    monkeypatch.setattr(streams, "_split", refuse)
    assert streams.partition_failure(GPU) == "RuntimeError: CUDA error code=914"
    assert not streams.can_partition(GPU)
    streams.partition_failure.cache_clear()


def test_a_cpu_has_no_sms_to_split():
    assert streams.partition_failure(torch.device("cpu")) == "no GPU"
