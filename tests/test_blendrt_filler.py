"""Filler: a GPU works like one in serving while kernels are timed, and nothing else changes."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cuda_stand_in import Device, install

from blendrt.attention.reference import ReferenceAttention
from blendrt.config import TINY
from blendrt.executor import streams
from blendrt.executor.streams import NO_PARTITION, split_gpu
from blendrt.model import Decoder
from blendrt.profiler import timer as timers
from blendrt.profiler.clocks import CYCLES
from blendrt.profiler.filler import _SETTLING, _TOKENS, _TRIED, StepFiller
from blendrt.profiler.rig import build_rig
from blendrt.profiler.timer import EventTimer, timer_for

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
PIECES = ("project", "output", "gate_up", "down", "decode")
MILLISECOND = 1e-3


class World:
    """A GPU and a host with a clock. All that the host does there is noted, in its order.

    Queueing takes no time, but for a `slow` filler; calls of 0.5 ms do when they are waited for.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: float = 1.0) -> None:
        self.device: Device = install(monkeypatch)
        self.now, self.slow, self.left = 0.0, 0.0, most
        self.log: list[Any] = []
        self.filled: list[float] = []
        self._waiting = 0.0
        clock = SimpleNamespace(perf_counter=lambda: self.now)
        monkeypatch.setattr(timers, "time", clock)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: self._wait("wait for all"))
        monkeypatch.setattr(
            torch.cuda.Event, "synchronize", lambda _: self._wait("wait for an event")
        )

    def queue(self, seconds: float) -> float:
        """The filler: as much as is asked for, until none is left."""
        seconds = min(seconds, self.left)
        self.left -= seconds
        self.now += self.slow * seconds
        self.log.append("filler")
        self.filled.append(seconds)
        self.device.work("filler", seconds)
        return seconds

    def call(self, i: int) -> None:
        """What is timed."""
        self._waiting += 0.5 * MILLISECOND
        self.log.append("call")
        self.device.work("call", 0.5 * MILLISECOND)

    def timer(self, repeats: int = 3) -> EventTimer:
        return EventTimer(GPU, repeats=repeats, filler=self)

    @property
    def slept(self) -> float:
        """Cycles before one timing's stretches, without those that the clock is told by."""
        return self.device.slept - CYCLES

    def _wait(self, how: str) -> None:
        self.now += self._waiting
        self._waiting = 0.0
        self.log.append(how)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_filler_is_ahead_of_every_stretch_and_nobody_waits_in_between(world: World) -> None:
    assert world.timer().seconds(world.call) == pytest.approx(0.5 * MILLISECOND)
    assert world.log == [
        *["call"] * 3,
        "wait for all",
        "call",
        "wait for all",
        *["filler", "call"] * 3,
        "filler",
        "wait for an event",
    ]


def test_a_stretch_and_the_filler_ahead_take_so_long(world: World) -> None:
    world.timer().seconds(world.call)
    assert world.filled[:3] == pytest.approx([EventTimer.BUSY - 0.5 * MILLISECOND] * 3)
    assert world.slept == 0


def test_ahead_of_a_long_stretch_there_is_as_much_as_hides_its_launches(world: World) -> None:
    def long(i: int) -> None:
        world.now += 0.2 * MILLISECOND  # for the host
        for _ in range(10):
            world.call(i)

    world.timer().seconds(long)
    launched = 1.5 * 0.2 * MILLISECOND + 50e-6
    assert world.filled[:3] == pytest.approx([EventTimer.COVERED * launched] * 3)
    assert world.slept == 0


def test_what_filler_does_not_hide_is_slept(world: World) -> None:
    """Where the host takes as long to queue it as the GPU to run it, it hides nothing."""
    world.slow = 1.0
    assert world.timer().seconds(world.call) == pytest.approx(0.5 * MILLISECOND)
    short = 50e-6 + (1.0 - EventTimer.SURE) * (EventTimer.BUSY - 0.5 * MILLISECOND)
    assert world.slept / EventTimer.CLOCK == pytest.approx(3 * short, rel=1e-3)


def test_without_filler_left_a_timer_sleeps_as_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, most=0.0)
    world.timer().seconds(world.call)
    assert world.slept / EventTimer.CLOCK == pytest.approx(3 * 50e-6)


def test_behind_a_timing_there_is_as_much_as_the_host_took_before_it(world: World) -> None:
    """Up to a limit: a pause between two tables says nothing of the next timing."""
    timer = world.timer()
    for pause in (4 * MILLISECOND, 7 * MILLISECOND, 5.0):
        world.now += pause
        world.filled.clear()
        timer.seconds(world.call)
        assert world.filled[-1] == pytest.approx(min(pause, EventTimer.MOST_BEHIND))


def test_a_stream_of_work_has_filler_behind_it_too(world: World) -> None:
    """Once. How long a call takes about is found in a few stretches, with filler ahead alone."""
    timer = world.timer(repeats=10)
    world.now += 4 * MILLISECOND
    timer.among([world.call], world.call, 0.5)
    assert world.log[-2:] == ["filler", "wait for an event"]
    assert world.filled[-1] == pytest.approx(4 * MILLISECOND)
    assert world.log.count("filler") == 2 * EventTimer.ROUGH + 1


def test_behind_every_timing_the_gpu_tells_its_clock(world: World) -> None:
    """But not behind those that only tell how long a call takes about."""
    timer = world.timer()
    timer.seconds(world.call)
    timer.among([world.call], world.call, 0.5)
    assert timer.clocks == pytest.approx([2000.0] * 2)
    assert "call" in world.device.before["filler"]


def test_pairs_are_timed_behind_filler(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "can_partition", lambda _: False)
    split_gpu.cache_clear()
    both = world.timer().together(world.call, world.call, NO_PARTITION)
    split_gpu.cache_clear()
    assert both == pytest.approx(0.5 * MILLISECOND)
    assert world.log[-8:-2] == ["filler", "call", "call"] * 2
    assert "filler" in world.device.before["call"]


def test_a_timer_has_no_filler_by_itself() -> None:
    assert timer_for(GPU)._filler is None  # type: ignore[union-attr]


class Noted:
    """A clock by which a piece of a layer takes a millisecond, and the pieces called."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[float], float] = lambda _: 1e-3
    ) -> None:
        self.now = 0.0
        self.seconds = seconds  # of a piece, by what the clock says
        self.called: list[tuple[str, int, int]] = []  # piece, layer, tokens
        for name in PIECES[:-1]:
            self._note(monkeypatch, Decoder, name)
        self._note(monkeypatch, ReferenceAttention, "decode")

    def _note(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        def run(_: object, layer: int, x: torch.Tensor, *rest: object) -> None:
            self.called.append((name, layer, len(x)))
            self.now += self.seconds(self.now)

        monkeypatch.setattr(owner, name, run)

    def clock(self) -> float:
        return self.now


def test_filler_is_layers_of_gemms_and_then_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 ms each; the last piece reads KV, so that no weights are left in a cache."""
    noted = Noted(monkeypatch)
    with torch.inference_mode(), build_rig(TINY, 1, CPU, 0) as rig:
        filler = StepFiller(rig, (2, 16), noted.clock)
        filler.most = 1.0
        first = (noted.called[-1][1] + 1) % TINY.layers
        noted.called.clear()
        assert filler.queue(12 * MILLISECOND) == pytest.approx(15 * MILLISECOND)
    tokens = (*[_TOKENS] * 4, 2)
    layers = [(first + i) % TINY.layers for i in range(3)]
    assert noted.called == [
        (piece, layer, n) for layer in layers for piece, n in zip(PIECES, tokens, strict=True)
    ]


def test_a_layer_takes_what_it_does_once_the_clock_has_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fifth more than at first."""
    noted = Noted(monkeypatch, lambda now: (1.0 if now < 0.9 * _SETTLING else 1.2) * 0.1e-3)
    with torch.inference_mode(), build_rig(TINY, 1, CPU, 0) as rig:
        filler = StepFiller(rig, (2, 16), noted.clock)
        filler.most = 1.0
        assert filler.queue(1e-6) == pytest.approx(1.2 * len(PIECES) * 0.1e-3)
    assert len(noted.called) > 5 * _TRIED * len(PIECES)


def test_filler_beside_something_else_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none left, too."""
    noted = Noted(monkeypatch)
    with torch.inference_mode(), build_rig(TINY, 1, CPU, 0) as rig:
        filler = StepFiller(rig, (2, 16), noted.clock)
        noted.called.clear()
        filler.fill_until(lambda: len(noted.called) >= 3 * len(PIECES))
    assert len(noted.called) == 3 * len(PIECES)
    assert filler.queued == 0.0


def test_there_is_no_more_filler_than_its_share_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noted = Noted(monkeypatch)
    with torch.inference_mode(), build_rig(TINY, 1, CPU, 0) as rig:
        filler = StepFiller(rig, (2, 16), noted.clock)
        filler.most = 22 * MILLISECOND
        noted.called.clear()
        found = [filler.queue(12 * MILLISECOND) for _ in range(3)]
    assert found == pytest.approx([15 * MILLISECOND, 5 * MILLISECOND, 0.0])
    assert filler.queued == pytest.approx(20 * MILLISECOND)
    assert filler.is_spent
    assert len(noted.called) == 4 * len(PIECES)


def test_until_there_may_be_some_there_is_no_filler(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = Noted(monkeypatch)
    with torch.inference_mode(), build_rig(TINY, 1, CPU, 0) as rig:
        filler = StepFiller(rig, (2, 16), noted.clock)
        assert filler.queue(1.0) == filler.queued == 0.0
        filler.most = -1.0  # a profile that is late already
        assert filler.queue(1.0) == filler.queued == 0.0
    assert filler.is_spent


def test_filler_leaves_what_is_measured_alone() -> None:
    """The rig's own plan, the numbers it draws next, its weights and its KV; all runs on a CPU."""
    with torch.inference_mode(), build_rig(TINY, 1, CPU, 0) as rig:
        rig.attention.plan(rig.decodes(np.array([20, 30, 40])))
        q = rig.queries(3)
        before = rig.attention.decode(0, q, rig.pool).clone()
        state = rig.rng.bit_generator.state
        filler = StepFiller(rig, (2, 16))
        filler.most = 1e9
        assert filler.queue(1e-6) > 0
        assert rig.rng.bit_generator.state == state
        assert torch.equal(rig.attention.decode(0, q, rig.pool), before)


def test_what_it_is_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = Noted(monkeypatch)
    with torch.inference_mode(), build_rig(TINY, 1, CPU, 0) as rig:
        filler = StepFiller(rig, (2, 16), noted.clock)
    assert filler.told == (
        "filler ahead of stretches and between timings: a layer's GEMMs of 512 tokens and "
        "2 decodes at 16, 5.000 ms"
    )
