"""Lengths as JSON Lines, by the same names as in CSV. The first object says which keys they are.

Columns are parsed and checked as vectors. Only where that fails are lines read one by one, which
can say what is wrong where, and reads what is merely unusual.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blendsim.arrays import Bools, Floats
from blendsim.errors import InputError
from blendsim.printable import printable
from blendsim.request import Workload, from_lengths
from blendsim.traces.content import content
from blendsim.traces.counts import are_wrong, numbers, require_rows, shown, whole
from blendsim.traces.jsonl import line_of, objects, read_columns, require_new
from blendsim.traces.length_names import LengthNames, are_lengths, find_names
from blendsim.traces.seam import Head, ReadOptions, Told, silent, source_name
from blendsim.traces.shared_prefixes import Prefixes, Rules, from_columns, require_pair
from blendsim.traces.times import NO_TIME, Arrivals, arrivals, time_fault


class _Columns(NamedTuple):
    prompt: Floats
    output: Floats
    limit: Floats
    known: Bools
    arrival: Floats
    notes: tuple[str, ...]  # what there is to say of arrivals
    ids: NDArray[np.str_] | None
    prefixes: Prefixes


@dataclass(frozen=True, slots=True)
class JsonLengths:
    """An object of lengths a line."""

    name: str = "lengths-jsonl"
    expects: str = "JSONL input_tokens,output_tokens or the like"

    def matches(self, head: Head) -> bool:
        """Whether the first object has a prompt's and an output's length."""
        return are_lengths(head.keys)

    def read(self, path: Path, options: ReadOptions, told: Told = silent) -> Workload:
        """The file as a workload that shares the prefixes it names, and nothing else."""
        data = content(path)
        where, row = next(objects(path), (f"{path}", {}))
        require_rows(len(row), path)
        names = find_names(tuple(row), where)
        require_pair(row, names.extras, where)
        columns = _parse(data, row, names)
        if columns is None or _have_fault(columns):
            columns = _walk(path, row, names)
        digest = hashlib.sha256(data).hexdigest()[:12]
        nobody = np.zeros(len(columns.prompt), np.bool_)
        workload = from_lengths(
            columns.prompt.astype(np.int64),
            columns.output.astype(np.int64),
            source=source_name(path),
            prompts=columns.prefixes.prompts(path, digest, nobody),
            arrival=columns.arrival,
            ids=columns.ids,
            origin=(str(path),),
            notes=tuple(f"{path}: {note}" for note in columns.notes),
        )
        limit = columns.limit.astype(np.int64)
        return replace(workload, is_known=columns.known, output_limit=limit)


LENGTHS_JSONL = JsonLengths()


def _parse(data: pa.Buffer, first: dict[str, Any], names: LengthNames) -> _Columns | None:
    """The columns by Arrow, or None when a row does not look like the first."""
    extras = names.extras
    counted = (names.prompt, names.output, extras.max_tokens, extras.prefix_tokens)
    kinds = dict.fromkeys(counted, pa.float64()) | {extras.is_known: pa.bool_()}
    for name in (extras.id, extras.prefix_id):
        kinds[name] = pa.string() if isinstance(first.get(name), str | None) else pa.int64()
    if names.arrival is not None:
        is_text = isinstance(first[names.arrival], str)
        kinds[names.arrival] = pa.string() if is_text else pa.float64()
    table = read_columns(data, pa.schema(list(kinds.items())))
    if table is None:
        return None
    found: Arrivals | None = Arrivals(np.zeros(table.num_rows), ())
    if names.arrival is not None:
        found = arrivals(table[names.arrival], names.arrival)
    ids = table[extras.id].cast(pa.string())
    if found is None or ids.null_count not in (0, table.num_rows):
        return None
    prefix = table[extras.prefix_id].cast(pa.string()).fill_null("")
    return _Columns(
        numbers(table, names.prompt),
        numbers(table, names.output),
        np.nan_to_num(numbers(table, extras.max_tokens), nan=0.0),
        np.array(table[extras.is_known].fill_null(False).to_numpy(zero_copy_only=False), np.bool_),
        *found,
        None if ids.null_count else np.array(ids.to_pylist(), np.str_),
        from_columns(prefix, numbers(table, extras.prefix_tokens)),
    )


def _have_fault(columns: _Columns) -> bool:
    wrong = are_wrong(columns.prompt) | are_wrong(columns.output)
    wrong |= are_wrong(columns.limit, least=0)
    wrong |= columns.prefixes.are_wrong(columns.prompt, np.zeros(len(wrong), np.bool_))
    if wrong.any() or columns.ids is None:
        return bool(wrong.any())
    return bool((columns.ids == "").any()) or len(np.unique(columns.ids)) < len(columns.ids)


def _walk(path: Path, first: dict[str, Any], names: LengthNames) -> _Columns:
    """The columns row by row: slow, and says what is wrong where."""
    extras, rules = names.extras, Rules(names.extras)
    has_ids = first.get(extras.id) is not None
    lines: dict[str, str] = {}  # of the ids so far
    codes: dict[str, int] = {"": -1}  # of the prefixes so far
    rows: list[tuple[int, int, int, bool]] = []
    times: list[str] = []
    no_time: str | None = None  # what is wrong with the first time that is none
    prefixes: list[tuple[int, float]] = []
    for where, row in objects(path):
        prompt = _whole(row, names.prompt, "prompt", where)
        output = _whole(row, names.output, "output", where)
        limit = row.get(extras.max_tokens)
        has_limit = limit is not None and (limit != 0 or isinstance(limit, bool))
        most = _whole(row, extras.max_tokens, "limit", where) if has_limit else 0
        rows.append((prompt, output, most, _truth(row, extras.is_known, where)))
        if names.arrival is not None:
            text, fault = _time(row, names.arrival, where)
            times.append(text)
            no_time = no_time or fault
            if no_time is not None and text != times[0]:
                raise InputError(no_time)
        name = _text(row, extras.id, where)
        if (name != "") != has_ids:
            raise InputError(f"{where}, column {extras.id!r}: give all rows an id or none")
        if name:
            require_new(name, lines, f"{where}, column {extras.id!r}")
            lines[name] = line_of(where)
        prefix = _text(row, extras.prefix_id, where).strip()
        tokens = row.get(extras.prefix_tokens)
        said = rules.fault(prefix, tokens, prompt, where)
        if said is not None:
            raise InputError(said)
        code = codes.setdefault(prefix, len(codes))
        prefixes.append((code, float(tokens or 0) if prefix else 0.0))
    found: Arrivals | None = Arrivals(np.zeros(len(rows)), ())
    if names.arrival is not None:
        found = arrivals(pa.chunked_array([times], pa.string()), names.arrival)
    if found is None:
        raise InputError(
            no_time
            or f"{path}, column {names.arrival!r}: times are written in different ways; give all "
            "in seconds, or all as dates with or without a zone"
        )
    prompts, outputs, limits, known = np.array(rows, np.float64).reshape(-1, 4).T
    of_rows, sizes = np.array(prefixes, np.float64).reshape(-1, 2).T
    return _Columns(
        prompts,
        outputs,
        limits,
        known.astype(np.bool_),
        *found,
        np.array(list(lines), np.str_) if lines else None,
        Prefixes(of_rows.astype(np.int64), sizes),
    )


def _whole(row: dict[str, Any], column: str, what: str, where: str) -> int:
    return whole(row.get(column), what, f"{where}, column {column!r}")


def _text(row: dict[str, Any], column: str, where: str) -> str:
    """A name that is a text or a whole number; empty where there is none."""
    value = row.get(column)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(
            f"{where}, column {column!r}: {shown(value)} is not a name; give a text or a number"
        )
    return str(value)


def _truth(row: dict[str, Any], column: str, where: str) -> bool:
    value = row.get(column)
    if value in (None, True, False):  # 1 and 0 as well
        return bool(value)
    raise InputError(
        f"{where}, column {column!r}: {shown(value)} is neither true nor false; write one of them"
    )


def _time(row: dict[str, Any], column: str, where: str) -> tuple[str, str | None]:
    """A row's time as a text, empty where there is none, and what is wrong with it."""
    value = row.get(column)
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise InputError(f"{where}, column {column!r}: {shown(value)} {NO_TIME}")
    text = "" if value is None else printable(str(value))  # half a surrogate pair is no UTF-8
    reason = time_fault(text)
    said = "" if value is None else f": {shown(value)}"
    return text, None if reason is None else f"{where}, column {column!r}{said} {reason}"
