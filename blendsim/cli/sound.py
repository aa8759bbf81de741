"""A step log read and looked over, so that a page of it can be made without a surprise."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blendsim.steplog import StepLog


def read_sound(path: Path) -> "StepLog":
    """The log at `path`. InputError unless it has steps that took time, all of it finite, and its
    metadata, where they are there, are of the kinds that docs/steplog.md tells.
    """
    from blendsim.errors import InputError
    from blendsim.steplog import read_steplog

    try:
        log = read_steplog(path)
    except TypeError as error:  # NOTE: it takes rows in the metadata to be a list
        raise InputError(
            f"{path}: measured_rows in its metadata are damaged; run it again"
        ) from error
    for name, (is_sound, kind) in _KINDS.items():
        if name in log.meta and not is_sound(log.meta[name]):
            raise InputError(f"{path}: {name} in its metadata is not {kind}; run it again")
    _require_times(log, path)
    return log


def _require_times(log: "StepLog", path: Path) -> None:
    import numpy as np

    from blendsim.errors import InputError
    from blendsim.steplog import TIMES

    for name in TIMES:
        wrong = ~(np.isfinite(log.time(name)) & (log.time(name) >= 0))
        if wrong.any():
            row = int(np.argmax(wrong))
            value = log.time(name)[row]
            raise InputError(f"{path}: {name} = {value:g} in row {row:,}; run it again")
    if not len(log) or not log.time("seconds")[log.is_measured].sum() > 0:
        raise InputError(f"{path}: holds no steps that took time; run it again")


def _is_machine(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("device", ""), str)


def _is_source(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and _are_texts(value.get("traces"))
        and isinstance(value.get("read"), Mapping)
        and isinstance(value.get("skip_oversize"), bool)
    )


def _is_estimate(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and _is_whole(value.get("measured"))
        and all(_is_number(value.get(name)) for name in ("low", "high", "level"))
    )


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _are_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_whole, value))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_object(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


#: What a page reads of the metadata: whether a value is sound, and what it should be.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "settings": (_is_object, "an object"),
    "source": (_is_source, "an object with traces, read and skip_oversize"),
    "machine": (_is_machine, "an object with a device"),
    "estimate": (_is_estimate, "an object with measured, low, high and level"),
    "measured_rows": (_are_rows, "a list of rows"),
    "not_counted": (_are_texts, "a list of columns"),
    "complete": (_is_bool, "true or false"),
}
