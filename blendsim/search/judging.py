"""Judging schedules by several possible worlds, where lengths are not known.

What is best in one drawn world may be good only there: with 32 sampled videos of 327, long requests
were of 15,200 tokens in the mean of one world and of 28,500 in another's. So a schedule is run in
several and its time is the geometric mean of theirs, in which a world with few long answers counts
as much as one with many. Not all of them are run for all: who has fallen too far behind the best in
the first ones is given up. And of many that differ by chance one always looks best, so that what is
found is held against the best fixed policy once more, in worlds that had no part in finding it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from blendsim.arrays import Floats

JUDGING_WORLDS = 8
#: Of its logarithms of seconds, summed over the worlds that were run: who is this much behind the
#: best is given up. From world to world variations of `paced` moved by 0.2 to 2 % against each
#: other, the worst by 7 (trace2), so few that are given up would have come back.
GIVEN_UP = 0.05
SURE = 2.0  # standard errors of a mean gain that are not counted as gained (one-sided: 4 %)

_Key = TypeVar("_Key")


class Verdict(NamedTuple):
    """What a batch of schedules is worth."""

    seconds: list[float]  # typical of the worlds; of those given up: as far behind as they were
    logs: Floats  # (keys, worlds) logarithms of seconds; NaN from where a schedule was given up
    best: Floats  # (worlds,) of the best schedule so far


def judge(
    keys: Sequence[_Key],
    worlds: int,
    run: Callable[[list[tuple[_Key, int]]], Sequence[float]],
    best: Floats | None = None,
) -> Verdict:
    """Judge the schedules `keys`, each different, beside the `best` so far. `run` gives the seconds
    of pairs of a schedule and a world.
    """
    logs = np.full((len(keys), worlds), np.nan)
    behind = np.zeros(len(keys))  # of the mean logarithm, of those that are given up
    running = np.arange(len(keys))
    done = 0
    while done < worlds and len(running):
        upto = min(max(1, 2 * done), worlds)
        pairs = [(i, k) for i in running.tolist() for k in range(done, upto)]
        seconds = run([(keys[i], k) for i, k in pairs])
        for (i, k), took in zip(pairs, seconds, strict=True):
            logs[i, k] = np.log(took)
        mean = logs[running, :upto].mean(axis=1)
        # NOTE: not by the others of the batch, of which a search may run the first ones only.
        lead = mean.min() if best is None else best[:upto].mean()
        gap = mean - lead
        is_kept = gap * upto <= GIVEN_UP if upto < worlds else np.ones(len(gap), np.bool_)
        behind[running[~is_kept]] = gap[~is_kept]
        running = running[is_kept]
        done = upto
    score = logs.mean(axis=1)
    before = best
    for i in running.tolist():
        if best is None or score[i] < best.mean():
            best = logs[i]
    assert best is not None, "of a first batch somebody is best"
    given_up = np.setdiff1d(np.arange(len(keys)), running)
    score[given_up] = (best if before is None else before).mean() + behind[given_up]
    return Verdict(np.exp(score).tolist(), logs, best)


def sure_gain(usual: Floats, other: Floats) -> float:
    """What `other` surely gains over `usual` in the mean of such worlds, both (worlds,) logarithms
    of seconds in the same ones: the mean of the differences less SURE standard errors of it. −∞
    where one of them was given up. In a single world, as the true one is, it may lose yet.
    """
    gain = usual - other
    if np.isnan(gain).any():
        return -np.inf
    if not gain.any():
        return 0.0
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return float(gain.mean() - SURE * error)
