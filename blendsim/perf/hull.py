"""The lower convex hull of points in the plane: what is cheapest by turns."""

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.compiled import kernel


@kernel
def lower_hull(x: Ints | Floats, y: Floats, corners: Ints) -> int:
    """Fill `corners` with the indices of the corners of the points' lower convex hull, x ascending;
    returns how many.
    """
    n = 0
    for i in range(len(x)):
        while n > 1:
            p, q = corners[n - 2], corners[n - 1]
            if (y[q] - y[p]) * (x[i] - x[p]) < (y[i] - y[p]) * (x[q] - x[p]):
                break
            n -= 1
        corners[n] = i
        n += 1
    return n


def hull_corners(x: Ints | Floats, y: Floats) -> Ints:
    """The corners of the points' lower convex hull, x ascending, outside of compiled code."""
    corners = np.empty(len(x), np.int64)
    # The plain twin, as a few hundred points are not worth compiling anything for.
    return corners[: lower_hull.py_func(x, y, corners)]
