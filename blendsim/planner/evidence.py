"""Which visible output lengths say something of the others, and where in the tree they stand."""

import numpy as np

from blendsim.arrays import Bools, Ints
from blendsim.compiled import allocating_kernel
from blendsim.planner.tree import PoolTree
from blendsim.request import Workload


def evidence(workload: Workload, tree: PoolTree, is_visible: Bools) -> Bools:
    """(n,) by leaf position: whose visible length says something about the others' lengths. What is
    known because it is the request's own limit says nothing.
    """
    is_limit = (workload.output_limit > 0) & (workload.output_len == workload.output_limit)
    is_visible = is_visible & ~(workload.is_known & is_limit)
    is_observed = (is_visible & ~workload.is_known)[tree.order]
    sources = int(tree.group.max(initial=-1)) + 1
    has_sample = np.bincount(tree.group[is_observed], minlength=sources) > 0
    return is_visible[tree.order] & (is_observed | ~has_sample[tree.group])


def is_alone(tree: PoolTree) -> Bools:
    """(n,) by leaf position: requests that share no prefix with anyone, so hang from their source.

    They learn from each other first: requests with a common prefix are often another kind of work.
    """
    return np.equal(tree.parent[tree.leaf_parent], 0)


def is_unlearned(workload: Workload, tree: PoolTree, is_visible: Bools) -> Bools:
    """(n,) by row: requests not visible, of sources of which no length is."""
    sources = int(tree.group.max(initial=-1)) + 1
    has_seen = np.bincount(tree.group[evidence(workload, tree, is_visible)], minlength=sources) > 0
    found = np.empty(len(workload), np.bool_)
    found[tree.order] = ~has_seen[tree.group]
    return found & ~is_visible


@allocating_kernel
def deepest_nodes(parent: Ints, count: Ints) -> Ints:
    """The deepest node with evidence at or above each node, the root apart; −1 without any."""
    node = np.full(len(parent), -1)
    for k in range(1, len(parent)):
        if count[k] > 0:
            node[k] = k
        elif parent[k] > 0:
            node[k] = node[parent[k]]
    return node
