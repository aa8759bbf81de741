"""Clocks that time steps without making the host wait for the device more than it must."""

import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch


class StepTime(NamedTuple):
    """When a step ran, in seconds from the first one's beginning."""

    start: float
    seconds: float


class Clock(Protocol):
    """`begin` and `end` bracket what a step puts on the device; its time is told later."""

    def begin(self) -> None:
        """The next step's work starts to be issued."""
        ...

    def end(self) -> None:
        """All of it is issued."""
        ...

    def ended(self, pending: int) -> Iterator[StepTime]:
        """Times of steps that have ended and were not told yet, oldest first. Waits as long as more
        than `pending` are unfinished.
        """
        ...


class WallClock:
    """For a device that has done the work when the call returns: the CPU."""

    def __init__(self) -> None:
        self._zero: float | None = None
        self._start = 0.0
        self._ended: deque[StepTime] = deque()

    def begin(self) -> None:
        """The step starts now."""
        self._start = time.perf_counter()
        if self._zero is None:
            self._zero = self._start

    def end(self) -> None:
        """The step has ended."""
        assert self._zero is not None, "a step begins before it ends"
        seconds = time.perf_counter() - self._start
        self._ended.append(StepTime(self._start - self._zero, seconds))

    def ended(self, pending: int) -> Iterator[StepTime]:
        """All steps so far: none is ever unfinished."""
        while self._ended:
            yield self._ended.popleft()


class EventClock:
    """CUDA events on the current stream. Where the host is late, a step's time holds the waiting
    for what `begin` and `end` bracket, and a gap before its start the rest.
    """

    def __init__(self) -> None:
        self._start: torch.cuda.Event | None = None
        self._told: torch.cuda.Event | None = None  # the end of the last step told
        self._now = 0.0  # when that was
        self._running: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def begin(self) -> None:
        """Mark the stream."""
        self._start = _event()
        self._start.record()

    def end(self) -> None:
        """Mark the stream."""
        assert self._start is not None, "a step begins before it ends"
        end = _event()
        end.record()
        self._running.append((self._start, end))

    def ended(self, pending: int) -> Iterator[StepTime]:
        """Waits for the oldest steps only."""
        while self._running and (len(self._running) > pending or self._running[0][1].query()):
            start, end = self._running[0]
            end.synchronize()
            # NOTE: CUDA tells times in float32, so hours are added up from steps and gaps.
            gap = self._told.elapsed_time(start) if self._told is not None else 0.0
            step = StepTime(self._now + gap / 1e3, start.elapsed_time(end) / 1e3)
            self._running.popleft()
            self._told, self._now = end, step.start + step.seconds
            yield step


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def clock_for(device: torch.device) -> Clock:
    """The clock that suits a device."""
    return EventClock() if device.type == "cuda" else WallClock()
