"""Orders for one line: rows of the workload as they came, at random, by prefix, or by prefix with
the longest answers first.
"""

import numpy as np

from blendsim.arrays import Bools, Ints
from blendsim.compiled import allocating_kernel
from blendsim.planner.tree import PoolTree
from blendsim.prefix import largest_below


def fcfs(rows: Bools) -> Ints:
    """The requests `rows` (a mask) in row order."""
    return np.flatnonzero(rows).astype(np.int64)


def shuffled(rows: Bools, rng: np.random.Generator) -> Ints:
    """The requests `rows` at random: the paper's Balance."""
    return rng.permutation(fcfs(rows))


def dfs(rows: Bools, tree: PoolTree) -> Ints:
    """The requests `rows` in the prefix tree's depth-first order, source after source."""
    return tree.order[rows[tree.order]]


def longest(rows: Bools, tree: PoolTree, expected: Ints) -> Ints:
    """The requests `rows` in a depth-first order of the prefix tree that at every branching takes
    the subtree with the longest answer first, of all sources; `expected` has one a request.

    What ends last starts first, which is how a list schedule comes close to the shortest (R. L.
    Graham, Bounds on Multiprocessing Timing Anomalies, 1969), and no prefix is left and come back
    to. Equally long ones stay as `dfs` has them.
    """
    answer = np.where(rows, expected, 0)[tree.order]
    is_source = tree.parent == 0  # one stands for what is unrelated
    is_source[0] = False
    parent, leaf_parent = (np.where(is_source[at], 0, at) for at in (tree.parent, tree.leaf_parent))
    largest = largest_below(answer, parent, leaf_parent)
    nodes = np.flatnonzero(~is_source)[1:]
    # Children of a node, leaves among them, stand together, those with the longest answer first.
    above = np.concatenate((parent[nodes], leaf_parent))
    size = np.concatenate(((tree.last - tree.first)[nodes], np.ones_like(leaf_parent)))
    first = np.concatenate((tree.first[nodes], np.arange(len(leaf_parent))))
    family = np.lexsort((first, -np.concatenate((largest[nodes], answer)), above))
    before = np.cumsum(size[family]) - size[family]
    eldest = np.flatnonzero(np.diff(above[family], prepend=-1))
    within = np.empty_like(above)
    within[family] = before - np.repeat(before[eldest], np.diff(eldest, append=len(family)))
    place = _places(parent, leaf_parent, nodes, within)
    order = np.empty_like(tree.order)
    order[place] = tree.order
    return order[rows[order]]


@allocating_kernel
def _places(parent: Ints, leaf_parent: Ints, nodes: Ints, within: Ints) -> Ints:
    """Place of every leaf, when each of the `nodes` and then each leaf begins so many places
    `within` its parent.
    """
    begins = np.zeros(len(parent), np.int64)
    for k in range(len(nodes)):
        begins[nodes[k]] = begins[parent[nodes[k]]] + within[k]
    return begins[leaf_parent] + within[len(nodes) :]
