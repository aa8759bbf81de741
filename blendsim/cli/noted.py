"""Paths that plans and step logs note: relative to where their command ran, or beside the file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PATHS = ("model", "profile", "tokenizer", "lengths")  # settings and options that may be some


def settled(noted: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Settings or options for reading that `file` notes, with those that are paths as they are
    found.
    """
    paths = {name: noted.get(name) for name in _PATHS}
    return {**noted, **{k: found(v, file) for k, v in paths.items() if isinstance(v, str)}}


def settled_source(source: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """What `file` notes of its traces and how they were read, with all paths as they are found."""
    traces = [found(trace, file) for trace in source["traces"]]
    return {**source, "read": settled(source["read"], file), "traces": traces}


def found(noted: str, file: Path) -> str:
    """What `file` notes, or the file or directory of that name beside it if there is none here.
    Names of tables and demo sources are as they are.
    """
    from blendsim.perf.measured import AUTO, IMPORTED, MEASURED
    from blendsim.specs import MODELS

    if noted in MODELS or noted in (AUTO, IMPORTED, MEASURED) or is_there(noted):
        return noted
    beside = str(file.parent / noted)
    return beside if is_there(beside) else noted


def is_there(name: str) -> bool:
    """Whether there is a file or directory of that name."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # no path at all: too long, or with a NUL
        return False
