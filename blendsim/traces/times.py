"""Arrival times as files write them: seconds, or a date and time with or without a zone."""

from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

LATEST = 1e18  # beyond any clock's ticks since any epoch

#: Why a text cannot be an arrival.
NO_TIME = "is not a time: give seconds, or a date and time"


def seconds_from_first(texts: pa.ChunkedArray) -> NDArray[np.float64] | None:
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


def arrivals(
    texts: pa.ChunkedArray, column: str, path: Path
) -> tuple[NDArray[np.float64], tuple[str, ...]] | None:
    """Seconds from the earliest of `texts`, and what there is to note: a column that says the same
    in every row and is no time means all at 0. None if it cannot be read.
    """
    seconds = seconds_from_first(texts)
    if seconds is not None:
        return seconds, ()
    if len(texts) > 1 and len(texts.unique()) == 1:
        note = f"{path}: every {column} is {texts[0].as_py()!r}; all requests arrive at 0"
        return np.zeros(len(texts)), (note,)
    return None


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
