"""A pool's files, read: what is wrong with how they were named is said before what is wrong in
them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from blendsim.errors import InputError

if TYPE_CHECKING:  # nothing heavy before a command runs
    from blendsim.request import Workload
    from blendsim.traces.seam import ReadOptions, Told
    from blendsim.traces.workload_file import Lines

_PARQUET = b"PAR1"


def load_files(traces: Sequence[str], read: "ReadOptions", told: "Told") -> "Workload":
    """The pool of all traces; `told` hears how far reading is. InputError for a file that cannot be
    read, or is given by the wrong option.
    """
    from blendsim.traces.load import load_pool

    if read.lengths is not None:
        _require_results(read.lengths)
    with _results_told(traces):
        return load_pool(traces, read, told)


def load_trace(trace: str, read: "ReadOptions", told: "Told") -> "Workload":
    """What one trace holds by itself, without results of an earlier run."""
    from blendsim.traces.load import read_trace

    with _results_told([trace]):
        return read_trace(trace, read, told)


def saved_lines(trace: str, read: "ReadOptions") -> "Lines | None":
    """What a workload saved from `trace` is to remember of its lines; None if none is a request."""
    from blendsim.files import sha256
    from blendsim.traces.load import DEMO_PREFIX
    from blendsim.traces.raw_lines import line_file
    from blendsim.traces.workload_file import Lines

    if trace.startswith(DEMO_PREFIX):
        return None
    with _results_told([trace]):
        file = line_file(Path(trace), read.format)
    return None if file is None else Lines(str(file.path), sha256(file.path), file.form.name)


@contextmanager
def _results_told(traces: Sequence[str]) -> Iterator[None]:
    """Say what is wrong where one of the traces is the results of a batch."""
    try:
        yield
    except InputError as error:
        for trace in traces:
            if _is_results(trace):
                raise InputError(
                    f"{trace}: looks like the results of a batch; give them with --lengths, and "
                    "the batch itself as the trace"
                ) from error
        raise


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
