"""Arrival times as files write them: seconds, or a date and time with or without a zone."""

from datetime import datetime
from math import isfinite

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def seconds_from_first(texts: pa.ChunkedArray) -> NDArray[np.float64] | None:
    """Seconds from the earliest of `texts`, or None if not all are times of one kind."""
    for kind, unit in (
        (pa.float64(), 1.0),
        (pa.timestamp("ns"), 1e-9),
        (pa.timestamp("ns", "UTC"), 1e-9),
    ):
        try:
            values = texts.cast(kind).to_numpy()
        except pa.ArrowInvalid:
            continue
        if values.dtype.kind == "M":
            ticks = values.astype("datetime64[ns]").astype(np.int64)
            return np.asarray((ticks - ticks.min()) * unit, np.float64)
        if np.isfinite(values).all():
            return np.asarray(values - values.min(), np.float64)
    return None


def is_time(text: str) -> bool:
    """Whether `text` is a number of seconds or an ISO date and time."""
    try:
        return isfinite(float(text))
    except ValueError:
        pass
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
