"""The resource-aware prefix tree (§5.1): the pool's prefix tree under source nodes, with costs.

A trace without text would make every request its own top-level subtree, so the prefix tree's
top-level subtrees hang from nodes of depth 0, one a source. Everything is a column; parents come
before children, so a pass over the nodes is a loop forwards (downwards) or backwards (upwards).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blendsim.arrays import Floats, Ints
from blendsim.compiled import allocating_kernel
from blendsim.perf.density import RequestCosts
from blendsim.prefix import PrefixTree, SortedPrompts, build_tree
from blendsim.request import Workload

DENSEST = 1e9  # stands for the density of requests that read no memory; finite, so that means exist


class PoolTree(NamedTuple):
    """A prefix tree with source nodes. Leaves are positions of `order`; node k covers first[k] …
    last[k] − 1.

    Node 0 is the root, its children are the source nodes (depth 0), and below them stand the
    prefixes shared by at least two requests. A subtree of several sources belongs to the source
    with most of its requests.
    """

    order: Ints  # (n,) request at leaf position i: source by source, prefix order inside (DFS)
    common: Ints  # (n,) tokens position i shares with position i − 1
    group: NDArray[np.int32]  # (n,) source whose node holds position i
    parent: Ints  # (m,) parent[0] = −1 as the root has none
    depth: Ints  # (m,) prefix tokens; 0 for the root and the source nodes
    first: Ints  # (m,)
    last: Ints  # (m,)
    leaf_parent: Ints  # (n,) the deepest node of position i

    @property
    def group_of_rows(self) -> NDArray[np.int32]:
        """(n,) `group` of each request, where the tree is of all of them."""
        group = np.empty(len(self.order), np.int32)
        group[self.order] = self.group
        return group


class NodeCosts(NamedTuple):
    """Seconds of each leaf and of each node's subtree, every shared prefix computed once.

    A prefix's compute is divided evenly among the requests below it, so a node's costs are the sum
    of its leaves' and the root's are the pool's.
    """

    leaf_compute: Floats  # (n,)
    leaf_memory: Floats  # (n,)
    compute: Floats  # (m,)
    memory: Floats  # (m,)
    leaves: Ints  # (m,) requests below


def pool_tree(workload: Workload, prompts: SortedPrompts, block_tokens: int = 1) -> PoolTree:
    """The tree of the requests in `prompts` (all of the workload or some of it), in full blocks.

    Top-level subtrees stand in the order of their first row, since the order of unrelated prompts
    means nothing.
    """
    common = prompts.common // block_tokens * block_tokens
    starts = np.flatnonzero(common == 0)
    sizes = np.diff(starts, append=len(common))
    if not len(starts):
        empty = np.zeros(0, np.int64)
        return PoolTree(empty, empty, empty.astype(np.int32), *build_tree(empty))
    source = _majority(workload.source[prompts.order], starts, sizes)
    rank = np.lexsort((np.minimum.reduceat(prompts.order, starts), source))
    sizes, source = sizes[rank], source[rank]
    ends = np.cumsum(sizes)
    position = np.repeat(starts[rank] - (ends - sizes), sizes) + np.arange(len(common))
    group = np.repeat(source, sizes).astype(np.int32)
    common = common[position]
    tree = _under_sources(build_tree(common), group)
    return PoolTree(prompts.order[position], common, group, *tree)


def node_costs(tree: PoolTree, costs: RequestCosts) -> NodeCosts:
    """Σcompute and Σmemory of every node, sharing included (ρ is `density(compute, memory)`)."""
    return spread_costs(
        tree.parent,
        tree.leaf_parent,
        tree.depth,
        costs.compute[tree.order],
        costs.memory[tree.order],
        costs.seconds_per_token,
    )


def spread_costs(
    parent: Ints,
    leaf_parent: Ints,
    depth: Ints,
    compute: Floats,
    memory: Floats,
    seconds_per_token: float,
) -> NodeCosts:
    """Node costs of any tree whose parents come before their children; costs in leaf order."""
    return NodeCosts(
        *_spread_costs(parent, leaf_parent, depth, compute, memory, float(seconds_per_token))
    )


def density(compute: Floats, memory: Floats) -> Floats:
    """ρ = compute / memory, at most `DENSEST`; 0 where there is neither."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.nan_to_num(np.minimum(compute / memory, DENSEST), nan=0.0)


def _majority(source: NDArray[np.int32], starts: Ints, sizes: Ints) -> Ints:
    """The commonest source of each run of positions; the lower index when two tie."""
    width = int(source.max()) + 1
    key = np.repeat(np.arange(len(starts)), sizes) * width + source
    pair, count = np.unique(key, return_counts=True)
    item, kind = np.divmod(pair, width)
    best = np.lexsort((kind, -count, item))
    chosen: Ints = kind[best[np.flatnonzero(np.diff(item[best], prepend=-1))]]
    return chosen


def _under_sources(tree: PrefixTree, group: NDArray[np.int32]) -> PrefixTree:
    """`tree` with one node a source between the root and its top-level subtrees, in preorder."""
    low = np.flatnonzero(np.diff(group, prepend=-1)).astype(np.int64)
    # A source node goes right before the nodes that begin in its range.
    before = np.searchsorted(tree.first[1:], low, side="left") + 1
    new_index = np.arange(len(tree.parent)) + np.searchsorted(low, tree.first, side="right")
    new_index[0] = 0
    source_index = before + np.arange(len(low))
    size = len(tree.parent) + len(low)
    parent, depth, first, last = (np.zeros(size, np.int64) for _ in range(4))
    depth[new_index], first[new_index], last[new_index] = tree.depth, tree.first, tree.last
    first[source_index], last[source_index] = low, np.append(low[1:], len(group))
    owner = source_index[np.searchsorted(low, tree.first, side="right") - 1]
    parent[new_index] = np.where(tree.parent > 0, new_index[tree.parent], owner)
    parent[0] = -1
    run = np.searchsorted(low, np.arange(len(group)), side="right") - 1
    hangs = np.where(tree.leaf_parent > 0, new_index[tree.leaf_parent], source_index[run])
    return PrefixTree(parent, depth, first, last, hangs)


@allocating_kernel
def _spread_costs(
    parent: Ints,
    leaf_parent: Ints,
    depth: Ints,
    compute: Floats,
    memory: Floats,
    seconds_per_token: float,
) -> tuple[Floats, Floats, Floats, Floats, Ints]:
    n, m = len(leaf_parent), len(parent)
    leaves = np.zeros(m, np.int64)
    for i in range(n):
        leaves[leaf_parent[i]] += 1
    for k in range(m - 1, 0, -1):
        leaves[parent[k]] += leaves[k]
    # Prefix tokens of a node's path that each of its leaves pays for; the others are saved.
    share = np.zeros(m)
    for k in range(1, m):
        if leaves[k] > 0:
            up = parent[k]
            share[k] = share[up] + (depth[k] - depth[up]) / leaves[k]
    leaf_compute = np.empty(n)
    node_compute, node_memory = np.zeros(m), np.zeros(m)
    for i in range(n):
        up = leaf_parent[i]
        leaf_compute[i] = compute[i] - seconds_per_token * (depth[up] - share[up])
        node_compute[up] += leaf_compute[i]
        node_memory[up] += memory[i]
    for k in range(m - 1, 0, -1):
        node_compute[parent[k]] += node_compute[k]
        node_memory[parent[k]] += node_memory[k]
    return leaf_compute, memory, node_compute, node_memory, leaves
