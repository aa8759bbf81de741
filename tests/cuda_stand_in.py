"""CUDA as its documentation describes it, without a GPU: streams run what they are given in order
and each by itself, events order them. Time passes only where work says so.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch


class Stream:
    """A queue of work: when its work so far ends, and all work that has ended by then."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.time = 0.0
        self.done: frozenset[Any] = frozenset()

    def wait_event(self, event: "Event") -> None:
        self.time = max(self.time, event.time)
        self.done |= event.done

    def wait_stream(self, other: "Stream") -> None:
        event = Event()
        event.record(other)
        self.wait_event(event)


class Event:
    """What a stream had done when it was recorded last."""

    device: "Device"

    def __init__(self, enable_timing: bool = False) -> None:
        self.time = 0.0
        self.done: frozenset[Any] = frozenset()

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or self.device.current
        self.time, self.done = stream.time, stream.done

    def synchronize(self) -> None:
        """The host has no time here."""

    def elapsed_time(self, end: "Event") -> float:
        return (end.time - self.time) * 1e3


class Device:
    """A GPU whose work is told to it."""

    def __init__(self) -> None:
        self.current = Stream("caller")
        self.before: dict[Any, frozenset[Any]] = {}  # what had ended when each work began
        self.slept = 0.0

    def work(self, name: Any, seconds: float) -> None:
        """Put work on the current stream."""
        self.before[name] = self.current.done
        self.current.time += seconds
        self.current.done |= {name}

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        outer, self.current = self.current, stream
        yield
        self.current = outer

    def sleep(self, cycles: int) -> None:
        assert cycles > 0
        self.slept += cycles
        self.current.time += cycles / 2e9


def install(monkeypatch: pytest.MonkeyPatch) -> Device:
    """Put a device in torch.cuda's place."""
    device = Device()

    class OfDevice(Event):
        pass

    OfDevice.device = device
    monkeypatch.setattr(torch.cuda, "Event", OfDevice)
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: Stream())
    monkeypatch.setattr(torch.cuda, "stream", device.on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: device.current)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "_sleep", device.sleep, raising=False)
    return device
