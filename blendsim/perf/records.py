"""CSV and TOML as the profile store keeps them: plain columns, times in microseconds, six
significant digits.
"""

import csv
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.errors import ProfileError
from blendsim.files import replacing, write_text

MICRO = 1e-6


def to_text(seconds: float) -> str:
    """A time as written to disk, in µs; empty where nothing was measured."""
    return "" if np.isnan(seconds) else f"{seconds / MICRO:.6g}"


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV table."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_rows(path: Path, first: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV table whose header begins with `first`."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
    except FileNotFoundError as error:
        raise ProfileError(
            f"{path}: missing; run `blendsim profile import` or `measure` again"
        ) from error
    except (OSError, ValueError, csv.Error) as error:
        raise ProfileError(f"{path}: not a readable CSV table ({error})") from error
    if header[: len(first)] != list(first):
        raise ProfileError(f"{path}: line 1: columns {header[:4]}, expected {','.join(first)},…")
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ProfileError(f"{path}: line {line}: {len(row)} values for {len(header)} columns")
    return header, rows


def column(path: Path, rows: Sequence[Sequence[str]], index: int) -> Floats:
    """One numeric column, NaN for an empty cell; ProfileError names the line of what is no finite
    number.
    """
    values = np.empty(len(rows))
    for i, row in enumerate(rows):
        try:
            values[i] = float(row[index]) if row[index] else np.nan
        except ValueError as error:
            raise ProfileError(f"{cell(path, i, index)}: {row[index]!r} is no number") from error
        if row[index] and not np.isfinite(values[i]):
            raise ProfileError(
                f"{cell(path, i, index)}: {row[index]!r} is no finite number; measure it "
                "again, or correct it"
            )
    return values


def cell(path: Path, row: int, index: int) -> str:
    """A cell of a table as errors name it; rows are counted from the one under the header."""
    return f"{path}: line {row + 2}, column {index + 1}"


def times(
    path: Path, rows: Sequence[Sequence[str]], indices: Iterable[int], *, has_holes: bool = False
) -> Floats:
    """(rows, indices) seconds of columns of µs; ProfileError names the cell that is no time above
    0, or empty unless the table `has_holes`.
    """
    indices = list(indices)
    if not rows:
        raise ProfileError(f"{path}: no rows under the header; add what was measured")
    found = np.column_stack([column(path, rows, index) for index in indices])
    for i, j in np.argwhere(found <= 0.0)[:1].tolist():
        raise ProfileError(
            f"{cell(path, i, indices[j])}: {rows[i][indices[j]]} µs is no time above 0; "
            "measure it again, or correct it"
        )
    if not has_holes:
        for i, j in np.argwhere(np.isnan(found))[:1].tolist():
            raise ProfileError(f"{cell(path, i, indices[j])}: no time; this table has no holes")
    return np.asarray(found * MICRO, np.float64)


def keys(
    path: Path, rows: Sequence[Sequence[str]], count: int, words: Sequence[str] = ()
) -> Floats:
    """(rows, count) of the first columns, by which rows ascend strictly, the first before all;
    ProfileError names the cell that is no size above 0 and the line that is out of order. Where
    there are `words`, the first column holds those, in their order, and is read as 1, 2, ….
    """
    first = [_numbered(path, rows, words)] if words else []
    sizes = [column(path, rows, index) for index in range(len(first), count)]
    found = np.column_stack([*first, *sizes])
    for i, j in np.argwhere(~(found > 0.0))[:1].tolist():
        raise ProfileError(f"{cell(path, i, j)}: {rows[i][j]!r} is no size above 0")
    order = found.tolist()
    for i in range(1, len(order)):
        if order[i] <= order[i - 1]:
            this, last = (",".join(row[:count]) for row in (rows[i], rows[i - 1]))
            at = next((j for j in range(count) if order[i][j] != order[i - 1][j]), count - 1)
            raise ProfileError(
                f"{cell(path, i, at)}: {this} after {last}; each row once, in ascending order"
            )
    return found


def above_zero(path: Path, rows: Sequence[Sequence[str]], index: int) -> Floats:
    """A `column` of numbers above 0, one at least; ProfileError names the cell that is none."""
    require_rows(path, rows)
    found = column(path, rows, index)
    for i in np.flatnonzero(~(found > 0.0))[:1].tolist():
        raise ProfileError(f"{cell(path, i, index)}: {rows[i][index]!r} is no number above 0")
    return found


def require_rows(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """ProfileError where a table has no rows."""
    if not rows:
        raise ProfileError(f"{path}: no rows under the header; add what was measured")


def _numbered(path: Path, rows: Sequence[Sequence[str]], words: Sequence[str]) -> Floats:
    for i, row in enumerate(rows):
        if row[0] not in words:
            raise ProfileError(f"{cell(path, i, 0)}: {row[0]!r} is none of {', '.join(words)}")
    return np.array([words.index(row[0]) + 1.0 for row in rows])


def whole_keys(
    path: Path, rows: Sequence[Sequence[str]], count: int, words: Sequence[str] = ()
) -> Ints:
    """`keys` that are whole numbers."""
    found = keys(path, rows, count, words)
    for i, j in np.argwhere(found != np.floor(found))[:1].tolist():
        raise ProfileError(f"{cell(path, i, j)}: {rows[i][j]} is no whole number")
    return found.astype(np.int64)


def lengths_of(path: Path, header: Sequence[str], first: int) -> Floats:
    """The lengths that head the columns from `first` on, strictly ascending; ProfileError names
    the column that is not.
    """
    found: list[float] = []
    for index, name in enumerate(header[first:], start=first):
        try:
            value = float(name)
        except ValueError:
            value = np.nan
        least = found[-1] if found else 0.0
        if not least < value < np.inf:
            raise ProfileError(
                f"{path}: line 1, column {index + 1}: {name!r} is no number above {least:g}; "
                "columns are in ascending order"
            )
        found.append(value)
    if len(found) < 2:
        raise ProfileError(f"{path}: line 1: {len(found)} columns of times; measure two or more")
    return np.array(found)


def write_toml(path: Path, content: Mapping[str, Any]) -> None:
    """Write scalars, lists and one level of tables."""
    lines = [f"{key} = {_value(v)}" for key, v in content.items() if not isinstance(v, Mapping)]
    for key, table in content.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{key}]", *(f"{name} = {_value(v)}" for name, v in table.items())]
    write_text(path, "\n".join(lines) + "\n")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):  # NumPy's repr names its type
        return repr(int(value))
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        inner = "".join(f"  {_value(item)},\n" for item in value)
        return f"[\n{inner}]" if value else "[]"
    return json.dumps(str(value), ensure_ascii=False)  # a basic string, as TOML's are


def read_toml(path: Path, schema: str, version: int) -> dict[str, Any]:
    """A meta.toml of ours, or ProfileError if it is another file or of an unknown version."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ProfileError(
            f"{path}: missing; run `blendsim profile import` or `measure` again"
        ) from error
    except (OSError, ValueError) as error:
        raise ProfileError(f"{path}: not a readable TOML file ({error})") from error
    found = (content.get("schema"), content.get("version"))
    if found != (schema, version):
        raise ProfileError(
            f"{path}: schema {found[0]!r} version {found[1]}, this blendsim reads {schema!r} "
            f"version {version}; import or measure the profile again, or upgrade"
        )
    return content


#: Numbers that the step model takes from a meta.toml, by their table there.
_NUMBERS = {
    "small_operators": ("bandwidth_share", "launch_seconds"),
    "waves": ("blocks_per_sm", "share"),
}


def require_keys(path: Path, content: Mapping[str, Any], names: Sequence[str]) -> None:
    """ProfileError unless the meta.toml that was read from `path` has all of `names`, and the
    numbers that steps are priced by in those that are tables.
    """
    for name in names:
        if name not in content:
            raise ProfileError(
                f"{path}: no {name!r}; add it: this file states {', '.join(names)} "
                "(docs/extending.md)"
            )
        for key in _NUMBERS.get(name, ()):
            table = content[name]
            value = table.get(key) if isinstance(table, Mapping) else None
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise ProfileError(
                    f"{path}: [{name}] has no number {key!r}; add it (docs/extending.md)"
                )
