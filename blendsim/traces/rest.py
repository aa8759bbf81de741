"""What is left of a batch whose run broke off: requests with an answer in its results leave the
pool, and all that stays of them is how long they answered.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from blendsim.arrays import Bools
from blendsim.errors import InputError
from blendsim.request import Workload, select, set_apart
from blendsim.traces.results import Results


def left(workloads: Sequence[Workload], results: Results, path: Path) -> list[Workload]:
    """The workloads without the requests that the results at `path` answer, and a note on each that
    has some. InputError where nothing is left.
    """
    kept = [_left(workload, results, path) for workload in workloads]
    if not any(len(workload) for workload in kept):
        count, origin = sum(map(len, workloads)), ", ".join(o for w in workloads for o in w.origin)
        raise InputError(
            f"{path}: has an answer to {_each(count)} of {origin}, so nothing is left to plan; "
            "leave --rest out to plan all of it again"
        )
    torn = [
        f"{where}: is torn, as by a run that was killed, and left out" for where in results.torn
    ]
    return [replace(kept[0], notes=(*torn, *kept[0].notes)), *kept[1:]]


def require_results(path: Path | None) -> None:
    """InputError unless there are results that say what is answered."""
    if path is None:
        raise InputError(
            "--rest plans what has no answer yet: name the results of the run that broke off with "
            "--lengths, or leave --rest out"
        )


def is_answered(workload: Workload, results: Results) -> Bools:
    """(n,) requests that have an answer."""
    names = workload.ids.tolist()
    return np.array([name in results.lengths or name in results.bare for name in names], np.bool_)


def _left(workload: Workload, results: Results, path: Path) -> Workload:
    answered = is_answered(workload, results)
    count = int(answered.sum())
    if not count:
        return workload
    # NOTE: who is set apart tells how long answers are; an answer without a count tells nothing.
    tells = ~answered | workload.has_output
    kept = workload if tells.all() else select(workload, tells)
    rest = set_apart(kept, answered[tells])
    note = (
        f"{', '.join(workload.origin)}: {count:,} of {len(workload):,} requests "
        f"{'is' if count == 1 else 'are'} answered in {path} and left out"
    )
    failed = len(results.failed.intersection(rest.ids.tolist()))
    if failed:
        have = "has" if failed == 1 else "have"
        note += f"; {failed:,} of the {len(rest):,} left {have} an error there"
    if rest.answered is not None and not rest.has_output.all():
        note += "; what is left is expected to answer as they did"
    return replace(rest, notes=(*rest.notes, note))


def _each(count: int) -> str:
    return "the only request" if count == 1 else f"all {count:,} requests"
