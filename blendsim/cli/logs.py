"""Step logs as commands that compare or tell of them read them."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blendsim.steplog import StepLog

_CLOCKS = 1e-5  # seconds by which clocks may differ


def read_log(path: Path) -> "StepLog":
    """The log at `path`. InputError for what is none, and where a replica begins a step before its
    last one has ended, which no run does. Of a sampled replay, whose other seconds are guessed,
    that is not required.
    """
    import numpy as np

    from blendsim.errors import InputError
    from blendsim.steplog import read_steplog

    log = read_steplog(path)
    if not log.is_timed.all():
        return log
    start = log.time("start")
    ended = start + log.time("seconds")
    follows = log.replica[1:] == log.replica[:-1]
    is_early = follows & (start[1:] < ended[:-1] - (_CLOCKS + 1e-9 * ended[:-1]))
    for row in np.flatnonzero(is_early)[:1].tolist():
        raise InputError(
            f"{path}: row {row + 1:,} (from 0) begins at {start[row + 1]:.6g} s, before the step "
            f"ahead of it ends, at {ended[row]:.6g} s; run it again"
        )
    return log
