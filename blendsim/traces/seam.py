"""The seam of the readers: what a format is, what it may be told, and what is known of a file
before it is read.
"""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from blendsim.fields import settle
from blendsim.request import Workload
from blendsim.traces.content import beginning, first_line

#: Is told what is being read or made, and which share of it is done, 0 to 1, many times a second.
Told = Callable[[str, float], None]


def silent(what: str, share: float) -> None:
    """For those who need not be told."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a reader may be told besides the path. Paths may be given as texts too, and the
    tokenizer's as a Path.
    """

    tokenizer: str | None = None  # a tokenizer.json, or a directory that holds one
    lengths: Path | None = None  # results of an earlier run, for requests without output lengths
    seed: int = 0  # of the demo sources
    format: str | None = None  # a format's name, instead of looking at the content
    rest: bool = False  # only requests that have no answer in `lengths`
    skip_unusable: bool = False  # leave out lines of files of prompts that cannot be planned

    def __post_init__(self) -> None:
        if isinstance(self.tokenizer, Path):
            object.__setattr__(self, "tokenizer", str(self.tokenizer))
        settle(self)


class Head(NamedTuple):
    """What the first line of a file says about its format."""

    line: bytes  # the first bytes, up to the end of the line
    columns: tuple[str, ...]  # names of a CSV header
    keys: frozenset[str]  # keys of a JSON object
    array: bytes = b""  # the beginning of a JSON array, over several lines too


class Format(Protocol):
    """One file format."""

    @property
    def name(self) -> str:
        """What `--format` calls it."""
        ...

    @property
    def expects(self) -> str:
        """CSV, JSONL or another kind of file in one word, then the columns or keys that it is
        recognised by, for the error that lists the formats of a file's kind.
        """
        ...

    def matches(self, head: Head) -> bool:
        """Whether a file that begins like this is of this format."""
        ...

    def read(self, path: Path, options: ReadOptions, told: Told = silent) -> Workload:
        """The whole file as a workload, or InputError with the file, line, column and value. What
        takes long tells how far it is.
        """
        ...


def head(path: Path) -> Head:
    """Look at the beginning of a file, compressed or plain."""
    line = first_line(path)
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return Head(line, (), frozenset())
    if text.startswith("{"):
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            return Head(line, (), frozenset())
        return Head(line, (), frozenset(row))
    if text.startswith("["):
        return Head(line, (), frozenset(), beginning(path))
    try:
        names = next(csv.reader([text]), [])
    except csv.Error:
        return Head(line, (), frozenset())
    return Head(line, tuple(name.strip() for name in names), frozenset())


def source_name(path: Path) -> str:
    """A file's name without the suffixes that only say how it is stored."""
    name = path.name
    for suffix in (".gz", ".csv", ".jsonl", ".json", ".parquet"):
        name = name.removesuffix(suffix)
    return name or path.name
