"""The plain orders: rows of the workload in the order they came, at random, or by prefix."""

import numpy as np

from blendsim.arrays import Bools, Ints
from blendsim.planner.tree import PoolTree


def fcfs(rows: Bools) -> Ints:
    """The requests `rows` (a mask) in row order."""
    return np.flatnonzero(rows).astype(np.int64)


def shuffled(rows: Bools, rng: np.random.Generator) -> Ints:
    """The requests `rows` at random: the paper's Balance."""
    return rng.permutation(fcfs(rows))


def dfs(rows: Bools, tree: PoolTree) -> Ints:
    """The requests `rows` in the prefix tree's depth-first order, source after source."""
    return tree.order[rows[tree.order]]
