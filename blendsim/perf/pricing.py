"""Pricing many steps at once: what a StepModel says of a whole table of counts."""

import numpy as np
from numpy.typing import NDArray

from blendsim.compiled import kernel
from blendsim.perf.grids import Floats
from blendsim.perf.kernels import StepTables, compute_seconds, memory_seconds, overlapped
from blendsim.perf.model import StepModel
from blendsim.perf.overlap import overlap_lines


@kernel
def price_rows(tables: StepTables, lines: Floats, counts: NDArray[np.int64]) -> Floats:
    """Seconds of every row of `counts`, which begins with Batch's fields."""
    seconds = np.empty(len(counts))
    for i in range(len(counts)):
        row = counts[i]
        compute = compute_seconds(tables, row[0], row[1], row[2], row[3], row[5])
        seconds[i] = overlapped(lines, compute, memory_seconds(tables, row[3], row[4]))
    return seconds


def price_steps(model: StepModel, counts: NDArray[np.int64], overlaps: bool) -> Floats:
    """Seconds of every step; those of an engine that does not overlap are sums."""
    lines = model.lines if overlaps else overlap_lines("sum", model.system)
    seconds: Floats = price_rows(model.tables, lines, counts)
    return seconds
