"""What a step log may say, column by column and in its metadata (those of a plan say the same), so
that whoever reads one meets no surprise. Rows are counted from 0, as in `measured_rows`.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blendsim.errors import InputError

MOST_SECONDS = 1e12  # no run lasts so long; sums of more would lose the steps
MOST_COUNT = 1e15  # of a step, query-key pairs included


def require_range(name: str, values: NDArray[Any], most: float, path: Path) -> None:
    """InputError unless all values of a column are from 0 to `most`; NaN is not."""
    wrong = ~((values >= 0) & (values <= most))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{path}: {name} = {values[row]:g} in row {row:,}; no run has less than 0 or more than "
            f"{most:g}, run it again"
        )


def require_metadata(meta: Mapping[str, Any], rows: int, path: Path) -> None:
    """InputError unless the metadata that are there are of the kinds that docs/steplog.md tells,
    for a log, or a plan, of so many rows.
    """
    for name, (is_sound, kind) in _KINDS.items():
        if name in meta and not is_sound(meta[name]):
            raise InputError(f"{path}: {name} in its metadata is not {kind}; make it again")
    for row in meta.get("measured_rows", ()):
        if not 0 <= row < rows:
            raise InputError(
                f"{path}: measured_rows in its metadata names row {row:,}, there are {rows:,}; "
                "replay again"
            )
    for first, behind in meta.get("halved", ()):
        if not 0 <= first < behind <= rows:
            raise InputError(
                f"{path}: halved in its metadata names rows {first:,} to {behind:,}, there are "
                f"{rows:,}; replay again"
            )


def _is_machine(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("device", ""), str)


def _is_source(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and are_texts(value.get("traces"))
        and isinstance(value.get("read"), Mapping)
        and isinstance(value.get("skip_oversize"), bool)
    )


def _is_estimate(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and is_whole(value.get("measured"))
        and all(is_number(value.get(name)) for name in ("low", "high", "level"))
    )


def are_texts(value: object) -> bool:
    """Whether a value read from JSON is a list of texts."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _are_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_whole, value))


def _are_ranges(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, list) and len(each) == 2 and all(map(is_whole, each)) for each in value
    )


def is_whole(value: object, least: float = -math.inf, most: float = math.inf) -> bool:
    """Whether a value read from JSON is a whole number between these."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: object) -> bool:
    """Whether a value read from JSON is a finite number, if whole of 64 bits at most."""
    if isinstance(value, float):
        return math.isfinite(value)
    return is_whole(value, -(2**63), 2**63 - 1)


def _is_object(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


#: What is read of the metadata: whether a value is sound, and what it should be.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "settings": (_is_object, "an object"),
    "model_spec": (_is_object, "an object"),
    "source": (_is_source, "an object with traces, read and skip_oversize"),
    "machine": (_is_machine, "an object with a device"),
    "estimate": (_is_estimate, "an object with measured, low, high and level"),
    "measured_rows": (_are_rows, "a list of rows"),
    "halved": (_are_ranges, "a list of pairs of rows"),
    "not_counted": (are_texts, "a list of columns"),
    "notes": (are_texts, "a list of sentences"),
    "complete": (_is_bool, "true or false"),
}
