"""Pricing many steps at once: what an engine is charged for a whole table of counts."""

from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.compiled import allocating_kernel
from blendsim.perf.step import StepCosts, step_seconds


@allocating_kernel
def price_steps(costs: StepCosts, counts: Ints) -> Floats:
    """Seconds of every row of `counts`, which begins with Batch's fields."""
    seconds = np.empty(len(counts))
    for i in range(len(counts)):
        seconds[i] = step_seconds(costs, counts[i]).seconds
    return seconds


class StepWork(NamedTuple):
    """Seconds of each step's compute-bound work and of its decode attention, each alone."""

    compute: Floats
    memory: Floats


@allocating_kernel
def price_work(costs: StepCosts, counts: Ints) -> StepWork:
    """What the engine is charged for in every row of `counts`, which begins with Batch's fields."""
    compute, memory = np.empty(len(counts)), np.empty(len(counts))
    for i in range(len(counts)):
        times = step_seconds(costs, counts[i])
        compute[i], memory[i] = times.compute, times.memory
    return StepWork(compute, memory)
