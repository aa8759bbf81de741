"""Layer-wise sort (§5.2, Alg. 1): each node's children by density, densest first, in one pass.

The children of all nodes are ranked once by density and dealt out to their parents in that order;
then every child's place follows from its parent's.
"""

from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.compiled import allocating_kernel
from blendsim.planner.resort import resorted
from blendsim.planner.tree import NodeCosts, density


class Layers(NamedTuple):
    """A tree laid out left to right."""

    sequence: Ints  # (n,) leaf at place i
    leaf_density: Floats  # (n,) by leaf
    node_density: Floats  # (m,)
    by_density: Ints  # (m + n,) nodes and leaves by seniority, as they are ranked: densest first


def seniority(first: Ints, last: Ints) -> Ints:
    """Nodes (k) and leaves (m + i) by first leaf, a node before what it holds: it breaks ties."""
    leaf = np.arange(last[0]) if len(last) else np.zeros(0, np.int64)
    start = np.concatenate((first, leaf))
    width = np.concatenate((last - first, np.zeros(len(leaf), np.int64)))
    return np.lexsort((np.arange(len(start)), -width, start))


def sort_layers(
    parent: Ints,
    leaf_parent: Ints,
    costs: NodeCosts,
    senior: Ints,
    before: Layers | None = None,
) -> Layers:
    """Lay the tree out with every node's children in non-increasing density; ties by `senior`.

    Parents come before children. A node without leaves takes no place. `before` is how the tree was
    laid out when it was little different, which saves time.
    """
    leaf_density = density(costs.leaf_compute, costs.leaf_memory)
    node_density = density(costs.compute, costs.memory)
    by_density = resorted(
        -np.concatenate((node_density, leaf_density))[senior],
        None if before is None else before.by_density,
    )
    sequence = _deal(parent, leaf_parent, costs.leaves, senior[by_density])
    return Layers(sequence, leaf_density, node_density, by_density)


@allocating_kernel
def _deal(parent: Ints, leaf_parent: Ints, leaves: Ints, ranked: Ints) -> Ints:
    """Places of all leaves, given all nodes and leaves from densest to least dense."""
    n, m = len(leaf_parent), len(parent)
    end = np.zeros(m + 1, np.int64)  # children of node k end at end[k] once dealt
    for k in range(1, m):
        end[parent[k] + 1] += 1
    for i in range(n):
        end[leaf_parent[i] + 1] += 1
    for k in range(m):
        end[k + 1] += end[k]
    children = np.empty(n + m, np.int64)
    for child in ranked:
        if child == 0:
            continue
        up = leaf_parent[child - m] if child >= m else parent[child]
        children[end[up]] = child
        end[up] += 1
    start = np.zeros(m, np.int64)
    sequence = np.empty(n, np.int64)
    low = 0
    for k in range(m):
        place = start[k]
        for c in range(low, end[k]):
            child = children[c]
            if child >= m:
                sequence[place] = child - m
                place += 1
            else:
                start[child] = place
                place += leaves[child]
        low = end[k]
    return sequence
