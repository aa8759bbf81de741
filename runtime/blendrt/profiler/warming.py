"""Warming a GPU up: large GEMMs until they take no longer than before, ahead of all that is timed.

Under its power limit a GPU that has just begun to work runs faster than one that has worked for a
while. A profile that is timed then prices runs too low.
"""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from blendrt.profiler.kernels import layer_gemms
from blendrt.profiler.rig import Rig

LEAST, MOST = 5.0, 25.0  # seconds
_TOKENS = 8192  # of GEMMs that draw all the power there is
_STRETCH = 0.25  # seconds, launched without a pause
_WINDOW = 2.0  # seconds, of which the median counts
_NEAR = 0.005  # of a window and the one before

Clock = Callable[[], float]


class Warmth(NamedTuple):
    """What warming up came to: its seconds, a layer's GEMMs in its first and its last window, and
    whether they had settled.
    """

    seconds: float
    first: float
    last: float
    has_settled: bool

    @property
    def told(self) -> str:
        """As a profile's provenance has it."""
        end = "settled" if self.has_settled else "not settled"
        return (
            f"{end} after {self.seconds:.1f} s, a layer's GEMMs of {_TOKENS} tokens from "
            f"{1e3 * self.first:.3f} to {1e3 * self.last:.3f} ms"
        )


def warm_up(
    stretch: Callable[[], float], most: float = MOST, clock: Clock = time.perf_counter
) -> Warmth:
    """Run stretches, which tell the seconds of the same work each, until the median of the last
    `_WINDOW` seconds is that of those before; for `LEAST` seconds, and no longer than `most`.
    """
    begun, ended, took = clock(), list[float](), list[float]()

    def window(start: float) -> list[float]:
        return [
            seconds
            for end, seconds in zip(ended, took, strict=True)
            if start < end <= start + _WINDOW
        ]

    while True:
        took.append(stretch())
        now = clock() - begun
        ended.append(now)
        last, before = window(now - _WINDOW), window(now - 2 * _WINDOW)
        has_settled = now >= LEAST and bool(before) and _are_near(last, before)
        if has_settled or now >= most:
            first = statistics.median(window(0.0) or took[:1])
            return Warmth(now, first, statistics.median(last), has_settled)


def _are_near(last: list[float], before: list[float]) -> bool:
    return abs(statistics.median(last) / statistics.median(before) - 1.0) <= _NEAR


def gemm_stretch(
    rig: Rig, tokens: int = _TOKENS, clock: Clock = time.perf_counter
) -> Callable[[], float]:
    """A stretch of a layer's GEMMs, layer after layer; it tells the seconds of one layer's."""
    calls = list(layer_gemms(rig, tokens).values())

    def seconds(layers: int) -> float:
        start = clock()
        for i in range(layers):
            for call in calls:
                call(i)
        if rig.device.type == "cuda":
            torch.cuda.synchronize(rig.device)
        return (clock() - start) / layers

    seconds(rig.config.layers)  # loads the kernels
    layers = max(1, round(_STRETCH / seconds(rig.config.layers)))
    return lambda: seconds(layers)
