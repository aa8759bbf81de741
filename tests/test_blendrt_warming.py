"""A GPU before a profile is measured and meanwhile: warmed up until the same work takes no longer,
then kept at work, both within a limit.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from blendrt.config import TINY
from blendrt.model import Decoder
from blendrt.profiler import measure
from blendrt.profiler.measure import Request
from blendrt.profiler.rig import Rig, build_rig
from blendrt.profiler.sizes import GPU_SIZES
from blendrt.profiler.tables import Table
from blendrt.profiler.timer import EventTimer
from blendrt.profiler.warming import LEAST, MOST, Warmth, gemm_stretch, warm_up
from blendsim.specs import GPUS

CPU = torch.device("cpu")


class Device:
    """A clock, and work that takes longer the longer the device has been at it."""

    def __init__(self, slowdown: Callable[[float], float]) -> None:
        self.now = 0.0
        self._slowdown = slowdown

    def clock(self) -> float:
        return self.now

    def stretch(self) -> float:
        """A quarter of a second's work on a cool device, in 50 parts."""
        factor = self._slowdown(self.now)
        self.now += 0.25 * factor
        return 0.25 * factor / 50


def warmed(slowdown: Callable[[float], float], most: float = MOST) -> Warmth:
    device = Device(slowdown)
    return warm_up(device.stretch, most, device.clock)


def test_it_ends_once_the_time_has_stopped_rising() -> None:
    """Up by 6 % within 9 seconds, and level then: two windows of 2 s have to be past the rise."""
    found = warmed(lambda now: 1.0 + 0.06 * min(now, 9.0) / 9.0)
    assert found.has_settled
    assert 9.0 < found.seconds < 13.5
    assert found.last == pytest.approx(1.06 * 0.005, rel=2e-3)
    assert 0.005 < found.first < 1.014 * 0.005


def test_a_device_that_never_settles_is_left_at_the_limit() -> None:
    found = warmed(lambda now: 1.0 + 0.01 * now)
    assert not found.has_settled
    assert MOST <= found.seconds < MOST + 0.4


def test_one_that_is_warm_is_still_kept_at_work_for_a_while() -> None:
    found = warmed(lambda now: 1.0)
    assert found.has_settled
    assert LEAST <= found.seconds < LEAST + 0.3
    assert found.first == found.last


def test_a_time_that_falls_has_not_settled_either() -> None:
    found = warmed(lambda now: 1.5 - 0.05 * min(now, 8.0))
    assert found.seconds > 8.0


def test_the_limit_holds_below_the_least_time() -> None:
    """Minutes may be few. One stretch is run, and both windows are what it took."""
    assert warmed(lambda now: 1.0, most=0.1) == Warmth(0.25, 0.005, 0.005, False)


def test_stretches_longer_than_a_window_end_at_the_limit() -> None:
    device = Device(lambda now: 40.0)
    found = warm_up(device.stretch, MOST, device.clock)
    assert (found.seconds, found.has_settled) == (30.0, False)


def test_what_it_came_to_is_told() -> None:
    assert Warmth(12.34, 5.2e-3, 5.61e-3, True).told == (
        "settled after 12.3 s, a layer's GEMMs of 8192 tokens from 5.200 to 5.610 ms"
    )
    assert Warmth(25.1, 1e-3, 2e-3, False).told.startswith("not settled after 25.1 s")


def test_a_stretch_is_a_quarter_of_a_second_of_a_layers_gemms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each takes 5 ms of a clock of the test: 20 ms a layer."""
    called: list[tuple[str, int]] = []
    device = Device(lambda now: 1.0)

    def noted(name: str) -> None:
        def run(decoder: Decoder, layer: int, *_: object) -> None:
            called.append((name, layer))
            device.now += 5e-3

        monkeypatch.setattr(Decoder, name, run)

    pieces = ("project", "output", "gate_up", "down")
    for name in pieces:
        noted(name)
    with torch.inference_mode(), build_rig(TINY, 1, CPU, 0) as rig:
        stretch = gemm_stretch(rig, 8, device.clock)
        called.clear()
        assert stretch() == pytest.approx(20e-3)
    layers = round(0.25 / 20e-3)
    assert called == [(name, i % TINY.layers) for i in range(layers) for name in pieces]


def measured_by(
    monkeypatch: pytest.MonkeyPatch,
    device: torch.device,
    minutes: float,
    warm: float,
    *,
    clocks: Sequence[float] = (),
    tables: int = 1,
    log: list[str] | None = None,
) -> tuple[list[bool], dict[str, Any]]:
    """One table with half of the time, on a clock of the test; warming takes `warm` seconds. Where
    the timer has filler the table asks for 2 s of it, is told `clocks`, and holds how much filler
    it may have. What is done is noted in `log`.

    Whether its time was up after each further second, and the provenance.
    """
    clock = Device(lambda now: 1.0)
    over: list[bool] = []
    log = [] if log is None else log

    class Filler:
        """As much as is asked for."""

        def __init__(self, rig: Rig, decodes: tuple[int, int]) -> None:
            self.told, self.queued, self.most = f"filler like {decodes}", 0.0, 0.0
            log.append("filler is there")

        @property
        def is_spent(self) -> bool:
            return self.queued >= self.most

        def queue(self, seconds: float) -> float:
            self.queued += seconds
            return seconds

        def fill_until(self, is_done: Callable[[], bool]) -> None:
            log.append("work until it is read")
            while not is_done():
                pass

    def told(stretch: object, most: float) -> Warmth:
        clock.now += min(warm, most)
        return Warmth(min(warm, most), 1e-3, 2e-3, True)

    def table(rig: Rig, sizes: object, is_over: Callable[[], bool]) -> str:
        holds = "nothing"
        if isinstance(rig.timer, EventTimer):
            assert isinstance(rig.timer._filler, Filler)
            rig.timer._filler.queue(2.0)
            rig.timer.clocks += clocks
            holds = f"{rig.timer._filler.most:g} s at most"
        for _ in range(int(60 * minutes)):
            clock.now += 1.0
            over.append(is_over())
        log.append("measured")
        return holds

    def save(_: object, holds: str) -> str:
        clock.now += 5.0
        log.append("saved")
        return holds

    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=clock.clock))
    monkeypatch.setattr(measure, "warm_up", told)
    monkeypatch.setattr(measure, "gemm_stretch", lambda rig: None)
    monkeypatch.setattr(measure, "StepFiller", Filler)
    monkeypatch.setattr(measure, "conditions", lambda device: f"{clock.now:g} °C")
    monkeypatch.setattr(measure, "TABLES", [Table("one", 0.5, table, save)] * tables)
    monkeypatch.setattr(measure, "write_meta", lambda *_: None)
    meta: dict[str, Any] = {"tables": {}, "warm_up": "none", "timing": "events"}
    request = Request(TINY, 1, device, minutes)
    with (
        build_rig(TINY, 1, CPU, 0) as rig,
        pytest.raises(AssertionError, match="pairs are a table"),
    ):
        measure._measure_tables(rig, request, None, meta, GPUS["h200"], lambda _: None)  # type: ignore[arg-type]
    return over, meta


def test_warming_is_counted_in_the_minutes_and_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two minutes 20 s are gone, and half of the 100 left are the table's."""
    over, meta = measured_by(monkeypatch, torch.device("cuda"), 2.0, warm=20.0)
    assert over.index(True) == 50
    assert meta["warm_up"] == (
        "settled after 20.0 s, a layer's GEMMs of 8192 tokens from 1.000 to 2.000 ms, "
        "from 0 °C to 20 °C"
    )


def test_of_few_minutes_no_more_than_a_quarter_is_warming(monkeypatch: pytest.MonkeyPatch) -> None:
    over, _ = measured_by(monkeypatch, torch.device("cuda"), 1.0, warm=100.0)
    assert over.index(True) == 22  # of 45 s left


def test_a_cpu_is_not_warmed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    over, meta = measured_by(monkeypatch, CPU, 1.0, warm=100.0)
    assert over.index(True) == 30
    assert meta["warm_up"] == "none"


def test_a_third_of_a_tables_time_may_be_filler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of 108 s are the table's. What it had is noted."""
    _, meta = measured_by(monkeypatch, torch.device("cuda"), 2.0, warm=12.0)
    assert meta["timing"] == f"events; filler like {GPU_SIZES.beside}"
    assert meta["tables"]["one"] == (
        "18 s at most in 120.0 s, 2.0 s of filler, from 12 °C to 132 °C"
    )


def test_the_driver_is_asked_at_once_behind_a_table_while_the_gpu_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not after it is saved, which takes 5 s here; nor again ahead of the next."""
    log: list[str] = []
    _, meta = measured_by(monkeypatch, torch.device("cuda"), 0.1, warm=0.0, tables=2, log=log)
    assert log == [
        *("filler is there", "work until it is read"),
        *("measured", "work until it is read", "saved") * 2,
    ]
    assert meta["tables"]["one"].endswith("from 6 °C to 17 °C")


def test_the_gpus_own_clock_while_a_table_was_timed_is_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of each table by itself: two that have three clocks each."""
    told = (1700.4, 1590.0, 1612.3)
    _, meta = measured_by(monkeypatch, torch.device("cuda"), 2.0, 12.0, clocks=told, tables=2)
    assert (
        ", clock while timing 1,612 MHz in the median (1,590 to 1,700), from"
        in (meta["tables"]["one"])
    )


def test_a_table_that_had_all_its_filler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    _, meta = measured_by(monkeypatch, torch.device("cuda"), 0.1, warm=0.0)
    assert "2.0 s of filler (all of its part)" in meta["tables"]["one"]


def test_a_cpu_has_no_filler(monkeypatch: pytest.MonkeyPatch) -> None:
    _, meta = measured_by(monkeypatch, CPU, 1.0, warm=0.0)
    assert meta["timing"] == "events"
    assert "filler" not in meta["tables"]["one"]
