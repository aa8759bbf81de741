"""Conditional node splitting (§5.2, Alg. 2): outliers leave their subtree and hang from the root.

The paper splits whatever costs at most t recomputed tokens. We ask as well what a relocation is
worth. Let d be how far a subtree stands from where its leaves' densities belong, as a share of the
pool's work (mean over its leaves, weighted by work w). Moving the subtree lowers Σ w·d² by w·d²:
that is its gain, in seconds, and cost / gain its price. Cheapest first, within the sharing budget,
farthest first between rounds, since moving the worst often puts the others in place.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from blendsim.compiled import kernel
from blendsim.planner.layers import Layers, seniority, sort_layers
from blendsim.planner.tree import Floats, NodeCosts, PoolTree, spread_costs
from blendsim.request import Ints

_FARTHEST = 0.5  # a round moves what is at least this part as far out of place as the farthest


@dataclass(frozen=True, slots=True)
class SplitRule:
    """When a leaf or subtree may leave its parent.

    The paper's rule for a given t is `SplitRule(kept_sharing=0, worth=0, threshold=t)`.
    """

    kept_sharing: float = 0.99  # of the shared tokens; the rest may be spent on splitting
    worth: float = 1.0  # gain per second of recomputation that a split must bring at least
    threshold: int | None = None  # t, tokens one split may cost; None: only the two others bind


class Split(NamedTuple):
    """A tree after splitting, laid out. `parent` of what was moved is 0, the root."""

    parent: Ints  # (m,)
    leaf_parent: Ints  # (n,)
    costs: NodeCosts
    layers: Layers
    leaves_moved: int  # single requests moved to the root
    subtrees_moved: int
    threshold: int  # tokens of the dearest split
    rounds: int


def split(
    tree: PoolTree, compute: Floats, memory: Floats, seconds_per_token: float, rule: SplitRule
) -> Split:
    """Sort and split until the leaves' densities never rise or no further split is allowed.

    `compute` and `memory` are the requests' unshared seconds in leaf order. Leaving a source node
    costs nothing, so all of them are dissolved first. A leaf or subtree moves once at most.
    """
    parent, leaf_parent = _dissolve_sources(tree)
    senior = seniority(tree.first, tree.last)
    budget = (1.0 - rule.kept_sharing) * float(tree.common.sum())
    if rule.kept_sharing <= 0.0:
        budget = np.inf
    limit = np.inf if rule.threshold is None else float(rule.threshold)
    leaves_moved, subtrees_moved, dearest, rounds = 0, 0, 0, 0
    while True:
        costs = spread_costs(parent, leaf_parent, tree.depth, compute, memory, seconds_per_token)
        layers = sort_layers(parent, leaf_parent, costs, senior)
        displaced = displacements(layers, costs)
        if not displaced.any():
            break
        moved = _choose(
            parent,
            leaf_parent,
            tree.depth,
            costs.leaves,
            costs.leaf_compute + costs.leaf_memory,
            displaced,
            rule.worth * seconds_per_token,
            min(limit, budget),
            budget,
        )
        if not len(moved.child):
            break
        budget -= float(moved.cost.sum())
        is_leaf = moved.child >= len(parent)
        leaf_parent[moved.child[is_leaf] - len(parent)] = 0
        parent[moved.child[~is_leaf]] = 0
        leaves_moved += int(is_leaf.sum())
        subtrees_moved += int((~is_leaf).sum())
        dearest = max(dearest, int(moved.cost.max()))
        rounds += 1
    return Split(parent, leaf_parent, costs, layers, leaves_moved, subtrees_moved, dearest, rounds)


def displacements(layers: Layers, costs: NodeCosts) -> Floats:
    """How far right each leaf should be for densities never to rise, as a share of the pool's work.

    All zero exactly when they never rise; equal densities keep their order.
    """
    work = (costs.leaf_compute + costs.leaf_memory)[layers.sequence]
    ideal = np.argsort(-layers.leaf_density[layers.sequence], kind="stable")
    displaced = np.zeros(len(work))
    if not (ideal == np.arange(len(ideal))).all():
        target = np.empty(len(work))
        target[ideal] = np.cumsum(work[ideal]) - work[ideal]
        displaced[layers.sequence] = (target - (np.cumsum(work) - work)) / work.sum()
    return displaced


class _Moved(NamedTuple):
    child: Ints  # nodes k and leaves m + i that leave their parent in this round
    cost: Ints  # tokens each loses


def _dissolve_sources(tree: PoolTree) -> tuple[Ints, Ints]:
    """Parents with the source nodes' children hanging from the root."""
    parent = np.where((tree.parent > 0) & (tree.depth[tree.parent] == 0), 0, tree.parent)
    leaf_parent = np.where(tree.depth[tree.leaf_parent] == 0, 0, tree.leaf_parent)
    return parent, leaf_parent


def _choose(
    parent: Ints,
    leaf_parent: Ints,
    depth: Ints,
    leaves: Ints,
    work: Floats,
    displaced: Floats,
    least_gain: float,
    limit: float,
    budget: float,
) -> _Moved:
    """The splits of one round: the cheapest of each path, cheapest first while the budget lasts."""
    cost, price, distance = _prices(
        parent, leaf_parent, depth, leaves, work, displaced, least_gain, limit
    )
    near = distance < _FARTHEST * distance.max(initial=0.0)
    price[near] = np.inf
    child = _best_of_paths(parent, leaf_parent, price)
    child = child[np.argsort(price[child], kind="stable")]
    left = budget - np.append(0.0, np.cumsum(cost[child]))
    # NOTE: a dear one that no longer fits ends the round; the next round looks past it.
    child = child[left[1:] >= 0.0]
    return _Moved(child, cost[child])


@kernel
def _prices(
    parent: Ints,
    leaf_parent: Ints,
    depth: Ints,
    leaves: Ints,
    work: Floats,
    displaced: Floats,
    least_gain: float,
    limit: float,
) -> tuple[Ints, Floats, Floats]:
    """Cost in tokens, price in tokens per second gained, and distance of every node, then every
    leaf. The price is infinite where a split is not allowed.
    """
    n, m = len(leaf_parent), len(parent)
    cost = np.zeros(m + n, np.int64)
    weight, moment = np.zeros(m), np.zeros(m)
    for i in range(n):
        weight[leaf_parent[i]] += work[i]
        moment[leaf_parent[i]] += work[i] * displaced[i]
    for k in range(m - 1, 0, -1):
        weight[parent[k]] += weight[k]
        moment[parent[k]] += moment[k]
    price = np.full(m + n, np.inf)
    distance = np.zeros(m + n)
    for c in range(1, m + n):
        if c < m:
            up, size, w, pull = parent[c], leaves[c], weight[c], moment[c]
        else:
            up, size, w = leaf_parent[c - m], 1, work[c - m]
            pull = w * displaced[c - m]
        # An only child would take its parent's prefix along: it leaves from higher up.
        cost[c] = depth[up] if leaves[up] > size else cost[up]
        if size == 0 or cost[c] == 0 or cost[c] > limit or w <= 0.0:
            continue
        gain = pull * pull / w
        if gain > 0.0 and gain >= least_gain * cost[c]:
            price[c] = cost[c] / gain
            distance[c] = abs(pull) / w
    return cost, price, distance


@kernel
def _best_of_paths(parent: Ints, leaf_parent: Ints, price: Floats) -> Ints:
    """Nodes and leaves of finite price that no ancestor matches and no descendant undercuts."""
    n, m = len(leaf_parent), len(parent)
    above = np.full(m, np.inf)  # least price of a node and its ancestors
    below = np.full(m, np.inf)  # least price inside a subtree, its node included
    for k in range(1, m):
        above[k] = min(price[k], above[parent[k]])
        below[k] = price[k]
    for i in range(n):
        below[leaf_parent[i]] = min(below[leaf_parent[i]], price[m + i])
    for k in range(m - 1, 0, -1):
        below[parent[k]] = min(below[parent[k]], below[k])
    best = np.empty(m + n, np.int64)
    count = 0
    for k in range(1, m):
        if price[k] < above[parent[k]] and price[k] <= below[k]:
            best[count] = k
            count += 1
    for i in range(n):
        if price[m + i] < above[leaf_parent[i]]:
            best[count] = m + i
            count += 1
    return best[:count].copy()
