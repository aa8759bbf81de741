"""CSV traces with lengths only: Azure, BurstGPT, Vidur's generic columns, and columns with any of
the usual names. One reader; a format is a row that names its columns.

Columns are parsed and checked as vectors. Only when something is wrong is the file walked row by
row, to say which line it was.
"""

import csv
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blendsim.errors import InputError
from blendsim.request import Ints, Workload, from_lengths
from blendsim.traces.content import content, text_lines
from blendsim.traces.counts import NO_REQUESTS, are_wrong, fault, require_rows, shown
from blendsim.traces.length_names import EXTRAS, OUTPUT, PROMPT, Extras, are_lengths, find_names
from blendsim.traces.seam import Head, ReadOptions, head, source_name
from blendsim.traces.shared_prefixes import Prefixes, Rules, from_columns, require_pair
from blendsim.traces.times import NO_TIME, arrivals, is_time

_TRUTH = {"true": True, "1": True, "false": False, "0": False, "": False}
_NO_TRUTH = "is neither true nor false; write one of them"


@dataclass(frozen=True, slots=True)
class CsvFormat:
    """Where one CSV format keeps prompt length, output length and arrival."""

    name: str
    prompt: str
    output: str
    arrival: str | None = None
    zero_is_failed: bool = False  # rows without output tokens are failed calls, to be left out
    extras: Extras = EXTRAS

    @property
    def expects(self) -> str:
        """The columns it is recognised by."""
        return f"CSV with columns {self.prompt},{self.output}"

    def matches(self, head: Head) -> bool:
        """Whether the header names both length columns."""
        return {self.prompt, self.output} <= set(head.columns)

    def read(self, path: Path, options: ReadOptions) -> Workload:
        """The file as a workload that shares the prefixes it names, and nothing else."""
        columns = _columns(head(path).columns, self, path)
        data = content(path)
        table = _parse(path, data, columns, self)
        require_rows(table.num_rows, path)
        prompt, output = _numbers(table, self.prompt), _numbers(table, self.output)
        failed = (output == 0) & self.zero_is_failed
        wrong = ~failed & (are_wrong(prompt) | are_wrong(output))
        limit = np.zeros(len(prompt))
        if self.extras.max_tokens in columns:
            limit = np.nan_to_num(_numbers(table, self.extras.max_tokens), nan=0.0)
        prefixes = _prefixes(table, self)
        if prefixes is not None:
            wrong |= prefixes.are_wrong(prompt, failed)
        if (wrong | are_wrong(limit, least=0)).any():
            raise _first_fault(path, self)
        known = _truths(table, path, self)
        arrival, notes = self._arrival(table, path)
        digest = hashlib.sha256(data).hexdigest()[:12]
        workload = from_lengths(
            np.where(failed, 1, prompt).astype(np.int64),
            np.where(failed, 1, output).astype(np.int64),
            source=source_name(path),
            prompts=None if prefixes is None else prefixes.prompts(path, digest, failed),
            arrival=arrival,
            ids=_ids(table, path, self.extras.id),
            origin=(str(path),),
            notes=notes,
        )
        workload = replace(workload, is_known=known, output_limit=limit.astype(np.int64))
        return _without_failed(workload, failed, path) if failed.any() else workload

    def _arrival(self, table: pa.Table, path: Path) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        if self.arrival is None or self.arrival not in table.column_names:
            return np.zeros(table.num_rows), ()
        found = arrivals(table[self.arrival], self.arrival, path)
        if found is None:
            raise _first_fault(path, self)
        return found


@dataclass(frozen=True, slots=True)
class NamedLengths:
    """CSV whose columns have any of the usual names, in upper or lower case."""

    name: str = "lengths-csv"
    expects: str = f"CSV with one column of {'/'.join(PROMPT)} and one of {'/'.join(OUTPUT)}"

    def matches(self, head: Head) -> bool:
        """Whether the header names a prompt's and an output's length."""
        return are_lengths(head.columns)

    def read(self, path: Path, options: ReadOptions) -> Workload:
        """The file as any other CSV format, once it is known what its columns are called."""
        names = find_names(head(path).columns, f"{path}, line 1")
        form = CsvFormat(self.name, names.prompt, names.output, names.arrival, extras=names.extras)
        return form.read(path, options)


AZURE = CsvFormat("azure-csv", "ContextTokens", "GeneratedTokens", "TIMESTAMP")
BURSTGPT = CsvFormat("burstgpt-csv", "Request tokens", "Response tokens", "Timestamp", True)
VIDUR = CsvFormat("vidur-csv", "num_prefill_tokens", "num_decode_tokens", "arrived_at")
LENGTHS_CSV = NamedLengths()
CSV_FORMATS = (AZURE, BURSTGPT, VIDUR, LENGTHS_CSV)  # in the order in which they are tried


def _columns(header: tuple[str, ...], form: CsvFormat, path: Path) -> tuple[str, ...]:
    """The columns to read, of those the file has."""
    for name in (form.prompt, form.output):
        if header.count(name) != 1:
            found = "twice" if name in header else "not"
            raise InputError(
                f"{path}, line 1: column {name!r} is {found} in the header; {form.name} needs it "
                "once"
            )
    wanted = (form.prompt, form.output, form.arrival, *form.extras)
    columns = tuple(name for name in wanted if name is not None and header.count(name) == 1)
    require_pair(columns, form.extras, f"{path}, line 1")
    return columns


def _parse(path: Path, data: pa.Buffer, columns: tuple[str, ...], form: CsvFormat) -> pa.Table:
    from pyarrow import csv as arrow

    names = [name or f"unnamed {i}" for i, name in enumerate(head(path).columns)]
    counted = (form.prompt, form.output, form.extras.max_tokens, form.extras.prefix_tokens)
    numbers = {name: pa.float64() for name in counted}
    texts = {name: pa.string() for name in columns if name not in numbers}
    try:
        return arrow.read_csv(
            pa.BufferReader(data),
            read_options=arrow.ReadOptions(column_names=names, skip_rows=_header_line(path)),
            convert_options=arrow.ConvertOptions(
                include_columns=list(columns), column_types=numbers | texts
            ),
        )
    except pa.ArrowInvalid as error:
        raise _first_fault(path, form, str(error)) from error


def _header_line(path: Path) -> int:
    """Number of the line that holds the header; blank lines may stand before it."""
    with text_lines(path) as lines:
        return next(number for number, line in enumerate(lines, start=1) if line.strip())


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(table[name].to_numpy(zero_copy_only=False), np.float64)


def _truths(table: pa.Table, path: Path, form: CsvFormat) -> NDArray[np.bool_]:
    if form.extras.is_known not in table.column_names:
        return np.zeros(table.num_rows, np.bool_)
    words = [_TRUTH.get(word.strip().lower()) for word in table[form.extras.is_known].to_pylist()]
    if None in words:
        raise _first_fault(path, form)
    return np.array(words, np.bool_)


def _prefixes(table: pa.Table, form: CsvFormat) -> Prefixes | None:
    if form.extras.prefix_id not in table.column_names:
        return None
    return from_columns(table[form.extras.prefix_id], _numbers(table, form.extras.prefix_tokens))


def _ids(table: pa.Table, path: Path, column: str) -> NDArray[np.str_] | None:
    if column not in table.column_names:
        return None
    ids = np.array(table[column].to_pylist(), np.str_)
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"{path}, column {column!r}: {str(values[counts > 1][0])!r} names {counts.max()} rows; "
            "ids must be unique"
        )
    return ids


def _without_failed(workload: Workload, failed: NDArray[np.bool_], path: Path) -> Workload:
    from blendsim.request import select

    require_rows(int((~failed).sum()), path)
    note = (
        f"{path}: {int(failed.sum()):,} of {len(failed):,} rows are failed calls (no response "
        "tokens) and were left out"
    )
    kept: Ints = np.flatnonzero(~failed)
    return replace(select(workload, kept), notes=(*workload.notes, note))


def _first_fault(path: Path, form: CsvFormat, found: str = "") -> InputError:
    """The error for the first row that breaks a rule, found by walking the file."""
    checks: list[tuple[str | None, Callable[[str], str | None]]] = [
        (form.prompt, lambda text: fault(text, "prompt")),
        (form.output, lambda text: fault(text, "output")),
        (form.extras.max_tokens, lambda text: None if text in ("", "0") else fault(text, "limit")),
        (form.arrival, lambda text: None if is_time(text) else NO_TIME),
        (form.extras.is_known, lambda text: None if text.lower() in _TRUTH else _NO_TRUTH),
    ]
    rules = Rules(form.extras)
    with text_lines(path) as lines:
        rows = csv.reader(lines)
        filled = _filled(rows, path)
        header = [name.strip() for name in next(filled)]
        row: list[str] = []
        for row in filled:
            where = f"{path}, line {rows.line_num}"
            if len(row) != len(header):
                return InputError(
                    f"{where}: has {len(row)} fields, the header has {len(header)}; mend the row"
                )
            cells: dict[str | None, Any] = dict(zip(header, (x.strip() for x in row), strict=True))
            if (
                form.zero_is_failed
                and fault(cells[form.output], "output")
                and _is_zero(cells, form)
            ):
                continue
            for name, check in checks:
                reason = check(cells[name]) if name in cells else None
                if reason is not None:
                    return InputError(f"{where}, column {name!r}: {shown(cells[name])} {reason}")
            if form.extras.prefix_id in cells and form.extras.prefix_tokens in cells:
                prefix, tokens = cells[form.extras.prefix_id], cells[form.extras.prefix_tokens]
                said = rules.fault(prefix, tokens, float(cells[form.prompt]), where)
                if said is not None:
                    return InputError(said)
    if not row:
        return InputError(f"{path}: {NO_REQUESTS}")
    why = found or f"its {form.arrival} values are written in different ways"
    return InputError(f"{path}: cannot be read as {form.name}: {' '.join(why.split())[:200]}")


def _filled(rows: Any, path: Path) -> Iterator[list[str]]:
    """The rows that are not blank."""
    try:
        yield from (row for row in rows if row)
    except csv.Error as error:
        raise InputError(f"{path}, line {rows.line_num}: is not CSV ({error}); mend it") from error


def _is_zero(cells: dict[str | None, Any], form: CsvFormat) -> bool:
    try:
        return float(cells[form.output]) == 0
    except ValueError:
        return False
