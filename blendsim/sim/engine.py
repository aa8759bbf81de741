"""One simulated replica: the serving core with a clock and a performance model, many steps inside
one compiled call.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from blendsim.arrays import Floats, Ints
from blendsim.compiled import kernel
from blendsim.perf.model import StepModel
from blendsim.perf.step import StepCosts, StepTimes, step_seconds
from blendsim.serving import batcher
from blendsim.serving.columns import (
    FINISHED,
    LOADED_BLOCKS,
    PREEMPTED,
    PREEMPTED_TOKENS,
    STORED_BLOCKS,
    keep_counts,
    step_tokens,
)
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import Flavour
from blendsim.serving.handover import can_receive
from blendsim.serving.state import NONE, State
from blendsim.serving.step import StepKind, commit, has_work, schedule
from blendsim.sim.pipeline import new_stages, run_pipeline
from blendsim.steplog import COUNTS, TIMES
from blendsim.system import HostMemory

_FIRST_ROWS = 1 << 14
_FEW_ROWS = 1 << 12  # without a log: written over again and again
#: A log that is full grows eightfold to this, then twofold: little is copied, and what is never
#: written takes no memory where the system gives it late.
_LARGE_LOG = 1 << 20
_LOST = [PREEMPTED, PREEMPTED_TOKENS]


@kernel
def link_seconds(link: Floats, step: Ints) -> float:
    """Seconds of a step's transfers to or from host memory, the slower direction."""
    moved = max(step[STORED_BLOCKS], step[LOADED_BLOCKS])
    return moved * link[0] + link[1] if moved > 0 else 0.0


@kernel
def note_times(times: Floats, now: float, took: StepTimes, transfer: float) -> float:
    """Fill one row of the log's TIMES; returns when the step ends."""
    times[0] = now
    times[1] = max(took.seconds, transfer)
    times[2] = took.compute
    times[3] = took.memory
    times[4] = took.network
    times[5] = transfer
    return float(now + times[1])


@kernel
def run_steps(
    kind: StepKind,
    state: State,
    costs: StepCosts,
    start: float,
    until: float,
    counts: Ints,
    times: Floats,
    link: Floats,
) -> int:
    """Run steps of a kind from time `start` until all is done, `until` is passed or the log's rows
    are full.

    `link` holds the seconds a KV block takes to or from host memory, and those of a message. A
    step's transfers run beside it, in both directions at once.

    Writes one row a step into `counts` (rows, COUNTS) and `times` (rows, TIMES, seconds); returns
    the rows written, or −1 − rows if a step computed nothing although requests are left.
    """
    now = start
    for row in range(len(counts)):
        if now >= until or not has_work(kind, state):
            return row
        schedule(kind, state)
        step = state.counts
        if step_tokens(step) == 0:
            return -1 - row
        took = step_seconds(costs, step)
        transfer = link_seconds(link, step)
        commit(kind, state)
        keep_counts(counts, row, step)
        now = note_times(times[row], now, took, transfer)
    return len(counts)


@kernel
def run_to_message(
    state: State,
    costs: StepCosts,
    start: float,
    until: float,
    counts: Ints,
    times: Floats,
    offered: int,
) -> int:
    """`run_steps` for a replica of a prefill or decode pool: it also stops after a step in which a
    prompt ended, or when there is room for the `offered` request (NONE: nothing is offered).

    Pools make the batcher's steps alone. One that can compute nothing is no fault here: something
    outside has to happen first.
    """
    now = start
    for row in range(len(counts)):
        if now >= until or not batcher.has_work(state):
            return row
        batcher.schedule(state)
        step = state.counts
        if step_tokens(step) == 0:
            return row
        took = step_seconds(costs, step)
        batcher.commit(state)
        keep_counts(counts, row, step)
        now = note_times(times[row], now, took, 0.0)
        if state.scalars[0].completed > 0 or (offered != NONE and can_receive(state, offered)):
            return row + 1
    return len(counts)


def _grown(rows: NDArray[Any]) -> NDArray[Any]:
    growth = 8 if len(rows) < _LARGE_LOG else 2
    more = np.empty((growth * len(rows), rows.shape[1]), rows.dtype)
    more[: len(rows)] = rows
    return more


class Replica:
    """A ServingCore that advances in simulated time and keeps its step log, or only the rows of the
    last steps where nobody will read it.
    """

    def __init__(
        self,
        core: ServingCore,
        model: StepModel,
        flavour: Flavour,
        host: HostMemory | None = None,
        keeps_log: bool = True,
    ) -> None:
        self.core = core
        self.now = 0.0  # seconds
        self._keeps_log = keeps_log
        self._costs = flavour.costs(model)
        self._link = np.zeros(2)
        if host is not None:
            self._link[:] = host.seconds_per_block(model.system), host.link.latency
        is_pipelined = bool(core.state.microbatches)
        self._stages = new_stages(model.system) if is_pipelined else None
        rows = _FIRST_ROWS if keeps_log else _FEW_ROWS
        self._counts = np.empty((rows, len(COUNTS)), np.int64)
        self._times = np.empty((rows, len(TIMES)))
        self._rows = 0
        self._unlogged = np.zeros(len(_LOST), np.int64)

    def advance(self, until: float = np.inf) -> float:
        """Run until done or until the first step that starts at or after `until`; returns the time
        reached.
        """
        while not self.core.is_done and self.now < until:
            counts, times = self._free_rows()
            kind, state = self.core.kind, self.core.state
            if self._stages is None:
                rest = (self._costs, self.now, until, counts, times, self._link)
                rows = run_steps(kind, state, *rest)
            else:
                assert until == np.inf, "pipelines run to their end"
                stages = (self._costs, self._stages, self.now)
                rows = run_pipeline(kind, state, *stages, counts, times)
            assert rows >= 0, (
                f"step {self._rows - 1 - rows}: nothing can run though requests are left"
            )
            self._note(rows)
        return self.now

    def advance_to_message(self, until: float, offered: int = NONE) -> int:
        """Run until the first step that starts at or after `until`, a prompt ended, `offered` has
        room, or nothing can run; returns the steps run.
        """
        counts, times = self._free_rows()
        rows: int = run_to_message(
            self.core.state, self._costs, self.now, until, counts, times, offered
        )
        self._note(rows)
        # A step that computes nothing is not logged, but it may have thrown somebody out.
        step = self.core.state.counts
        if rows:
            self._counts[self._rows - rows, _LOST] += self._unlogged
            self._unlogged[:] = 0
        if step_tokens(step) == 0:
            self._unlogged += step[_LOST]
            step[_LOST] = 0
        return rows

    def uncount_finished(self, number: int) -> None:
        """Of those that finished in the last step, `number` go on elsewhere."""
        self._counts[self._rows - 1, FINISHED] -= number

    def _free_rows(self) -> tuple[Ints, Floats]:
        if not self._keeps_log:
            self._rows = 0
        elif self._rows == len(self._counts):
            self._counts, self._times = _grown(self._counts), _grown(self._times)
        return self._counts[self._rows :], self._times[self._rows :]

    def _note(self, rows: int) -> None:
        self._rows += rows
        if rows:
            self.now = float(self._times[self._rows - 1, :2].sum())

    @property
    def counts(self) -> Ints:
        """(steps, COUNTS) of the steps run so far."""
        return self._counts[: self._rows]

    @property
    def times(self) -> Floats:
        """(steps, TIMES) of the steps run so far, seconds."""
        return self._times[: self._rows]
