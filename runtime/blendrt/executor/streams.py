"""Lanes on a device: one thread on a CPU, CUDA streams with SMs of their own on a GPU.

NOTE: cuBLAS picks kernels for all SMs of the chip even where the stream has fewer, and is left to:
told how many there are (cublasSetSmCountTarget) it picks slower ones. On an H200 a layer's GEMMs of
1,024 tokens run on 84 of 132 SMs at 0.61 of the whole chip's rate untold and at 0.47 told.
"""

import importlib
from collections.abc import Callable
from functools import cache
from typing import NamedTuple, Protocol

import torch

from blendrt.executor.schedule import Lane, Schedule, Task

NO_PARTITION = 0  # attention SMs: two plain streams, whose kernels take what is free
SM_STEP = 8  # a partition's SMs on sm_90 and later come in steps of so many


class Lanes(Protocol):
    """Runs tasks where they belong, ordered as a schedule says."""

    def execute(self, schedule: Schedule, run: Callable[[Task], None]) -> None:
        """Issue all tasks, after what the caller's stream holds and before what it gets next."""
        ...


class OneThread:
    """The same order of the same pieces, one after another."""

    def execute(self, schedule: Schedule, run: Callable[[Task], None]) -> None:
        """Run the tasks in the order they are issued."""
        for task in schedule.tasks:
            run(task)


class Partition(NamedTuple):
    """Two streams, and how many SMs attention's has; NO_PARTITION when both have all."""

    attention: torch.cuda.Stream
    gemm: torch.cuda.Stream
    attention_sms: int


class CudaLanes:
    """Lanes of one GPU. The caller's stream is the lane of the whole GPU."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self._events: dict[int, torch.cuda.Event] = {}

    def execute(self, schedule: Schedule, run: Callable[[Task], None]) -> None:
        """Issue all tasks, an event for each that another lane waits for."""
        caller = torch.cuda.current_stream()
        parts = self.partition
        streams = {Lane.WHOLE: caller, Lane.GEMM: parts.gemm, Lane.ATTENTION: parts.attention}
        parts.gemm.wait_stream(caller)
        parts.attention.wait_stream(caller)
        for i, task in enumerate(schedule.tasks):
            stream = streams[task.lane]
            for awaited in task.waits:
                stream.wait_event(self._events[awaited])
            with torch.cuda.stream(stream):
                run(task)
            if i in schedule.awaited:
                # Recording again is safe: a wait means the record before it.
                self._event(i).record(stream)
        caller.wait_stream(parts.gemm)
        caller.wait_stream(parts.attention)

    def _event(self, i: int) -> torch.cuda.Event:
        if i not in self._events:
            self._events[i] = torch.cuda.Event()  # type: ignore[no-untyped-call]
        return self._events[i]


@cache
def split_gpu(device: torch.device, attention_sms: int) -> Partition:
    """A partition of the GPU's SMs, attention's share first; plain streams for NO_PARTITION or
    where SMs cannot be split (`can_partition` says so).

    NOTE: made once for each share and kept. Streams of a share are never given back by the driver's
    splitter, so that executors and timers that come and go would use them up.
    """
    if attention_sms == NO_PARTITION or not can_partition(device):
        plain = [torch.cuda.Stream(device) for _ in range(2)]  # type: ignore[no-untyped-call]
        return Partition(plain[0], plain[1], NO_PARTITION)
    return _split(device, attention_sms)


def can_partition(device: torch.device) -> bool:
    """Whether the GPU's SMs can be split."""
    return partition_failure(device) is None


@cache
def partition_failure(device: torch.device) -> str | None:
    """Why SMs cannot be split here, None where they can. It is tried once, with GEMMs on both parts
    that wait for each other: a driver or a virtual machine may refuse what is installed.
    """
    if device.type != "cuda":
        return "no GPU"
    try:
        _try_partition(device)
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        told = (str(error).strip().splitlines() or [""])[0]
        return f"{type(error).__name__}: {told}"
    return None


def _try_partition(device: torch.device) -> None:
    parts = _split(device, 2 * SM_STEP)
    caller = torch.cuda.current_stream(device)
    x = torch.ones((256, 256), dtype=torch.bfloat16, device=device)
    for stream in (parts.gemm, parts.attention):
        stream.wait_stream(caller)
        with torch.cuda.stream(stream):
            x = (x @ x).clamp_(max=1.0)
        caller.wait_stream(stream)
    if float(x.sum()) != x.numel():
        raise RuntimeError("GEMMs on parts of the SMs gave wrong results")


def _split(device: torch.device, attention_sms: int) -> Partition:
    green_ctx = importlib.import_module("flashinfer.green_ctx")
    place = torch.device("cuda", device.index if device.index is not None else 0)
    streams, parts = green_ctx.split_device_green_ctx_by_sm_count(place, [attention_sms])
    return Partition(streams[0], streams[1], int(parts[0].sm.smCount))
