"""Pricing many steps at once: what an engine is charged for a whole table of counts."""

import numpy as np
from numpy.typing import NDArray

from blendsim.compiled import kernel
from blendsim.perf.grids import Floats
from blendsim.perf.step import StepCosts, step_seconds


@kernel
def price_steps(costs: StepCosts, counts: NDArray[np.int64]) -> Floats:
    """Seconds of every row of `counts`, which begins with Batch's fields."""
    seconds = np.empty(len(counts))
    for i in range(len(counts)):
        seconds[i] = step_seconds(costs, counts[i]).seconds
    return seconds
