"""The plain orders: rows of the workload in the order they came, at random, or by prefix."""

import numpy as np
from numpy.typing import NDArray

from blendsim.planner.tree import PoolTree
from blendsim.request import Ints


def fcfs(rows: NDArray[np.bool_]) -> Ints:
    """The requests `rows` (a mask) in row order."""
    return np.flatnonzero(rows).astype(np.int64)


def shuffled(rows: NDArray[np.bool_], rng: np.random.Generator) -> Ints:
    """The requests `rows` at random: the paper's Balance."""
    return rng.permutation(fcfs(rows))


def dfs(rows: NDArray[np.bool_], tree: PoolTree) -> Ints:
    """The requests `rows` in the prefix tree's depth-first order, source after source."""
    return tree.order[rows[tree.order]]
