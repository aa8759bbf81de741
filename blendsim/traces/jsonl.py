"""JSON Lines one object at a time, each with the words that say where it stands."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blendsim.errors import InputError
from blendsim.traces.content import text_lines
from blendsim.traces.counts import shown


def objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`file, line n`, object) of every non-blank line."""
    with text_lines(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{path}, line {number}"
                yield where, json_object(line, where)


def json_object(line: str | bytes, where: str) -> dict[str, Any]:
    """The object a line holds, or InputError beginning with `where`."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: is not JSON ({error}); mend or remove the line") from error
    except RecursionError as error:
        raise InputError(f"{where}: is nested too deeply; mend or remove the line") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: {shown(row)} is not a JSON object; each line must be one")
    return row
