"""Sorting again what has hardly changed, as rounds of splitting do."""

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.compiled import allocating_kernel


def resorted(values: Floats, before: Ints | None) -> Ints:
    """`np.argsort(values, kind="stable")`, fast where `before`, any order of all rows, is near it:
    numpy's stable sort takes what is in order as it is.
    """
    if before is None:
        return np.argsort(values, kind="stable").astype(np.int64, copy=False)
    order: Ints = before[np.argsort(values[before], kind="stable")]
    _order_ties(values, order)
    return order


@allocating_kernel
def _order_ties(values: Floats, order: Ints) -> None:
    """Put rows of equal values in their own order."""
    start = 0
    is_ascending = True
    for i in range(1, len(order) + 1):
        if i < len(order) and values[order[i]] == values[order[start]]:
            is_ascending = is_ascending and order[i - 1] < order[i]
            continue
        if not is_ascending:
            order[start:i] = np.sort(order[start:i])
        start = i
        is_ascending = True
