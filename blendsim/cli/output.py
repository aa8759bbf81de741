"""What goes to stdout: one JSON object and nothing else, or lines for a reader; and what is told
beside it, on stderr.
"""

import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import typer

from blendsim.printable import json_escapes, printable


def print_json(result: Mapping[str, Any]) -> None:
    """Print one JSON object. A figure that is not finite is null: JSON has no other word for it."""
    text = json.dumps(_plain(result), allow_nan=False, ensure_ascii=False)
    typer.echo(json_escapes(text))


def print_lines(lines: Iterable[str]) -> None:
    """Print text lines."""
    for line in lines:
        typer.echo(printable(line))


def tell(line: str) -> None:
    """Print one line to stderr. Where that is full or gone away all that is told from here on is
    lost: no reason for a command to fail.
    """
    try:
        typer.echo(printable(line), err=True)
    except OSError:
        # NOTE: the stream holds what it could not write, and tries again when it is flushed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def width() -> int:
    """Columns to fill: the terminal's, or 120 when nobody measures."""
    return shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 120


def _plain(value: Any) -> Any:
    """`value` in JSON's own types; numpy's scalars and arrays become numbers and lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    return str(value)
