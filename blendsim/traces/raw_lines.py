"""Lines of files of prompts as they stand there, by the ids of their requests. A workload that was
saved from such a file knows where it is.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from blendsim.errors import InputError
from blendsim.files import replacing, sha256
from blendsim.printable import listed
from blendsim.traces.content import text_lines
from blendsim.traces.counts import shown
from blendsim.traces.jsonl import json_object
from blendsim.traces.load import format_of
from blendsim.traces.openai_batch import OPENAI_BATCH
from blendsim.traces.plain_prompts import PROMPTS_JSONL
from blendsim.traces.workload_file import WORKLOAD, read_lines


class LineFormat(Protocol):
    """A format whose lines are requests that an engine can answer."""

    @property
    def name(self) -> str:
        """What `--format` calls it."""
        ...

    def id_in(self, row: dict[str, Any], where: str) -> str | None:
        """The id that a line gives its request, None where it is the line's number; InputError
        beginning with `where` for a line that names none.
        """
        ...


_MOST_TOLD = 3  # ids named in an error
LINE_FORMATS: tuple[LineFormat, ...] = (OPENAI_BATCH, PROMPTS_JSONL)


class Line(NamedTuple):
    """A request as its file has it."""

    text: str
    url: str  # that it is sent to; empty where the line does not say


class LineFile(NamedTuple):
    """A file whose lines are requests."""

    path: Path
    form: LineFormat


def line_file(path: Path, name: str | None) -> LineFile | None:
    """The file with the lines of the trace at `path`, read as format `name` or by content: itself,
    or the one that it was saved from, which is looked for beside it too. None if no line of it is a
    request; InputError if what it was saved from is gone or has changed.
    """
    known = {form.name: form for form in LINE_FORMATS}
    found = format_of(path, name).name
    if found in known:
        return LineFile(path, known[found])
    saved = read_lines(path) if found == WORKLOAD.name else None
    if saved is None or saved.format not in known:
        return None
    places = (Path(saved.path), path.parent / Path(saved.path).name)
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise InputError(
            f"{path}: was saved from {saved.path}, which is not there; put it back, or beside "
            f"{path.name}"
        )
    if sha256(file) != saved.sha256:
        raise InputError(
            f"{file}: has changed since {path} was saved from it; save it again with "
            "`blendsim trace save`, and plan again"
        )
    return LineFile(file, known[saved.format])


def raw_lines(files: Sequence[LineFile], names: Sequence[str]) -> dict[str, Line]:
    """Lines of `files` by the ids that their requests have in the pool, which begin with the files'
    `names` there if there are several. Lines that name no request, as they may be left out of a
    pool, are none here. InputError where lines of two files have the same id.
    """
    lines: dict[str, Line] = {}
    first: dict[str, Path] = {}
    for (file, form), source in zip(files, names, strict=True):
        prefix = f"{source}/" if len(files) > 1 else ""
        own: list[str] = []
        with text_lines(file) as text:
            for number, line in enumerate(text, start=1):
                if not line.strip():
                    continue
                where = f"{file}, line {number}"
                try:
                    row = json_object(line, where)
                    given = form.id_in(row, where)
                except InputError:
                    continue
                if given is not None:
                    own.append(given)
                # NOTE: a column of text keeps no NUL at its end.
                name = f"{prefix}{number if given is None else given}".rstrip("\0")
                # NOTE: of one id the first line counts, as for who reads them.
                lines.setdefault(name, Line(line.rstrip("\r\n"), str(row.get("url") or "")))
        _require_new(own, first, file)
        first |= dict.fromkeys(own, file)
    return lines


def _require_new(own: Sequence[str], first: Mapping[str, Path], file: Path) -> None:
    """InputError if lines of another file, which `first` names, have ids of those in `file`."""
    shared = [shown(name) for name in own if name in first]
    if shared:
        other = next(first[name] for name in own if name in first)
        raise InputError(
            f"{other} and {file} both have requests called {listed(shared, _MOST_TOLD)}, whose "
            "answers could not be told apart; make ids unique, or plan the files apart"
        )


def write_lines(lines: Mapping[str, Line], ids: Mapping[Path, Sequence[str]]) -> None:
    """The lines of the requests `ids` of each file, in their order: all files or none."""
    with ExitStack() as written:
        for path, names in ids.items():
            temporary = written.enter_context(replacing(path))
            with temporary.open("w", encoding="utf-8", newline="\n") as out:
                out.writelines(lines[one].text + "\n" for one in names)
