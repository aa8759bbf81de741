"""Arrange a pool for the dual scanner (§5.2): sort by layers, split outliers, merge neighbours.

The dense end comes first, the memory-heavy end last, and requests that share a prefix stay together
as far as that is worth more than their place.
"""

from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.compiled import allocating_kernel
from blendsim.perf.density import RequestCosts
from blendsim.planner.outliers import top_nodes
from blendsim.planner.split import Split, SplitRule, split
from blendsim.planner.tree import PoolTree, density


class Arrangement(NamedTuple):
    """The pool from the dense end to the memory-heavy end."""

    order: Ints  # (n,) rows of the workload
    density: Floats  # (n,) ρ of the merged node that the row belongs to; never rises
    root_density: float
    leaves_split: int  # requests that left their subtree alone
    subtrees_split: int  # subtrees that left theirs whole
    share_of_leaves_split: float
    threshold: int  # t, tokens of the dearest split
    rounds: int
    sharing_before: int  # tokens shared by neighbours in prefix order
    sharing_after: int  # and in this order
    nodes: int  # top-level nodes after merging


def arrange(tree: PoolTree, costs: RequestCosts, rule: SplitRule, merge_size: int) -> Arrangement:
    """Order the requests of `tree`. `costs` has a row a request of the workload, at expected
    lengths; a merged node holds at most `merge_size` requests.
    """
    done = split(
        tree,
        costs.compute[tree.order],
        costs.memory[tree.order],
        costs.seconds_per_token,
        rule,
    )
    n, sequence = len(tree.order), done.layers.sequence
    node = _merge(_top_places(done), max(merge_size, 1))
    compute = np.bincount(node, done.costs.leaf_compute[sequence]).astype(np.float64)
    memory = np.bincount(node, done.costs.leaf_memory[sequence]).astype(np.float64)
    return Arrangement(
        order=tree.order[sequence],
        density=density(compute, memory)[node],
        root_density=float(density(done.costs.compute[:1], done.costs.memory[:1])[0]),
        leaves_split=done.leaves_moved,
        subtrees_split=done.subtrees_moved,
        share_of_leaves_split=done.leaves_moved / max(n, 1),
        threshold=done.threshold,
        rounds=done.rounds,
        sharing_before=int(tree.common.sum()),
        sharing_after=int(neighbours_common(tree.common, sequence).sum()),
        nodes=len(compute),
    )


def neighbours_common(common: Ints, sequence: Ints) -> Ints:
    """Tokens each leaf of `sequence` shares with the one before it; `common` is in prefix order.

    Two leaves share the least common prefix between them, read off minima over 2ᵏ leaves.
    """
    shared = np.zeros(len(sequence), np.int64)
    low = np.minimum(sequence[1:], sequence[:-1]) + 1
    span = np.maximum(sequence[1:], sequence[:-1]) + 1 - low
    level, width = common, 1
    while len(low):
        fits = (span >= width) & (span < 2 * width)
        at = low[fits]
        shared[1:][fits] = np.minimum(level[at], level[at + span[fits] - width])
        if 2 * width > len(common):
            break
        level, width = np.minimum(level[:-width], level[width:]), 2 * width
    return shared


def _top_places(done: Split) -> Ints:
    """A number per place of the sequence, the same within a top-level subtree, rising by place."""
    leaf = len(done.parent) + done.layers.sequence
    top = top_nodes(done.parent, done.leaf_parent)[leaf]
    return np.cumsum(np.diff(top, prepend=top[:1]) != 0)


@allocating_kernel
def _merge(node: Ints, size: int) -> Ints:
    """Join adjacent nodes, left to right, while together they hold at most `size` requests."""
    merged = np.empty(len(node), np.int64)
    number, held, low = -1, size, 0
    while low < len(node):
        high = low
        while high < len(node) and node[high] == node[low]:
            high += 1
        if held + high - low > size:
            number, held = number + 1, 0
        held += high - low
        merged[low:high] = number
        low = high
    return merged
