"""What a kit weighs beside what may be carried in at once, and an archive cut to fit."""

import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

MIB = 2**20
_UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": MIB, "GiB": 2**30, "kB": 10**3, "MB": 10**6}
_BLOCK = 512  # a tar has one of them for a name, and whole ones for content


def read_size(text: str) -> int:
    """Bytes of "64MiB", "50 MB" or "1000000"; ValueError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", text.strip())
    if found is None or found[2] not in _UNITS:
        known = ", ".join(unit for unit in _UNITS if unit)
        raise ValueError(f"{text!r} is no size; write a number and one of {known}")
    return int(float(found[1]) * _UNITS[found[2]])


def told(size: int) -> str:
    """A size as tables and messages have it."""
    return f"{size / MIB:.1f} MiB"


def weight(places: Iterable[Path]) -> int:
    """Bytes of files, and of all files below folders, as a tar counts them."""
    files = (file for place in places for file in ([place] if place.is_file() else _below(place)))
    return sum(_BLOCK + -(-file.stat().st_size // _BLOCK) * _BLOCK for file in files)


def _below(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if path.is_file()]


def tree_files(root: Path) -> list[Path]:
    """What travels of a checkout: all that git does not ignore. ValueError if it is none."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others"]
    done = subprocess.run([*command, "--exclude-standard"], capture_output=True, check=False)
    if done.returncode:
        raise ValueError(f"{root} is no git checkout, so it cannot be told what travels with it")
    named = (root / os.fsdecode(name) for name in done.stdout.split(b"\0") if name)
    return [path for path in named if path.is_file()]


def cut(total: int, beside: int, alone: int) -> list[int]:
    """Sizes of the parts that `total` bytes are carried in, as few as can be, each with a call that
    has room for `alone`. The first is no more than `beside`, the room that the base leaves, where
    that makes no part more. ValueError if there is no room.
    """
    if beside <= 0 or alone <= 0:
        raise ValueError(f"{told(max(beside, 0))} are left for parts of {told(total)}")
    fewest = -(-total // alone)
    fits_beside = total <= beside + (fewest - 1) * alone
    sizes = [min(total, beside if fits_beside else alone)]
    while sum(sizes) < total:
        sizes.append(min(total - sum(sizes), alone))
    return sizes
