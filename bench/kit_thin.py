"""GPU code that a kit's machine cannot use, zeroed in shared libraries: it packs to nothing then.

What nvcc compiled lies in a library as fat binaries, each a header and entries, an entry for every
architecture and once more as PTX, from which a driver compiles for others:

    header of a fat binary    u32 magic  u16 version  u16 header's bytes  u64 entries' bytes
    header of an entry        u16 kind  u16 …  u32 header's bytes  u64 payload's bytes  …
                              u32 architecture, at byte 28

Payloads are zeroed where they lie: sizes, headers and the rest of the library stay. What would have
run from PTX alone runs no more.
"""

import os
import shutil
import struct
from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple

_MAGIC = struct.pack("<I", 0xBA55ED50)
_HEADER = struct.Struct("<4sHHQ")
_ENTRY = struct.Struct("<HHIQ12xI")
_VERSION = 1
_PTX = 1


class Odd(Exception):
    """A fat binary that is not as described above."""


class Thinned(NamedTuple):
    """What came of it: bytes zeroed, in how many files, and files left alone for being odd."""

    zeroed: int
    files: int
    odd: tuple[Path, ...]


def thin(tree: Path, archs: Container[int]) -> Thinned:
    """Zero, in all `.so` files below a folder, machine code for other architectures than `archs`
    (90 is Hopper) and all PTX. Every file is replaced as a whole. One with a fat binary that is not
    understood to its end stays as it is.
    """
    zeroed, files, odd = 0, 0, []
    for path in sorted(tree.rglob("*.so")):
        if path.is_symlink() or not path.is_file():
            continue
        try:
            count = _thin_file(path, archs)
        except Odd:
            odd.append(path)
            continue
        zeroed, files = zeroed + count, files + (count > 0)
    return Thinned(zeroed, files, tuple(odd))


def _thin_file(path: Path, archs: Container[int]) -> int:
    content = bytearray(path.read_bytes())
    found = list(useless(content, archs))
    for payload in found:
        content[payload] = bytes(payload.stop - payload.start)
    if found:
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(content)
        shutil.copymode(path, part)
        os.replace(part, path)
    return sum(payload.stop - payload.start for payload in found)


def useless(content: bytes | bytearray, archs: Container[int]) -> Iterator[slice]:
    """Payloads that nothing with one of `archs` runs. Odd if sizes do not fit into each other."""
    at = content.find(_MAGIC)
    while at >= 0:
        end = _end_of(content, at)
        if end is not None:
            yield from _useless_entries(content, at + _HEADER.size, end, archs)
        at = content.find(_MAGIC, at + len(_MAGIC) if end is None else end)


def _end_of(content: bytes | bytearray, at: int) -> int | None:
    """Where a fat binary ends; None where only its magic stands, as in code that looks for it."""
    if at + _HEADER.size > len(content):
        return None
    _, version, header, size = _HEADER.unpack_from(content, at)
    if (version, header) != (_VERSION, _HEADER.size):
        return None
    end: int = at + header + size
    if end > len(content):
        raise Odd
    return end


def _useless_entries(
    content: bytes | bytearray, at: int, end: int, archs: Container[int]
) -> Iterator[slice]:
    while at < end:
        if at + _ENTRY.size > end:
            raise Odd
        kind, _, header, size, arch = _ENTRY.unpack_from(content, at)
        begin, after = at + header, at + header + size
        if header < _ENTRY.size or after > end:
            raise Odd
        if size and (kind == _PTX or arch not in archs):
            yield slice(begin, after)
        at = after
