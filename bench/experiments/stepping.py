"""How long runs of a step take, one after another as an engine makes them and far ahead, and at
which clock (clocks.py).
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from blendrt.profiler.clocks import megahertz, spin

Run = Callable[[], object]

LEAST_RUNS = 4  # in a row
_CLOCK = 2e9  # cycles a second to sleep by; a slower GPU sleeps longer
_MARGIN = 1.5  # the GPU sleeps so many times as long as issuing takes


class Ran(NamedTuple):
    """One run. The clock is what it was right after it; None on a CPU."""

    seconds: float
    megahertz: float | None


class Ahead(NamedTuple):
    """One run that was issued while the GPU slept."""

    ran: Ran
    host_seconds: float  # to issue it
    is_ahead: bool  # whether the GPU slept long enough


def in_a_row(device: torch.device, run: Run, least_seconds: float) -> list[Ran]:
    """Runs for so long, one behind another: as an engine does, the host issues a run while the one
    before is under way.
    """
    begun = time.perf_counter()
    if device.type != "cuda":
        return _on_cpu(run, begun + least_seconds)
    marks: list[tuple[torch.cuda.Event, ...]] = []
    while len(marks) < LEAST_RUNS or time.perf_counter() < begun + least_seconds:
        marks.append(_marked(run))
        if len(marks) > 1:
            marks[-2][1].synchronize()
    torch.cuda.synchronize(device)
    return [_ran(mark) for mark in marks]


def issue_seconds(device: torch.device, run: Run) -> float:
    """What the host takes to issue a run while the GPU has nothing else to do; it waits for what
    the GPU has to do.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    issued = time.perf_counter() - start
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return issued


def far_ahead(device: torch.device, run: Run, issued: float) -> Ahead:
    """A run of which all is issued, in about `issued` seconds, before any of it begins: launches do
    not count.
    """
    if device.type != "cuda":
        seconds = issue_seconds(device, run)
        return Ahead(Ran(seconds, None), seconds, False)
    torch.cuda.synchronize(device)
    cycles = int(_MARGIN * issued * _CLOCK)
    before = (_event(), _event())
    before[0].record()
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]
    before[1].record()
    start = time.perf_counter()
    mark = _marked(run)
    host = time.perf_counter() - start
    torch.cuda.synchronize(device)
    slept = before[0].elapsed_time(before[1]) / 1e3
    return Ahead(_ran(mark), host, host < slept)


def _marked(run: Run) -> tuple[torch.cuda.Event, ...]:
    """Issue a run between two events, and the clock's spin before a third."""
    marks = tuple(_event() for _ in range(3))
    marks[0].record()
    run()
    marks[1].record()
    spin()
    marks[2].record()
    return marks


def _ran(marks: tuple[torch.cuda.Event, ...]) -> Ran:
    begin, end, spun = marks
    return Ran(begin.elapsed_time(end) / 1e3, megahertz(end, spun))


def _on_cpu(run: Run, until: float) -> list[Ran]:
    told: list[Ran] = []
    while len(told) < LEAST_RUNS or time.perf_counter() < until:
        start = time.perf_counter()
        run()
        told.append(Ran(time.perf_counter() - start, None))
    return told


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
