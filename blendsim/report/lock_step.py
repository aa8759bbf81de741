"""Lock step: replicas that share experts meet in every layer, so that each waits for the others.

They are simulated apart, as if all of them did in each step what one does. Here steps that would be
at once are put together.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blendsim.perf.model import StepModel
from blendsim.steplog import StepLog


class LockStep(NamedTuple):
    """Seconds of a run whose replicas share experts."""

    waiting: float  # with experts as loaded as all their tokens load them
    longest: float  # where every step takes all of them as long as the longest of them alone


def lock_step(log: StepLog, model: StepModel) -> LockStep:
    """What a log's replicas take if they wait for each other, those that share experts having
    following numbers: their first steps are at once, their second ones are, and so on.

    A step takes what the slowest does by itself and what they do together: experts and exchange of
    the mean of their tokens, one that is done having none. Where kinds of work overlap both gain as
    the whole step does. A step that the engine cuts in pieces is taken here as if its experts and
    exchange ran once: cut, they take longer by what smaller sizes cost.
    """
    ranks = model.system.model.expert_ranks
    seconds, tokens = (
        log.time("seconds"),
        log.count("prefill_tokens") + log.count("decode_requests"),
    )
    kinds = ("compute_seconds", "memory_seconds", "network_seconds")
    alone = sum((log.time(name) for name in kinds), np.zeros(len(log)))
    gain = np.divide(seconds, alone, out=np.ones(len(log)), where=alone > 0)
    sizes = np.arange(len(model.joint_seconds))
    joint = np.interp(tokens, sizes, model.joint_seconds)
    own = np.maximum(seconds - gain * joint, 0.0)
    found = LockStep(0.0, 0.0)
    for team in np.unique(log.replica // ranks).tolist():
        rows = [np.flatnonzero(log.replica == team * ranks + rank) for rank in range(ranks)]
        mean = _at_once(tokens, rows).mean(axis=0)
        shared = np.interp(mean, sizes, model.joint_seconds) * _at_once(gain, rows).max(axis=0)
        waiting = float((_at_once(own, rows).max(axis=0) + shared).sum())
        longest = float(_at_once(seconds, rows).max(axis=0).sum())
        found = LockStep(max(found.waiting, waiting), max(found.longest, longest))
    return found


def _at_once(values: NDArray[np.generic], rows: list[NDArray[np.intp]]) -> NDArray[np.float64]:
    """(ranks, steps), the values of each replica's rows, 0 behind its last step."""
    found = np.zeros((len(rows), max(map(len, rows))))
    for of_rank, each in zip(found, rows, strict=True):
        of_rank[: len(each)] = values[each]
    return found
