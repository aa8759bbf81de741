"""Lines of files of prompts as they stand there, by the ids of their requests."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from blendsim.files import replacing
from blendsim.traces.content import text_lines
from blendsim.traces.jsonl import json_object
from blendsim.traces.openai_batch import OPENAI_BATCH
from blendsim.traces.plain_prompts import PROMPTS_JSONL


class LineFormat(Protocol):
    """A format whose lines are requests that an engine can answer."""

    @property
    def name(self) -> str:
        """What `--format` calls it."""
        ...

    def id_of(self, row: dict[str, Any], number: int) -> str:
        """The id that reading the file gives the request in line `number`."""
        ...


LINE_FORMATS: tuple[LineFormat, ...] = (OPENAI_BATCH, PROMPTS_JSONL)


def raw_lines(
    files: Sequence[Path], names: Sequence[str], forms: Sequence[LineFormat]
) -> dict[str, str]:
    """Lines of `files` by the ids that their requests have in the pool, which begin with the files'
    `names` there if there are several. `forms` are the files' formats.
    """
    lines: dict[str, str] = {}
    for file, name, form in zip(files, names, forms, strict=True):
        prefix = f"{name}/" if len(files) > 1 else ""
        with text_lines(file) as text:
            for number, line in enumerate(text, start=1):
                if line.strip():
                    row = json_object(line, f"{file}, line {number}")
                    # NOTE: a column of text keeps no NUL at its end.
                    lines[f"{prefix}{form.id_of(row, number)}".rstrip("\0")] = line.rstrip("\r\n")
    return lines


def write_lines(lines: Mapping[str, str], ids: Sequence[str], path: Path) -> None:
    """The lines of these requests, in their order."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
        for one in ids:
            out.write(lines[one] + "\n")
