"""StepLog: one row an engine step, the same from the simulator and from the GPU runtime.

Because both write this table, checking the performance model is subtracting two of them.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from blendsim.arrays import Bools, Floats, Ints
from blendsim.errors import InputError
from blendsim.files import replacing
from blendsim.soundness import (
    MOST_COUNT,
    MOST_SECONDS,
    is_whole,
    require_metadata,
    require_range,
)

SCHEMA_VERSION = 3
MEASURED_ROWS = "measured_rows"  # key of meta: rows of a sampled replay that were measured
_CLOCKS = 1e-5  # seconds by which clocks may differ
HALVED = "halved"  # key of meta: ranges [first, behind) of rows that our executor cut in two halves
NOT_COUNTED = "not_counted"  # key of meta: columns the engine does not tell

#: Counts of one step, in the order the serving core writes them. The first six are Batch's fields.
COUNTS: tuple[str, ...] = (
    "prefill_tokens",
    "prefill_requests",
    "prefill_pairs",
    "decode_requests",
    "context_tokens",
    "sampled_tokens",
    "hit_tokens",  # prompt tokens found in the KV cache by requests admitted for the first time
    "admitted",  # requests that entered (again, after a preemption, counts again)
    "finished",
    "preempted",  # requests thrown out
    "preempted_tokens",  # computed tokens lost by that
    "running",  # requests in the engine during the step
    "waiting",
    "held_blocks",  # KV blocks in use by running requests, shared ones once
    "cached_blocks",  # cached KV blocks that no running request reads
    "left_tokens",  # KV tokens reserved by the compute-heavy end (dual scan)
    "right_tokens",  # and by the memory-heavy end
    "stored_blocks",  # KV blocks that go to host memory
    "loaded_blocks",  # and come back from it
    "shared_reads",  # of context_tokens, those that cascade attention does not read again
)
TIMES: tuple[str, ...] = (
    "start",  # seconds from the run's beginning
    "seconds",  # duration of the step
    "compute_seconds",  # of which compute-bound work, alone
    "memory_seconds",  # decode attention, alone
    "network_seconds",  # all-reduces between GPUs, and exchange of shared experts, alone
    "link_seconds",  # KV blocks to and from host memory, the slower direction, alone
)
_SCHEMA = pa.schema(
    [("replica", pa.int32())]
    + [(name, pa.float64()) for name in TIMES]
    + [(name, pa.int64()) for name in COUNTS]
)


@dataclass(frozen=True, slots=True, eq=False)
class StepLog:
    """Columns of `COUNTS` (int64) and `TIMES` (float64, seconds), one row a step, plus the replica
    of each row.
    """

    counts: Ints  # (steps, len(COUNTS))
    times: Floats  # (steps, len(TIMES))
    replica: NDArray[np.int32]  # (steps,)
    meta: Mapping[str, Any]  # where it came from: plan, specs, profile, versions

    def __len__(self) -> int:
        return len(self.replica)

    def count(self, name: str) -> Ints:
        """One counts column."""
        return self.counts[:, COUNTS.index(name)]

    def time(self, name: str) -> Floats:
        """One times column, seconds."""
        return self.times[:, TIMES.index(name)]

    @property
    def tokens(self) -> Ints:
        """(steps,), tokens through the layers."""
        return self.count("prefill_tokens") + self.count("decode_requests")

    @property
    def end(self) -> float:
        """Seconds until the last replica ends; 0 for an empty log."""
        return float((self.time("start") + self.time("seconds")).max(initial=0.0))

    @property
    def is_timed(self) -> Bools:
        """(steps,), whether `seconds` were found for the row itself, on a machine or by simulating:
        everywhere but in a sampled replay, which lists its rows in `meta` and estimates the others.
        """
        rows = self.meta.get(MEASURED_ROWS)
        if rows is None:
            return np.ones(len(self), np.bool_)
        timed = np.zeros(len(self), np.bool_)
        timed[np.array(rows, np.int64)] = True
        return timed

    @property
    def paces(self) -> Floats:
        """(steps,), seconds from a step's start to the next one's of its replica: with what lies
        between them. `seconds` where no step follows, or not all steps were timed.
        """
        found = self.time("seconds").copy()
        if MEASURED_ROWS in self.meta:
            return found
        start = self.time("start")
        for replica in np.unique(self.replica):
            rows = np.flatnonzero(self.replica == replica)
            found[rows[:-1]] = np.maximum(found[rows[:-1]], np.diff(start[rows]))
        return found

    @property
    def is_halved(self) -> Bools:
        """(steps,), whether the step was cut in two halves, as far as the log says so."""
        halved = np.zeros(len(self), np.bool_)
        for first, behind in self.meta.get(HALVED, ()):
            halved[first:behind] = True
        return halved


def row_ranges(rows: Bools) -> list[list[int]]:
    """The rows of a mask as ranges [first, behind), as a log's meta tells them."""
    edges = np.flatnonzero(np.diff(rows.astype(np.int8), prepend=0, append=0))
    ranges: list[list[int]] = edges.reshape(-1, 2).tolist()
    return ranges


def write_steplog(log: StepLog, path: Path | str) -> None:
    """Write `log` as Parquet (schema in docs/steplog.md)."""
    columns: dict[str, pa.Array] = {"replica": pa.array(log.replica)}
    columns |= {name: pa.array(log.time(name)) for name in TIMES}
    columns |= {name: pa.array(log.count(name)) for name in COUNTS}
    meta = {
        b"blendsim": json.dumps(
            {"schema": "steplog", "version": SCHEMA_VERSION, **log.meta}
        ).encode()
    }
    write_parquet(pa.table(columns).replace_schema_metadata(meta), Path(path))


def read_steplog(path: Path | str) -> StepLog:
    """Read what `write_steplog` wrote. InputError for other files, newer schemas, values that no
    run has, and where a replica begins a step before its last one has ended. Of a sampled replay,
    whose other seconds are guessed, that is not required.
    """
    path = Path(path)
    table, meta = read_table(path, "steplog", SCHEMA_VERSION)
    require_columns(table, _SCHEMA, path)
    require_metadata(meta, len(table), path)
    for name in _SCHEMA.names:
        most = MOST_SECONDS if name in TIMES else MOST_COUNT
        require_range(name, table[name].to_numpy(), most, path)
    log = StepLog(
        counts=np.column_stack([table[name].to_numpy() for name in COUNTS]),
        times=np.column_stack([table[name].to_numpy() for name in TIMES]),
        replica=table["replica"].to_numpy(),
        meta=meta,
    )
    if log.is_timed.all():
        _require_in_order(log, path)
    return log


def _require_in_order(log: StepLog, path: Path) -> None:
    start = log.time("start")
    ended = start + log.time("seconds")
    follows = log.replica[1:] == log.replica[:-1]
    is_early = follows & (start[1:] < ended[:-1] - (_CLOCKS + 1e-9 * ended[:-1]))
    for row in np.flatnonzero(is_early)[:1].tolist():
        raise InputError(
            f"{path}: row {row + 1:,} (from 0) begins at {start[row + 1]:.6g} s, before the step "
            f"ahead of it ends, at {ended[row]:.6g} s; run it again"
        )


def write_parquet(table: pa.Table, path: Path, **options: Any) -> None:
    """Write a table, as a whole or not at all."""
    # NOTE: opened by us: Arrow wants names in UTF-8.
    with replacing(path) as temporary, temporary.open("wb") as file:
        pq.write_table(table, file, compression="zstd", **options)


def require_columns(table: pa.Table, schema: pa.Schema, path: Path) -> None:
    """InputError unless the table has the columns of `schema`, of its types and without gaps."""
    for field in schema:
        if field.name not in table.column_names:
            raise InputError(f"{path}: lacks column {field.name!r}; write it with blendsim again")
        column = table[field.name]
        if column.type != field.type:
            raise InputError(
                f"{path}, column {field.name!r}: has {column.type}; {field.type} is needed"
            )
        if column.null_count:
            row = column.is_null().index(True).as_py()
            raise InputError(
                f"{path}, column {field.name!r}: has {column.null_count:,} missing values, the "
                f"first in row {row:,} (from 0); {field.type} without gaps is needed"
            )


class TableFile(NamedTuple):
    """A Parquet file, opened: its columns can be read at once or piece by piece."""

    path: Path
    schema: str
    file: pq.ParquetFile
    names: tuple[str, ...]  # of its columns, each once
    meta: dict[str, Any]

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All columns, or these; InputError for damaged ones."""
        with _readable(self.path, self.schema):
            table = self.file.read(columns, use_threads=False)
            table.validate(full=True)  # texts are UTF-8, lists end where they say
            return table

    def pieces(self, column: str) -> Iterator[pa.Array]:
        """A column part by part, each let go of before the next: lists take several times their
        size while Arrow reads them.
        """
        for group in range(self.file.num_row_groups):
            with _readable(self.path, self.schema):
                table = self.file.read_row_group(group, [column], use_threads=False)
                table.validate(full=True)
            yield from (piece for piece in table[column].chunks if len(piece))


@contextmanager
def _readable(path: Path, schema: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a directory; give a {schema} file") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(
            f"{path}: not a Parquet file blendsim can read; give a {schema} file"
        ) from error


def read_table(
    path: Path, schema: str, version: int, columns: Sequence[str] | None = None
) -> tuple[pa.Table, dict[str, Any]]:
    """A Parquet table of ours, or these `columns` of it, and its metadata, or InputError if it is
    another file or of an unknown version.
    """
    file = open_table(path, schema, version)
    return file.read(columns), file.meta


def open_table(path: Path, schema: str, version: int, others: str = "") -> TableFile:
    """The same with its columns still to be read; `others` says what to do with Parquet that is not
    ours.
    """
    opened = open_parquet(path, schema, "write it with blendsim again")
    raw = (opened.file.schema_arrow.metadata or {}).get(b"blendsim", b"{}")
    try:
        meta = dict(json.loads(raw))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: its blendsim metadata are damaged ({error}); give a {schema} file"
        ) from error
    if meta.get("schema") != schema:
        foreign = f": {others}" if others and not meta else ""
        raise InputError(
            f"{path}: holds {meta.get('schema', 'no blendsim table')!r}; "
            f"a {schema} file is needed here{foreign}"
        )
    found = meta.get("version")
    if found != version:
        mend = "make it again" if is_whole(found, most=version) else "upgrade"
        raise InputError(
            f"{path}: {schema} schema version {found}, this blendsim reads {version}; {mend}"
        )
    return opened._replace(meta=meta)


def open_parquet(path: Path, schema: str, mend: str = "write it again with one") -> TableFile:
    """A Parquet file of anybody, whose metadata are not looked at; an error calls it a file of that
    `schema`, and says how to `mend` columns of one name.
    """
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise InputError(f"{path}: is a pipe or device, read more than once; save it as a file")
    with _readable(path, schema):
        # NOTE: read by us, not by Arrow, which takes a directory for a table in parts and wants
        # names in UTF-8. And on no thread of Arrow's, as `pq.read_table` is even without
        # use_threads: one that still lets go of the bytes when the interpreter ends aborts it.
        file = pq.ParquetFile(pa.BufferReader(path.read_bytes()), pre_buffer=False)
        names = Counter(map(str, file.schema_arrow.names))  # they are UTF-8, too
    for name, times in names.items():
        if times > 1:
            raise InputError(f"{path}: has {times} columns {name!r}; {mend}")
    return TableFile(path, schema, file, tuple(names), {})
