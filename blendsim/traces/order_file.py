"""An order of one's own in a file: ids of requests, one a line or in a column `id`, and the rows of
a pool that they stand for.
"""

import csv
from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blendsim.arrays import Ints
from blendsim.errors import InputError
from blendsim.printable import listed as some_of
from blendsim.request import Workload, joined, without_prompts
from blendsim.steplog import open_parquet
from blendsim.traces.content import beginning, text_lines
from blendsim.traces.counts import shown

COLUMN = "id"
_MAGIC = b"PAR1"
_MOST_TOLD = 3  # ids named in an error


class Listed(NamedTuple):
    """What a file lists."""

    path: Path
    ids: list[str]
    places: list[str]  # of each in the file: `line 7`


def read_listed(path: Path) -> Listed:
    """The ids of a file, in its order: of a text one a line, where blank ones count for nothing; of
    a CSV whose first line names a column `id`, or of a Parquet file, those in that column.
    InputError for a file that is none of these.
    """
    is_parquet = beginning(path).startswith(_MAGIC)
    pairs = list(_in_column(path) if is_parquet else _in_text(path))
    if not pairs:
        raise InputError(f"{path}: lists no request; list the id of each, one a line")
    return Listed(path, [name for _, name in pairs], [place for place, _ in pairs])


def _in_column(path: Path) -> Iterator[tuple[str, str]]:
    file = open_parquet(path, "Parquet")
    if COLUMN not in file.names:
        named = some_of(file.names, _MOST_TOLD)
        raise InputError(f"{path}: has no column {COLUMN!r} but {named}; call it so")
    for row, value in enumerate(file.read([COLUMN])[COLUMN].to_pylist()):
        if value is None:
            raise InputError(f"{path}, row {row:,} (from 0): has no id; give one or remove the row")
        yield f"row {row:,} (from 0)", str(value)


def _in_text(path: Path) -> Iterator[tuple[str, str]]:
    with text_lines(path) as lines:
        filled = ((k, line) for k, line in enumerate(lines, start=1) if line.strip())
        first = next(filled, (0, ""))
        columns = _columns(first[1])
        if COLUMN in columns:
            yield from _in_csv(path, lines, columns.index(COLUMN), first[0])
            return
        for number, line in chain([first] if first[0] else [], filled):
            yield f"line {number:,}", line.rstrip("\r\n")


def _columns(line: str) -> list[str]:
    """The names in a line if it is the header of a CSV."""
    try:
        return [name.strip() for name in next(csv.reader([line]), [])]
    except csv.Error:
        return []


def _in_csv(
    path: Path, lines: Iterator[str], column: int, before: int
) -> Iterator[tuple[str, str]]:
    rows = csv.reader(lines, skipinitialspace=True)
    try:
        for row in rows:
            place = f"line {before + rows.line_num:,}"
            if column < len(row):
                yield place, row[column]
            elif row:
                raise InputError(f"{path}, {place}: has no id; give one or remove the line")
    except csv.Error as error:
        place = f"line {before + rows.line_num:,}"
        raise InputError(f"{path}, {place}: is no CSV ({error}); mend it") from error


def rows_of(order: Listed, whole: Workload, pool: Workload) -> Ints:
    """The rows of `pool` in the listed order. Requests of the `whole` pool that are too long for
    the system, and those that are answered, may be listed, and are passed over.

    InputError unless each request of the pool is listed once.
    """
    names, first = _Names(joined(without_prompts(whole))), dict[str, str]()
    for given, place in zip(order.ids, order.places, strict=True):
        name = names.find(given, f"{order.path}, {place}")
        if name in first:
            raise InputError(
                f"{order.path}, {place}: {shown(given)} stands in {first[name]} already; list each "
                "request once"
            )
        first[name] = place
    row = {name: k for k, name in enumerate(pool.ids.tolist())}
    missing = [name for name in row if name not in first]
    if missing:
        raise InputError(
            f"{order.path}: lacks {len(missing):,} of {len(row):,} requests, the first of them is "
            f"{shown(missing[0])}; list each request once"
        )
    return np.array([row[name] for name in first if name in row], np.int64)


class _Names:
    """What the requests of a pool may be called: by their ids in the pool and, where several traces
    are pooled, by those that their own trace has, as long as no other has the same.
    """

    def __init__(self, whole: Workload) -> None:
        self._ids: list[str] = whole.ids.tolist()
        self._known = set(self._ids)
        self._whole = whole

    @cached_property
    def _in_traces(self) -> dict[str, list[str]]:
        """Ids in the pool by those in the traces."""
        sources = self._whole.source_names
        found: dict[str, list[str]] = {}
        for name, source in zip(self._ids, self._whole.source.tolist(), strict=True):
            found.setdefault(name.removeprefix(f"{sources[source]}/"), []).append(name)
        return found

    def find(self, given: str, where: str) -> str:
        """The id in the pool of the request that is called so; InputError that begins with `where`
        if none is, or several are.
        """
        if given in self._known:
            return given
        found = self._in_traces.get(given, [])
        if len(found) == 1:
            return found[0]
        if found:
            several = some_of([shown(name) for name in found], _MOST_TOLD)
            raise InputError(
                f"{where}: several traces have a request called {shown(given)}; write which is "
                f"meant: {several}"
            )
        raise InputError(
            f"{where}: no request of the pool is called {shown(given)}, the first of it is called "
            f"{shown(self._ids[0])}; list ids one a line, or in a column {COLUMN!r}"
        )
