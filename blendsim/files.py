"""How files are written: under a temporary name, then renamed, so that a reader never sees half of
one; and how a user's TOML is read.
"""

import errno
import hashlib
import os
import stat
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blendsim.errors import InputError
from blendsim.printable import printable

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def require_place(path: Path) -> None:
    """InputError unless a file can be written there: the directory is there, and the name is free
    or a plain file's. A link, a pipe, a device or a socket is not replaced. Ask it before long
    work, too.
    """
    if not os.path.isdir(path.parent):  # NOTE: Path.is_dir raises for a name that is too long
        is_there = os.path.lexists(path.parent)
        why = "is no directory" if is_there else "does not exist; create it"
        joint = ";" if is_there else " or"
        raise InputError(f"{path}: the directory {path.parent} {why}{joint} choose another -o")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: nothing can be written in {path.parent}; choose another -o")
    try:
        mode = os.lstat(path).st_mode
    except OSError:  # nothing there; or a name that cannot be, which the writer says
        return
    if stat.S_ISLNK(mode):
        raise InputError(f"{path}: is a link, which would be replaced; give the file's own name")
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: is a directory; give a file's name with -o")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: is a pipe or device; write to a file")


def require_directory(path: Path, names: Iterable[str] = ()) -> None:
    """InputError unless `path` is a directory or can be made one, and files of these names can be
    written in it. Ask it before long work.
    """
    if os.path.isdir(path):
        for name in names:
            require_place(path / name)
        return
    for there in (path, *path.parents):
        if os.path.lexists(there):
            if not os.path.isdir(there):
                raise InputError(f"{path}: {there} is no directory; choose another -o")
            return


def make_directory(path: Path) -> None:
    """Make a directory, those above it too, unless it is there; InputError where none can be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: no directory can be there ({error.strerror}); choose another -o"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends well and is removed
    when it fails.
    """
    require_place(path)
    try:
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix
        )
    except OSError as error:
        raise InputError(
            f"{path}: cannot write there ({error.strerror}); choose another -o"
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        # NOTE: what writes (Arrow, a file's own `write`) says that the disk is full, and not where;
        # or it names a file that is gone by the time one reads so.
        if error.filename == name or (error.filename is None and error.errno in FULL):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8; names in it that are no Unicode are escaped."""
    with replacing(path) as temporary:
        temporary.write_text(printable(text), encoding="utf-8")


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_toml_file(path: Path, option: str) -> dict[str, Any]:
    """What a TOML file says that a user names by an option; InputError where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check {option}") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a directory; name a TOML file with {option}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable TOML file ({error}); mend it") from error
