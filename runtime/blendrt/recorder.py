"""The step log while it grows: one row a step that has been executed, and no other."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from blendrt.clock import StepTime
from blendsim.steplog import COUNTS, TIMES, StepLog, row_ranges

#: A measured step has a start and a duration; how much of it was whose is not measured.
_TIMED = ("start", "seconds")


class Recorder:
    """Counts and times of executed steps. What it holds is a sound log at any moment."""

    def __init__(self) -> None:
        self._counts: list[list[int]] = []
        self._times: list[StepTime] = []
        self._replica: list[int] = []
        self._halved: list[bool] = []

    def __len__(self) -> int:
        return len(self._times)

    def add(
        self, replica: int, counts: Mapping[str, int], time: StepTime, is_halved: bool = False
    ) -> None:
        """One more executed step, and whether it was cut in two halves."""
        self._counts.append([counts[name] for name in COUNTS])
        self._times.append(time)
        self._replica.append(replica)
        self._halved.append(is_halved)

    @property
    def halved(self) -> list[list[int]]:
        """Rows of steps that were cut in two halves, as a log's meta tells them."""
        return row_ranges(np.array(self._halved, np.bool_))

    def log(self, meta: Mapping[str, Any]) -> StepLog:
        """The steps so far."""
        times = np.zeros((len(self), len(TIMES)))
        times[:, [TIMES.index(name) for name in _TIMED]] = np.array(self._times).reshape(-1, 2)
        return StepLog(
            counts=np.array(self._counts, np.int64).reshape(-1, len(COUNTS)),
            times=times,
            replica=np.array(self._replica, np.int32),
            meta=meta,
        )
