"""Arrival times as files write them: seconds, or a date and time with or without a zone."""

from datetime import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from blendsim.arrays import Floats

LATEST = 1e18  # beyond any clock's ticks since any epoch

LACKS_TIME = "is missing: give all rows a time or none"
NO_TIME = "is not a time: give seconds, or a date and time"


class Arrivals(NamedTuple):
    """When requests arrive, and what there is to say of it."""

    seconds: Floats  # (n,), from the earliest
    notes: tuple[str, ...]


def seconds_from_first(texts: pa.ChunkedArray) -> Floats | None:
    """Seconds from the earliest of `texts`, or None if not all are times of one kind."""
    for kind, unit in (
        (pa.float64(), 1.0),
        (pa.timestamp("ns"), 1e-9),
        (pa.timestamp("ns", "UTC"), 1e-9),
    ):
        try:
            values = texts.cast(kind).to_numpy()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # numbers are no dates
            continue
        if values.dtype.kind == "M":
            ticks = values.astype("datetime64[ns]").astype(np.int64)
            return np.asarray((ticks - ticks.min()) * unit, np.float64)
        if (np.abs(values) < LATEST).all():  # NaN is not
            return np.asarray(values - values.min(), np.float64)
    return None


def arrivals(texts: pa.ChunkedArray, column: str) -> Arrivals | None:
    """Seconds from the earliest of `texts`, and what there is to note: a column that is empty (null
    in JSON), or that says the same in every row and is no time, means all at 0. None if it cannot
    be read.
    """
    are_given = texts.null_count == 0
    seconds = seconds_from_first(texts) if are_given else None
    if seconds is not None:
        return Arrivals(seconds, ())
    said = str(texts[0].as_py()) if are_given else ""
    is_empty = not said.strip()
    if len(texts.unique()) > 1 or not (is_empty or len(texts) > 1):
        return None
    note = f"every {column} is {'empty' if is_empty else repr(said)}; all requests arrive at 0"
    return Arrivals(np.zeros(len(texts)), (note,))


def time_fault(text: str) -> str | None:
    """Why a text cannot be an arrival, or None if it can."""
    if not text.strip():
        return LACKS_TIME
    return None if is_time(text) else NO_TIME


def is_time(text: str) -> bool:
    """Whether `text` is a number of seconds or an ISO date and time."""
    if not text.isascii():
        return False
    try:
        return abs(float(text)) < LATEST
    except ValueError:
        pass
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
