"""Even out the compute-heavy end of a paced plan.

Where lengths are not known, many requests are about as dense as each other, and what order is left
among them is that of their prompts: first all long ones, then all short ones. Every stretch of the
line should rather be a sample of them all, so that early in the run as many requests decode as
late.
"""

import numpy as np

from blendsim.arrays import Bools, Floats, Ints
from blendsim.pacing import ABOUT_THE_SAME, is_compute_heavy

GOLDEN = 0.5 * (5.0**0.5 - 1.0)  # the fractions of its multiples are spread most evenly


def evened(density: Floats, root_density: float, is_visible: Bools) -> Ints:
    """Places of requests, given by falling `density` of their nodes, in a new order: the nodes of
    the compute-heavy end that are about as dense as each other take turns, so that every stretch is
    a sample of them all. The others follow as they were. A node's requests stay together and in
    order, those of each end. `is_visible` says whose length planning saw.
    """
    places = np.arange(len(density))
    dense = is_compute_heavy(density, max(root_density, np.finfo(np.float64).tiny), is_visible)
    if not dense.any():
        return places
    rho = density[dense]
    begins = np.append(True, rho[1:] != rho[:-1])
    level = np.floor(np.log(rho[begins]) / np.log(ABOUT_THE_SAME))
    number = np.arange(len(level))
    in_level = number - np.searchsorted(-level, -level)
    turn = np.empty(len(level), np.int64)
    turn[np.lexsort((in_level * GOLDEN % 1.0, -level))] = number
    node = np.cumsum(begins) - 1
    return np.append(places[dense][np.argsort(turn[node], kind="stable")], places[~dense])
