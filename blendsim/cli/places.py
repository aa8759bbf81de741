"""Where a command may write: a new file, or in place of a plain one that it does not read."""

import os
from collections.abc import Iterable
from pathlib import Path

#: Endings of what is not Parquet.
_OTHERS = (".csv", ".json", ".jsonl", ".gz", ".zst", ".html", ".toml", ".txt")


def is_here_gone() -> bool:
    """Whether the directory that the process is in has been removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def require_places(outputs: Iterable[Path | None], inputs: Iterable[Path | str | None]) -> None:
    """InputError unless a file can be written at each output's path, and none of the inputs would
    be replaced by it. Ask it before long work.

    Inputs may be names that are no files, or None where there is none; outputs, too, may be None.
    """
    from blendsim.errors import InputError
    from blendsim.files import require_place

    read = [Path(path) for path in inputs if path is not None]
    written: list[Path] = []
    for path in outputs:
        if path is None:
            continue
        require_place(path)
        if any(_is_same(path, other) for other in read):
            raise InputError(f"{path}: is read by this command; write to another file")
        if any(path.absolute() == other.absolute() for other in written):
            raise InputError(f"{path}: is to be two outputs; write them to different files")
        written.append(path)


def require_tables(outputs: Iterable[Path | None], inputs: Iterable[Path | str | None]) -> None:
    """`require_places` for Parquet files."""
    places = list(outputs)
    require_places(places, inputs)
    for path in places:
        require_parquet(path)


def require_parquet(path: Path | None) -> None:
    """InputError where the name of a Parquet file says another format."""
    from blendsim.errors import InputError

    if path is not None and path.suffix.lower() in _OTHERS:
        raise InputError(f"{path}: is written as Parquet; name it .parquet")


def _is_same(path: Path, other: Path) -> bool:
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):  # one of them is not there
        return False
