"""JSON Lines one object at a time, each with the words that say where it stands, or as columns."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from blendsim.errors import InputError
from blendsim.traces.content import share_read, text_lines
from blendsim.traces.counts import shown
from blendsim.traces.seam import Told, silent

_NULL = re.compile(b"null")
_BARE_NULL = re.compile(rb"(?:\A|[}\n])[ \t\r]*null")
_OFTEN = 1_000  # lines between two words about how far it is
_BLOCK = 1 << 25  # bytes Arrow parses at a time; a line must fit in two of them


def read_columns(data: pa.Buffer, schema: pa.Schema) -> pa.Table | None:
    """The columns in `schema` of all lines, null where a line has none, or None when a line does
    not fit the schema and must be looked at.
    """
    from pyarrow import json as arrow

    # NOTE: Arrow's JSON reader (26.0) crashes the process on a row that is `null` instead of an
    # object, so it must not see one.
    if _NULL.search(data) is not None and _BARE_NULL.search(data) is not None:
        return None
    try:
        return arrow.read_json(
            pa.BufferReader(data),
            read_options=arrow.ReadOptions(block_size=_BLOCK),
            parse_options=arrow.ParseOptions(
                explicit_schema=schema, unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowInvalid:
        return None


def objects(path: Path, told: Told = silent) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`file, line n`, object) of every non-blank line."""
    for where, line in lines_of(path, told):
        yield where, json_object(line, where)


def lines_of(path: Path, told: Told = silent, errors: str = "strict") -> Iterator[tuple[str, str]]:
    """(`file, line n`, text) of every non-blank line, with its end if it has one."""
    with text_lines(path, errors) as lines:
        for number, line in enumerate(lines, start=1):
            if number % _OFTEN == 0:
                told(f"reading {path}", share_read(lines))
            if line.strip():
                yield f"{path}, line {number}", line


def is_torn(line: str) -> bool:
    """Whether a line is the last of a file and lacks more than its end: no beginning of an object
    is an object.
    """
    return not line.endswith("\n") and not is_object(line)


def is_object(line: str | bytes) -> bool:
    """Whether a line says a whole JSON object."""
    try:
        json_object(line, "")
    except InputError:
        return False
    return True


def parsed(text: str | bytes, where: str, mend: str = "mend or remove the line") -> Any:
    """What JSON says, or InputError beginning with `where` and ending with what to do."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        found = f"{error.msg}, {line}character {error.colno}"
        if "\0" in text if isinstance(text, str) else b"\0" in text:
            found += "; it has NUL bytes, probably a damaged copy"
        raise InputError(f"{where}: is not JSON ({found}); {mend}") from error
    except ValueError as error:  # a number of thousands of digits; Python's advice is left out
        found = str(error).split(";")[0]
        raise InputError(f"{where}: is not JSON ({found}); {mend}") from error
    except RecursionError as error:
        raise InputError(f"{where}: is nested too deeply; {mend}") from error


def json_object(line: str | bytes, where: str) -> dict[str, Any]:
    """The object a line holds, or InputError beginning with `where`."""
    row = parsed(line, where)
    if not isinstance(row, dict):
        raise InputError(f"{where}: {shown(row)} is not a JSON object; each line must be one")
    return row


def line_of(where: str) -> str:
    """The number in `file, line n`."""
    return where.rsplit(" ", 1)[1]


def require_new(name: str, first: Mapping[str, str], where: str) -> None:
    """InputError beginning with `where` if `first`, the lines of the ids so far, has this one."""
    if name in first:
        raise InputError(
            f"{where}: {shown(name)} was given before in line {first[name]}; ids must be unique"
        )
