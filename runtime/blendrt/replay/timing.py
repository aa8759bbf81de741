"""Timing one step: warmed up, several times over, the median counts."""

from statistics import median
from typing import Protocol

import torch

from blendrt.batch import StepInputs
from blendrt.clock import clock_for
from blendrt.executor import Executor

_WARM_UPS = 1
_REPEATS = 3


class Timer(Protocol):
    """Says how long a step takes."""

    def seconds(self, inputs: StepInputs) -> float:
        """Seconds of the step on the device."""
        ...

    @property
    def is_halved(self) -> bool:
        """Whether the last step that was timed was cut in two halves."""
        ...


class ExecutorTimer:
    """Times steps on an executor. They are issued back to back, as in a run: on a GPU the host is
    ahead of the device unless a step is too short for it.
    """

    def __init__(self, executor: Executor, device: torch.device) -> None:
        self._executor = executor
        self._device = device

    @property
    def is_halved(self) -> bool:
        """As its executor says."""
        return self._executor.is_halved

    def seconds(self, inputs: StepInputs) -> float:
        """Median of a few runs of the same step; what it writes to the KV pool is the same."""
        clock = clock_for(self._device)
        for _ in range(_WARM_UPS + _REPEATS):
            clock.begin()
            self._executor.run(inputs)
            clock.end()
        return median([time.seconds for time in clock.ended(0)][_WARM_UPS:])
