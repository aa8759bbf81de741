"""What a token count in a file may be: one rule, vectorised for reading and by value for saying
what is wrong.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blendsim.arrays import Bools, Floats
from blendsim.errors import InputError
from blendsim.request import MOST_TOKENS

NO_REQUESTS = "holds no requests; give a trace with at least one"

_ZERO = {
    "prompt": "is zero: a request has at least one prompt token; remove the row",
    "output": "is zero: nothing was generated; remove the row (a failed request is no work)",
    "limit": "is zero: remove it if the request sets no limit",
}


def numbers(table: pa.Table, name: str) -> Floats:
    """A column of numbers, NaN where there is none."""
    return np.asarray(table[name].to_numpy(zero_copy_only=False), np.float64)


def are_wrong(values: Floats, least: int = 1) -> Bools:
    """Which values are not whole numbers of tokens; NaN stands for missing."""
    with np.errstate(invalid="ignore"):
        fine: Bools = (values >= least) & (values <= MOST_TOKENS) & (values == np.floor(values))
    return ~fine


#: Cells that CSV readers take for missing numbers.
_MISSING = frozenset({"", "na", "n/a", "#n/a", "#na", "nan", "-nan", "null", "<na>"})


def fault(value: object, what: str) -> str | None:
    """Why `value` cannot be a number of `what` tokens, or None if it can; a prefix may be empty."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "is missing: give a whole number of tokens or remove the row"
    number = _number(value)
    if number is None:
        return "is not a number: give a whole number of tokens"
    if number != number:
        return "is not a number of tokens: give a whole number or remove the row"
    if number < 0:
        return "is negative: token counts are 1 or more"
    if number > MOST_TOKENS:
        return f"is absurd: more than {MOST_TOKENS:,} tokens; check the column's unit"
    if number != int(number):
        return "is not a whole number of tokens: round it or remove the row"
    return _ZERO.get(what) if number == 0 else None


def is_missing(cell: str) -> bool:
    """Whether CSV readers take the cell for a missing number."""
    return cell.strip().lower() in _MISSING


def is_no_limit(cell: str) -> bool:
    """Whether a cell of a limit's column sets none: it is missing, or 0."""
    return is_missing(cell) or _number(cell) == 0


def whole(value: object, what: str, where: str) -> int:
    """`value` as a number of tokens, or InputError beginning with `where`."""
    reason = fault(value, what)
    if reason is not None:
        raise InputError(
            f"{where} {reason}" if value is None else f"{where}: {shown(value)} {reason}"
        )
    number = _number(value)
    assert number is not None, "a value without fault is a number"
    return int(number)


def shown(value: object) -> str:
    """A value as an error quotes it: short."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 40 else text[:37] + "…" + text[-1]


def require_rows(number: int, path: Path) -> None:
    """Refuse a trace without requests."""
    if number == 0:
        raise InputError(f"{path}: {NO_REQUESTS}")


def compact(units: NDArray[Any]) -> NDArray[Any]:
    """Units as int32 where they fit, and never below zero; equal stays equal, order may change."""
    units = np.ascontiguousarray(units)
    if len(units) and units.min() < 0:
        units = np.unique(units, return_inverse=True)[1]
    narrow = not len(units) or units.max() < 2**31
    # NOTE: always a fresh array. Kernels compile once more for read-only ones such as Arrow's.
    return units.astype(np.int32 if narrow else np.int64, copy=True)


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:  # JSON has whole numbers of any length
            return float("inf") if value > 0 else float("-inf")
    if isinstance(value, str) and "_" not in value:
        try:
            return float(value)
        except ValueError:
            return None
    return None
