"""Lines of OpenAI batch files as they stand there, by the ids of their requests."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from blendsim.files import replacing
from blendsim.traces.content import text_lines
from blendsim.traces.jsonl import json_object


def raw_lines(files: Sequence[Path], names: Sequence[str]) -> dict[str, str]:
    """Lines of `files` by the ids that their requests have in the pool, which begin with the files'
    `names` there if there are several.
    """
    lines: dict[str, str] = {}
    for file, name in zip(files, names, strict=True):
        prefix = f"{name}/" if len(files) > 1 else ""
        with text_lines(file) as text:
            for number, line in enumerate(text, start=1):
                if line.strip():
                    row = json_object(line, f"{file}, line {number}")
                    # NOTE: a column of text keeps no NUL at its end.
                    lines[f"{prefix}{row['custom_id']}".rstrip("\0")] = line.rstrip("\r\n")
    return lines


def write_lines(lines: Mapping[str, str], ids: Sequence[str], path: Path) -> None:
    """The lines of these requests, in their order."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
        for one in ids:
            out.write(lines[one] + "\n")
