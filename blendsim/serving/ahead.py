"""Running the core ahead: every step's counts, or a few steps to look at, with nothing executed.

Output lengths are forced, so what a core schedules never waits for a token or a clock.
"""

from collections.abc import Iterator

import numpy as np

from blendsim.arrays import Ints
from blendsim.compiled import kernel
from blendsim.serving.columns import keep_counts, step_tokens
from blendsim.serving.core import ServingCore
from blendsim.serving.state import State
from blendsim.serving.step import StepKind, commit, has_work, schedule
from blendsim.steplog import COUNTS

_ROWS = 1 << 14  # steps a compiled call


@kernel
def advance(kind: StepKind, state: State, counts: Ints) -> int:
    """Run one step a row of `counts` (rows, COUNTS), or until all is done; returns the steps run,
    or −1 − steps if the next one would compute nothing although requests are left.
    """
    for row in range(len(counts)):
        if not has_work(kind, state):
            return row
        schedule(kind, state)
        if step_tokens(state.counts) == 0:
            return -1 - row
        commit(kind, state)
        keep_counts(counts, row, state.counts)
    return len(counts)


def all_counts(core: ServingCore) -> Ints:
    """(steps, COUNTS) of the whole run; the core is done afterwards."""
    parts = []
    while not core.is_done:
        rows = np.empty((_ROWS, len(COUNTS)), np.int64)
        parts.append(rows[: _advance(core, rows)])
    core.check()
    return np.concatenate(parts) if parts else np.empty((0, len(COUNTS)), np.int64)


def visit(core: ServingCore, steps: Ints) -> Iterator[int]:
    """Bring a fresh core to each of `steps` (ascending) and yield while that one is scheduled and
    not committed.
    """
    scratch = np.empty((_ROWS, len(COUNTS)), np.int64)
    now = 0
    for step in steps.tolist():
        while now < step:
            rows = _advance(core, scratch[: step - now])
            assert rows > 0, f"the run has no step {step}, it ends after {now}"
            now += rows
        core.step()
        yield step
        core.commit()
        now += 1


def _advance(core: ServingCore, rows: Ints) -> int:
    done = int(advance(core.kind, core.state, rows))
    assert done >= 0, f"step {-1 - done}: nothing can run though requests are left"
    return done
