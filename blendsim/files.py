"""How files are written: under a temporary name, then renamed, so that a reader never sees half of
one.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blendsim.errors import InputError


def require_place(path: Path) -> None:
    """InputError unless a file can have that path. Ask it before long work, too."""
    if not path.parent.is_dir():
        raise InputError(
            f"{path}: the directory {path.parent} does not exist; create it or choose another -o"
        )
    if os.path.isdir(path):  # NOTE: Path.is_dir raises for a name that is too long
        raise InputError(f"{path}: is a directory; give a file's name with -o")


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
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
