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
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blendsim.arrays import Bools, Floats, Ints
from blendsim.errors import InputError
from blendsim.request import Workload, from_lengths
from blendsim.traces.content import content, text_lines
from blendsim.traces.counts import (
    NO_REQUESTS,
    are_wrong,
    fault,
    is_no_limit,
    numbers,
    require_rows,
    shown,
)
from blendsim.traces.jsonl import require_new
from blendsim.traces.length_names import EXTRAS, Extras, are_lengths, find_names
from blendsim.traces.seam import Head, ReadOptions, Told, head, silent, source_name
from blendsim.traces.shared_prefixes import Prefixes, Rules, from_columns, require_pair
from blendsim.traces.times import arrivals, time_fault

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
        return f"CSV {self.prompt},{self.output}"

    def matches(self, head: Head) -> bool:
        """Whether the header names both length columns."""
        return {self.prompt, self.output} <= set(head.columns)

    def read(self, path: Path, options: ReadOptions, told: Told = silent) -> Workload:
        """The file as a workload that shares the prefixes it names, and nothing else."""
        columns = _columns(head(path).columns, self, path)
        data = content(path)
        table = _parse(path, data, columns, self)
        require_rows(table.num_rows, path)
        prompt, output = numbers(table, self.prompt), numbers(table, self.output)
        failed = (output == 0) & self.zero_is_failed
        wrong = ~failed & (are_wrong(prompt) | are_wrong(output))
        limit = np.zeros(len(prompt))
        if self.extras.max_tokens in columns:
            limit = np.nan_to_num(numbers(table, self.extras.max_tokens), nan=0.0)
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
            ids=_ids(table, path, self),
            origin=(str(path),),
            notes=notes,
        )
        workload = replace(workload, is_known=known, output_limit=limit.astype(np.int64))
        return _without_failed(workload, failed, path) if failed.any() else workload

    def _arrival(self, table: pa.Table, path: Path) -> tuple[Floats, tuple[str, ...]]:
        if self.arrival is None or self.arrival not in table.column_names:
            return np.zeros(table.num_rows), ()
        found = arrivals(table[self.arrival], self.arrival)
        if found is None:
            raise _first_fault(path, self)
        return found.seconds, tuple(f"{path}: {note}" for note in found.notes)


@dataclass(frozen=True, slots=True)
class NamedLengths:
    """CSV whose columns have any of the usual names, in upper or lower case."""

    name: str = "lengths-csv"
    expects: str = "CSV input_tokens,output_tokens or the like"

    def matches(self, head: Head) -> bool:
        """Whether the header names a prompt's and an output's length."""
        return are_lengths(head.columns)

    def read(self, path: Path, options: ReadOptions, told: Told = silent) -> Workload:
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
    columns = tuple(name for name in wanted if name is not None and name in header)
    for name in columns:
        if header.count(name) > 1:
            raise InputError(
                f"{path}, line 1: column {name!r} is twice in the header; rename or remove one"
            )
    require_pair(columns, form.extras, f"{path}, line 1")
    return columns


def _parse(path: Path, data: pa.Buffer, columns: tuple[str, ...], form: CsvFormat) -> pa.Table:
    from pyarrow import csv as arrow

    names = [name or f"unnamed {i}" for i, name in enumerate(head(path).columns)]
    counted = (form.prompt, form.output, form.extras.max_tokens, form.extras.prefix_tokens)
    floats = {name: pa.float64() for name in counted}
    texts = {name: pa.string() for name in columns if name not in floats}
    try:
        return arrow.read_csv(
            pa.BufferReader(data),
            read_options=arrow.ReadOptions(column_names=names, skip_rows=_header_line(path)),
            convert_options=arrow.ConvertOptions(
                include_columns=list(columns), column_types=floats | texts
            ),
        )
    except pa.ArrowInvalid as error:
        raise _first_fault(path, form, str(error)) from error


def _header_line(path: Path) -> int:
    """Number of the line that holds the header; blank lines may stand before it."""
    with text_lines(path) as lines:
        return next(number for number, line in enumerate(lines, start=1) if line.strip())


def _truths(table: pa.Table, path: Path, form: CsvFormat) -> Bools:
    if form.extras.is_known not in table.column_names:
        return np.zeros(table.num_rows, np.bool_)
    words = [_TRUTH.get(word.strip().lower()) for word in table[form.extras.is_known].to_pylist()]
    if None in words:
        raise _first_fault(path, form)
    return np.array(words, np.bool_)


def _prefixes(table: pa.Table, form: CsvFormat) -> Prefixes | None:
    if form.extras.prefix_id not in table.column_names:
        return None
    return from_columns(table[form.extras.prefix_id], numbers(table, form.extras.prefix_tokens))


def _ids(table: pa.Table, path: Path, form: CsvFormat) -> NDArray[np.str_] | None:
    if form.extras.id not in table.column_names:
        return None
    ids = np.array(table[form.extras.id].to_pylist(), np.str_)
    lacking = ids == ""
    if lacking.all():  # as where there is no such column
        return None
    if lacking.any() or len(np.unique(ids)) < len(ids):
        raise _first_fault(path, form)
    return ids


def _without_failed(workload: Workload, failed: Bools, path: Path) -> Workload:
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
        (form.extras.max_tokens, lambda text: None if is_no_limit(text) else fault(text, "limit")),
        (form.arrival, time_fault),
        (form.extras.is_known, lambda text: None if text.lower() in _TRUTH else _NO_TRUTH),
    ]
    rules = Rules(form.extras)
    ids: dict[str, str] = {}  # lines of those so far
    with text_lines(path) as lines:
        rows = csv.reader(lines)
        filled = _filled(rows, path)
        header = [name.strip() for name in next(filled).cells]
        row: _Row | None = None
        for row in filled:
            where = f"{path}, line {row.line}"
            if len(row.cells) != len(header):
                fields = f"{len(row.cells)} field{'' if len(row.cells) == 1 else 's'}"
                quoted = f", as a quote that opens here closes in line {row.last} only"
                return InputError(
                    f"{where}: has {fields}{quoted if row.last > row.line else ''}; the header has "
                    f"{len(header)}; mend the row"
                )
            raw = dict(zip(header, row.cells, strict=True))
            if form.extras.id in raw:
                _require_id(raw[form.extras.id], ids, f"{where}, column {form.extras.id!r}")
                ids[raw[form.extras.id].rstrip("\0")] = str(row.line)
            cells: dict[str | None, Any] = {name: cell.strip() for name, cell in raw.items()}
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
    if row is None:
        return InputError(f"{path}: {NO_REQUESTS}")
    why = found or f"its {form.arrival} values are written in different ways"
    return InputError(f"{path}: cannot be read as {form.name}: {' '.join(why.split())[:200]}")


class _Row(NamedTuple):
    cells: list[str]
    line: int  # that it begins in
    last: int  # that it ends in: later where there is a line end in quotes


def _filled(rows: Any, path: Path) -> Iterator[_Row]:
    """The rows that are not blank."""
    line = 1
    try:
        for row in rows:
            if row:
                yield _Row(row, line, rows.line_num)
            line = rows.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: is not CSV ({error}); mend it") from error


def _require_id(name: str, first: dict[str, str], where: str) -> None:
    """InputError beginning with `where` unless the id is new, or none in a file without."""
    name = name.rstrip("\0")  # NOTE: a column of text keeps no NUL at its end
    if first and ("" in first) != (name == ""):
        raise InputError(f"{where}: give all rows an id or none")
    if name:
        require_new(name, first, where)


def _is_zero(cells: dict[str | None, Any], form: CsvFormat) -> bool:
    try:
        return float(cells[form.output]) == 0
    except ValueError:
        return False
