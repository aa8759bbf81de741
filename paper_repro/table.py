"""A result table: columns and rows, on disk as CSV under one line that says what made it.

The first line is `#` and a JSON object: schema, module, table, seed, sources, versions, and the
fingerprint of code and data that a later run compares to know whether to measure again.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from blendsim.errors import InputError
from blendsim.files import replacing

SCHEMA = "paper_repro/1"

Cell = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under named columns. Text, whole numbers, floats, yes/no; None is an empty cell."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), f"a row of {len(row)} cells: {row}"

    @classmethod
    def of(cls, rows: list[dict[str, Cell]]) -> Self:
        """The table of at least one record; all have the same keys in the same order."""
        columns = tuple(rows[0])
        assert all(tuple(row) == columns for row in rows), "records differ in their keys"
        return cls(columns, tuple(tuple(row.values()) for row in rows))

    def records(self, **where: Cell) -> list[dict[str, Any]]:
        """The rows as dictionaries, those whose cells equal `where`."""
        found = (dict(zip(self.columns, row, strict=True)) for row in self.rows)
        return [r for r in found if all(r[name] == value for name, value in where.items())]

    def record(self, **where: Cell) -> dict[str, Any]:
        """The one row whose cells equal `where`."""
        found = self.records(**where)
        assert len(found) == 1, f"{len(found)} rows with {where}"
        return found[0]

    def column(self, name: str) -> list[Any]:
        """One column."""
        place = self.columns.index(name)
        return [row[place] for row in self.rows]


def write_table(table: Table, path: Path, facts: Mapping[str, Any]) -> None:
    """Write the table with `facts` in its first line. Floats keep nine digits."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        file.write(f"# {json.dumps({'schema': SCHEMA, **facts}, ensure_ascii=False)}\n")
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(table.columns)
        lines.writerows([_told(cell) for cell in row] for row in table.rows)


def read_table(path: Path) -> Table:
    """The table of a file that `write_table` wrote."""
    read_facts(path)
    with path.open(newline="", encoding="utf-8") as file:
        file.readline()
        columns, *rows = csv.reader(file)
    return Table(tuple(columns), tuple(tuple(map(_meant, row)) for row in rows))


def read_facts(path: Path) -> dict[str, Any]:
    """What the first line says; InputError for a file of another schema."""
    with path.open(encoding="utf-8") as file:
        head = file.readline()
    try:
        facts = json.loads(head.removeprefix("# "))
    except ValueError:
        facts = {}
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise InputError(f"{path}: is no result table of schema {SCHEMA}; run paper_repro again")
    return facts


def tables_of(module: str, directory: Path) -> Iterator[Path]:
    """Files of a module's result tables."""
    for path in sorted(directory.glob(f"{module}_*.csv")):
        if read_facts(path)["module"] == module:
            yield path


def _told(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return f"{cell:.9g}" if isinstance(cell, float) else str(cell)


def _meant(text: str) -> Cell:
    if text in ("", "yes", "no"):
        return {"": None, "yes": True, "no": False}[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
