"""The pieces that a kit is put together from, each a folder that is there as a whole or not at all.

A folder is filled under another name, gets a note of what it was made of, and is then renamed. One
with the very note is done and is not made again; one that broke off is made anew.
"""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpu_options import say

NOTE = "made.json"


class Missing(Exception):
    """A piece could not be made; says what, where and why in one line."""


class Piece(NamedTuple):
    """A folder, what it is made of (plain data, without which it is not the same), who fills it,
    and the names of the pieces it is made from.
    """

    name: str
    place: Path
    of: Mapping[str, Any]
    fill: Callable[[Path], None]
    needs: tuple[str, ...] = ()

    @property
    def is_made(self) -> bool:
        """Whether it is there and of just this."""
        note = self.place / NOTE
        return note.exists() and json.loads(note.read_text()) == json.loads(json.dumps(self.of))


def make(one: Piece) -> None:
    """Have a folder filled, unless it is made already."""
    if one.is_made:
        say(f"{one.name}: done before")
        return
    say(f"{one.name} …")
    if one.place.exists() and not (one.place / NOTE).exists():
        raise Missing(f"{one.place} is there and is not of a kit; choose another -o or move it")
    part = one.place.with_name(f".{one.place.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    one.fill(part)
    (part / NOTE).write_text(json.dumps(one.of, indent=1))
    shutil.rmtree(one.place, ignore_errors=True)
    part.rename(one.place)


def make_all(pieces: Iterable[Piece]) -> dict[str, str]:
    """Make all that can be made; why others are missing, by name."""
    missing: dict[str, str] = {}
    for one in pieces:
        if any(name in missing for name in one.needs):
            missing[one.name] = ""  # what it needs is named already
            continue
        try:
            make(one)
        except Missing as error:
            missing[one.name] = str(error)
            say(f"{one.name}: {error}")
    return missing


def run(command: Sequence[str | Path], log: Path, **environment: str) -> None:
    """Run a command, what it says going to a file; Missing, with its last line, if it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        done = subprocess.run(
            command, stdout=file, stderr=file, check=False, env=os.environ | environment
        )
    if done.returncode:
        said = [
            line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()
        ]
        raise Missing(f"{(said or ['it failed without a word'])[-1]} (see {log})")


def fingerprint(places: Iterable[Path]) -> str:
    """SHA-256 over files and over all below folders, names included, caches left out."""
    digest = hashlib.sha256()
    for place in places:
        below = (p for p in place.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        for file in sorted([place] if place.is_file() else below):
            digest.update(str(file.relative_to(place.parent)).encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
