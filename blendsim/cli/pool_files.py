"""A pool's files, read: what is wrong with how they were named is said before what is wrong in
them, and how much of a results file belongs to other requests.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from blendsim.errors import InputError

if TYPE_CHECKING:  # nothing heavy before a command runs
    from blendsim.request import Workload
    from blendsim.traces.seam import ReadOptions

_PARQUET = b"PAR1"


def load_files(traces: Sequence[str], read: "ReadOptions") -> "Workload":
    """The pool of all traces. InputError for a file that cannot be read, or is given by the wrong
    option.
    """
    from blendsim.traces.load import load_pool

    if read.lengths is not None:
        _require_results(read.lengths)
    try:
        pool = load_pool(traces, read)
    except InputError as error:
        for trace in traces:
            if _is_results(trace):
                raise InputError(
                    f"{trace}: looks like the results of a batch; give them with --lengths, and "
                    "the batch itself as the trace"
                ) from error
        raise
    if read.lengths is None:
        return pool
    return _with_strangers(pool, read.lengths, are_several=len(traces) > 1)


def _require_results(path: Path) -> None:
    """InputError where a results file's beginning shows that it is none."""
    from blendsim.traces.seam import head

    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path}: holds no results; give --lengths those of an earlier run")
    beginning = head(path)
    if beginning.line.startswith(_PARQUET):
        raise InputError(
            f"{path}: is a Parquet file, not results; give --lengths the lines of a batch's results"
        )
    if beginning.keys >= {"custom_id", "body"}:
        raise InputError(
            f"{path}: holds no results (it is a batch file); give --lengths the results of an "
            "earlier run of it"
        )


def _is_results(trace: str) -> bool:
    """Whether a file begins as a batch's results do."""
    from blendsim.traces.seam import head

    path = Path(trace)
    try:
        return path.is_file() and head(path).keys >= {"custom_id", "response"}
    except InputError:
        return False


def _with_strangers(pool: "Workload", path: Path, *, are_several: bool) -> "Workload":
    """The pool with a note on results that belong to none of its requests."""
    from blendsim.traces.results import read_results

    results = read_results(path)
    ids = pool.ids.tolist()
    if are_several:  # behind their source's name
        names = pool.source_names
        prefixes = [len(names[source]) + 1 for source in pool.source.tolist()]
        ids = [name[skip:] for name, skip in zip(ids, prefixes, strict=True)]
    strangers = len(results.keys() - set(ids))
    if not strangers:
        return pool
    belong = "belongs" if strangers == 1 else "belong"
    note = (
        f"{strangers:,} of {len(results):,} results of {path} {belong} to no request of these "
        "traces"
    )
    return replace(pool, notes=(*pool.notes, note))
