"""Where a command may write: a new file, or in place of a plain one that it does not read."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path


def require_places(outputs: Iterable[Path | None], inputs: Iterable[Path | str | None]) -> None:
    """InputError unless a file can have each output's path, and neither a pipe, a device or a link
    nor one of the inputs would be replaced by it. Ask it before long work.

    Inputs may be names that are no files, or None where there is none; outputs, too, may be None.
    """
    from blendsim.errors import InputError

    read = [Path(path) for path in inputs if path is not None]
    written: list[Path] = []
    for path in outputs:
        if path is None:
            continue
        _require_plain(path)
        if any(_is_same(path, other) for other in read):
            raise InputError(f"{path}: is read by this command; write to another file")
        if any(path.absolute() == other.absolute() for other in written):
            raise InputError(f"{path}: is to be two outputs; write them to different files")
        written.append(path)


def _require_plain(path: Path) -> None:
    """InputError unless the path is free or a regular file's."""
    from blendsim.errors import InputError
    from blendsim.files import require_place

    require_place(path)
    try:
        mode = os.lstat(path).st_mode
    except OSError:  # nothing there; or a name that cannot be, which the writer says
        return
    if stat.S_ISLNK(mode):
        raise InputError(f"{path}: is a link, which would be replaced; give the file's own name")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: is a pipe or device; write to a file")


def _is_same(path: Path, other: Path) -> bool:
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):  # one of them is not there
        return False
