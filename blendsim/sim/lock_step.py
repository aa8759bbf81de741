"""Lock step: replicas that share experts meet in every layer, so that each waits for the others.

What a step computes hangs on the steps before it and not on the clock, since all requests are there
at the start. So replicas are simulated apart, as if all of them did in each step what one does, and
their steps are put together here: the first of all at once, then the second, and so on.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from blendsim.arrays import Floats
from blendsim.perf.model import StepModel
from blendsim.steplog import TIMES, StepLog

ALONE = "alone_seconds"  # key of meta: until the last ends if none waits
LONGEST = "longest_seconds"  # if each step takes all as long as the longest of them alone
_START, _SECONDS = TIMES.index("start"), TIMES.index("seconds")


def in_lock_step(log: StepLog, model: StepModel) -> StepLog:
    """The run of a log in which no replica waited. Those that share experts have following numbers;
    each is in as many steps as it has, which begin and end for all of them at once.

    A step takes what the slowest does by itself and what they do together: experts and exchange of
    the mean of their tokens, one that is done having none. Where kinds of work overlap both gain as
    the whole step does. A step that an engine cuts in pieces is taken here as if its experts and
    exchange ran once: cut, they take longer by what smaller sizes cost.
    """
    ranks = model.system.model.expert_ranks
    seconds, tokens = log.time("seconds"), log.tokens
    kinds = ("compute_seconds", "memory_seconds", "network_seconds")
    alone = sum((log.time(name) for name in kinds), np.zeros(len(log)))
    gain = np.divide(seconds, alone, out=np.ones(len(log)), where=alone > 0)
    sizes = np.arange(len(model.joint_seconds))
    joint = np.interp(tokens, sizes, model.joint_seconds)
    own = np.maximum(seconds - gain * joint, 0.0)
    times, longest = log.times.copy(), 0.0
    for team in np.unique(log.replica // ranks).tolist():
        rows = [np.flatnonzero(log.replica == team * ranks + rank) for rank in range(ranks)]
        mean = _at_once(tokens, rows).mean(axis=0)
        shared = np.interp(mean, sizes, model.joint_seconds) * _at_once(gain, rows).max(axis=0)
        together = _at_once(own, rows).max(axis=0) + shared
        start = np.cumsum(together) - together
        for each in rows:
            times[each, _START] = start[: len(each)]
            times[each, _SECONDS] = together[: len(each)]
        longest = max(longest, float(_at_once(seconds, rows).max(axis=0).sum()))
    return replace(log, times=times, meta={**log.meta, ALONE: log.end, LONGEST: longest})


def _at_once(values: NDArray[np.generic], rows: list[NDArray[np.intp]]) -> Floats:
    """(ranks, steps), the values of each replica's rows, 0 behind its last step."""
    found = np.zeros((len(rows), max(map(len, rows))))
    for of_rank, each in zip(found, rows, strict=True):
        of_rank[: len(each)] = values[each]
    return found
