"""One simulated replica: the serving core with a clock and a performance model, many steps inside
one compiled call.
"""

import numpy as np
from numpy.typing import NDArray

from blendsim.compiled import kernel
from blendsim.perf.model import StepModel
from blendsim.perf.step import StepCosts, step_costs, step_seconds
from blendsim.serving.batcher import commit, schedule
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import Flavour
from blendsim.serving.state import State
from blendsim.steplog import COUNTS, TIMES

_FIRST_ROWS = 1 << 14


@kernel
def run_steps(
    state: State,
    costs: StepCosts,
    start: float,
    until: float,
    counts: NDArray[np.int64],
    times: NDArray[np.float64],
) -> int:
    """Run steps from time `start` until all is done, `until` is passed or the log's rows are full.

    Writes one row a step into `counts` (rows, COUNTS) and `times` (rows, TIMES, seconds); returns
    the rows written, or −1 − rows if a step computed nothing although requests are left.
    """
    now = start
    for row in range(len(counts)):
        if state.scalars[0].done == len(state.requests) or now >= until:
            return row
        schedule(state)
        step = state.counts
        if step[0] + step[3] == 0:
            return -1 - row
        took = step_seconds(costs, step)
        commit(state)
        counts[row] = step
        times[row, 0] = now
        times[row, 1] = took.seconds
        times[row, 2] = took.compute
        times[row, 3] = took.memory
        times[row, 4] = took.network
        now += took.seconds
    return len(counts)


class Replica:
    """A ServingCore that advances in simulated time and keeps its step log."""

    def __init__(self, core: ServingCore, model: StepModel, flavour: Flavour) -> None:
        self.core = core
        self.now = 0.0  # seconds
        self._costs = step_costs(
            model, flavour.overlaps, flavour.overlaps_network, flavour.nano_batches
        )
        self._counts = np.empty((_FIRST_ROWS, len(COUNTS)), np.int64)
        self._times = np.empty((_FIRST_ROWS, len(TIMES)))
        self._rows = 0

    def advance(self, until: float = np.inf) -> float:
        """Run until done or until the first step that starts at or after `until`; returns the time
        reached.
        """
        while not self.core.is_done and self.now < until:
            if self._rows == len(self._counts):
                self._counts = np.concatenate([self._counts, np.empty_like(self._counts)])
                self._times = np.concatenate([self._times, np.empty_like(self._times)])
            rows = run_steps(
                self.core.state,
                self._costs,
                self.now,
                until,
                self._counts[self._rows :],
                self._times[self._rows :],
            )
            assert rows >= 0, (
                f"step {self._rows - 1 - rows}: nothing can run though requests are left"
            )
            self._rows += rows
            self.now = float(self._times[self._rows - 1, :2].sum())
        return self.now

    @property
    def counts(self) -> NDArray[np.int64]:
        """(steps, COUNTS) of the steps run so far."""
        return self._counts[: self._rows]

    @property
    def times(self) -> NDArray[np.float64]:
        """(steps, TIMES) of the steps run so far, seconds."""
        return self._times[: self._rows]
