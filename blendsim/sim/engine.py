"""One simulated replica: the serving core with a clock and a performance model, many steps inside
one compiled call.
"""

import numpy as np
from numpy.typing import NDArray

from blendsim.compiled import kernel
from blendsim.perf.kernels import StepTables, compute_seconds, memory_seconds, overlapped
from blendsim.perf.model import StepModel
from blendsim.perf.overlap import overlap_lines
from blendsim.serving.batcher import commit, schedule
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import Flavour
from blendsim.serving.state import State
from blendsim.specs import HostMemory
from blendsim.steplog import COUNTS, TIMES

STORED_BLOCKS = COUNTS.index("stored_blocks")
LOADED_BLOCKS = COUNTS.index("loaded_blocks")
LINK_SECONDS = TIMES.index("link_seconds")
_FIRST_ROWS = 1 << 14


@kernel
def run_steps(
    state: State,
    tables: StepTables,
    lines: NDArray[np.float64],
    start: float,
    until: float,
    counts: NDArray[np.int64],
    times: NDArray[np.float64],
    link: NDArray[np.float64],
) -> int:
    """Run steps from time `start` until all is done, `until` is passed or the log's rows are full.

    `link` holds the seconds a KV block takes to or from host memory, and those of a message. A
    step's transfers run beside it, in both directions at once.

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
        compute = compute_seconds(tables, step[0], step[1], step[2], step[3], step[5])
        memory = memory_seconds(tables, step[3], step[4])
        seconds = overlapped(lines, compute, memory)
        moved = max(step[STORED_BLOCKS], step[LOADED_BLOCKS])
        transfer = moved * link[0] + link[1] if moved > 0 else 0.0
        seconds = max(seconds, transfer)
        commit(state)
        counts[row] = step
        times[row, 0] = now
        times[row, 1] = seconds
        times[row, 2] = compute
        times[row, 3] = memory
        times[row, LINK_SECONDS] = transfer
        now += seconds
    return len(counts)


class Replica:
    """A ServingCore that advances in simulated time and keeps its step log."""

    def __init__(
        self,
        core: ServingCore,
        model: StepModel,
        flavour: Flavour,
        host: HostMemory | None = None,
    ) -> None:
        self.core = core
        self.now = 0.0  # seconds
        self._tables = model.tables
        # NOTE: an engine that runs one operator after another takes the sum, whatever the report's
        # overlap is.
        self._lines = model.lines if flavour.overlaps else overlap_lines("sum", model.system)
        self._link = np.zeros(2)
        if host is not None:
            self._link[:] = host.seconds_per_block(model.system), host.link.latency
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
                self._tables,
                self._lines,
                self.now,
                until,
                self._counts[self._rows :],
                self._times[self._rows :],
                self._link,
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
