"""Getting at a file's bytes, gzip or plain by content. Every way in which that can fail is one
InputError.
"""

import gzip
import io
import os
import zlib
from codecs import BOM_UTF8, register_error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from blendsim.errors import InputError

_GZIP_MAGIC = b"\x1f\x8b"
#: How to decode a file that may end within a character, as a run that was killed leaves one: what
#: there is of it becomes U+FFFD.
TORN = "blendsim.torn"
_LONGEST_LINE = 1 << 26  # no header or request is longer; binary junk may have no line end at all


def first_line(path: Path) -> bytes:
    """The file's first non-blank line (of what it holds, when compressed)."""
    with _readable(path), _opened(path) as file:
        line = b"\n"
        while line and not line.removeprefix(BOM_UTF8).strip():
            line = file.readline(_LONGEST_LINE)
    if not line:
        raise InputError(f"{path}: is empty; give a trace with at least one request")
    return line


def beginning(path: Path) -> bytes:
    """The file's first 64 KiB (of what it holds, when compressed)."""
    with _readable(path), _opened(path) as file:
        return bytes(file.read(1 << 16))


def content(path: Path) -> pa.Buffer:
    """All bytes of the file, decompressed."""
    # NOTE: read, not mapped: a mapped file that shrinks meanwhile ends the process.
    with _readable(path):
        data = path.read_bytes()
        return pa.py_buffer(gzip.decompress(data) if data.startswith(_GZIP_MAGIC) else data)


@contextmanager
def text_lines(path: Path, errors: str = "strict") -> Iterator[io.TextIOWrapper]:
    """The file as UTF-8 text, for reading line by line."""
    with _readable(path), _opened(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors=errors, newline="")
        try:
            yield text
        except UnicodeDecodeError as error:
            line = _line_of_bad_text(path)
            raise InputError(
                f"{path}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8 text; "
                "save the file as UTF-8"
            ) from error


def _torn(error: UnicodeError) -> tuple[str, int]:
    if isinstance(error, UnicodeDecodeError) and error.reason == "unexpected end of data":
        return "\ufffd", error.end
    raise error


register_error(TORN, _torn)


def share_read(text: io.TextIOWrapper) -> float:
    """How much of a file of `text_lines` has been read, 0 to 1, by its bytes on the disk."""
    file: Any = text.buffer
    file = file.fileobj if isinstance(file, gzip.GzipFile) else file
    size = os.fstat(file.fileno()).st_size
    return min(1.0, file.tell() / size) if size else 1.0


def _opened(path: Path) -> Any:
    with path.open("rb") as file:
        compressed = file.read(2) == _GZIP_MAGIC
    return gzip.open(path, "rb") if compressed else path.open("rb")


def _line_of_bad_text(path: Path) -> int:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    raise AssertionError("text that does not decode has a line that does not")


def _can_be(path: Path) -> bool:
    """Whether a file can have that name, as one in a settings file may not."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    if not _can_be(path):
        raise InputError(f"{path}: no file can be called so; check the path")
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError(f"{path}: is a pipe or device, read more than once; save it as a file")
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a directory; give one of its files") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: the gzip data are damaged or end too early ({error}); fetch the file again"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
