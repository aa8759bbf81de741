"""A step log cut into slices of equal time: what the engine worked on in each."""

from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats
from blendsim.steplog import StepLog


class Slices(NamedTuple):
    """One row a slice. Work is in seconds it would take alone; a slice has that of its steps."""

    start: Floats  # (k,), seconds from the run's beginning
    end: Floats
    compute: Floats  # GEMMs, small operators, prefill attention
    memory: Floats  # decode attention

    @property
    def ratio(self) -> Floats:
        """Compute over memory time, infinite where nothing is read."""
        with np.errstate(divide="ignore"):
            return self.compute / self.memory


def slices(log: StepLog, number: int) -> Slices:
    """The log of one replica in `number` slices. A step counts where it starts."""
    edges = np.linspace(0.0, log.end, number + 1)
    compute, memory = (
        np.histogram(log.time("start"), edges, weights=log.time(name))[0]
        for name in ("compute_seconds", "memory_seconds")
    )
    return Slices(edges[:-1], edges[1:], compute, memory)
