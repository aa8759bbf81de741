"""Packages for another machine: wheels, FlashInfer with its kernels, archives cut into parts."""

import hashlib
import os
import shutil
import sys
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kit_pieces import run

PREBUILD = Path(__file__).resolve().parents[1] / "runtime" / "prebuild.py"
QUIET = {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}

#: The machine wheels are for: its Python, and the C library's minor version; None for this one.
There = Mapping[str, Any] | None


def fetch(pins: Sequence[str], there: There, log: Path, into: Path) -> None:
    """Download wheels, without what they ask for."""
    command = [*_pip("download", there), "--no-deps", "--only-binary=:all:", "-d", into, *pins]
    run(command, log, **QUIET)


def install(wheels: Path, there: There, log: Path, into: Path) -> None:
    """Unpack wheels side by side into a folder for PYTHONPATH, without a network."""
    command = [*_pip("install", there), "--no-deps", "--no-index", "--only-binary=:all:"]
    files = sorted(wheels.glob("*.whl"))
    run([*command, "--no-compile", "--target", into, *files], log, **QUIET)


def _pip(verb: str, there: There) -> list[str | Path]:
    """A pip that takes what a machine takes."""
    pip: list[str | Path] = [sys.executable, "-m", "pip", verb, "-q"]
    if there is None:
        return pip
    known = [f"manylinux_2_{n}_x86_64" for n in range(there["glibc"], 4, -1)]
    known += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    platforms = [f"--platform={name}" for name in known]
    return [*pip, "--implementation=cp", f"--python-version={there['python']}", *platforms]


def build_kernels(tools: Path, kernels: Sequence[str], jobs: int, log: Path, into: Path) -> None:
    """FlashInfer with compiled kernels. What was compiled before a build broke off is kept, in a
    folder beside `into`, and is not compiled again.
    """
    command: list[str | Path] = [
        sys.executable,
        PREBUILD,
        *kernels,
        "-o",
        into,
        "--jobs",
        str(jobs),
    ]
    tools = tools.resolve()  # compilers run elsewhere
    places = [str(tools), *filter(None, [os.environ.get("PYTHONPATH")])]
    path = [str(tools / "bin"), os.environ["PATH"]]  # ninja
    run(command, log, PYTHONPATH=os.pathsep.join(places), PATH=os.pathsep.join(path))


def archive(tree: Path, left_out: Iterable[str], place: Path) -> None:
    """A folder as one file that xz has packed, without what is left out."""
    for name in left_out:
        found = tree / name
        if found.is_dir():
            shutil.rmtree(found)
        else:
            found.unlink(missing_ok=True)
    with tarfile.open(place, "w:xz", preset=6) as packed:
        packed.add(tree, ".", filter=_of_nobody)


def _of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def split(packed: Path, number: int, sizes: Sequence[int], into: Path) -> None:
    """Write one part of a file, counted from 1, and the SHA-256 of the whole."""
    content = packed.read_bytes()
    begin = sum(sizes[: number - 1])
    part = into / f"{packed.name}.{number}-of-{len(sizes)}"
    part.write_bytes(content[begin : begin + sizes[number - 1]])
    (into / f"{packed.name}.sha256").write_text(f"{hashlib.sha256(content).hexdigest()}\n")
