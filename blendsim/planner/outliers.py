"""What splitting a leaf or subtree from its top-level subtree costs and gains, and which to split.

The paper splits whatever costs at most t recomputed tokens. We ask also what a split is worth. Let
d be how far something stands from where its leaves' densities belong, as a share of the pool's work
(the mean over its leaves, weighted by work w). Afterwards it will stand where its own density
belongs, and so will the rest of its top-level subtree, which it no longer drags along. What
Σ w·d² of the two falls by is the split's gain, in seconds; cost / gain is its price.
"""

from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.compiled import allocating_kernel, kernel
from blendsim.planner.layers import Layers
from blendsim.planner.tree import NodeCosts, density

_FARTHEST = 0.5  # a round splits what is at least this part as far from its rest as the farthest


class Splits(NamedTuple):
    """The splits of one round."""

    child: Ints  # nodes k and leaves m + i
    cost: Ints  # tokens each recomputes


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


def choose_splits(
    parent: Ints,
    leaf_parent: Ints,
    depth: Ints,
    costs: NodeCosts,
    layers: Layers,
    rising: Ints,
    displaced: Floats,
    least_gain: float,
    limit: float,
    budget: float,
) -> Splits:
    """The splits of a round, cheapest first while `budget` tokens last; none if none is allowed.

    A split is allowed when it costs at most `limit` tokens, fits the budget and gains `least_gain`
    seconds a token. `rising` are the leaves from least dense to densest. What is farthest from the
    rest of its subtree goes first, and in one round a subtree loses only outliers of one side,
    since that often puts the others in place.
    """
    cost = _split_costs(parent, leaf_parent, depth, costs.leaves)
    top = top_nodes(parent, leaf_parent)
    gain, shift = _gains(parent, leaf_parent, top, costs, layers, rising, displaced)
    is_allowed = (cost > 0) & (cost <= min(limit, budget)) & (gain > 0.0)
    is_allowed &= gain >= least_gain * cost
    distance = np.abs(shift)
    is_allowed &= distance >= _FARTHEST * distance[is_allowed].max(initial=0.0)
    # NOTE: to split a subtree in two costs the same from either side; single precision keeps
    # rounding from deciding between them.
    price = np.full(len(cost), np.inf)
    with np.errstate(over="ignore"):  # a gain of next to nothing: its price counts as infinite
        price[is_allowed] = (cost[is_allowed] / gain[is_allowed]).astype(np.float32)
    child = _best_of_paths(parent, leaf_parent, price)
    child = child[np.argsort(price[child], kind="stable")]
    # The cheapest split of a top-level subtree says on which side it loses outliers.
    leader, number = np.unique(top[child], return_index=True)
    side = np.zeros(len(cost), np.bool_)
    side[leader] = shift[child[number]] > 0.0
    child = child[(shift[child] > 0.0) == side[top[child]]]
    # NOTE: a dear one that no longer fits ends the round; the next round looks past it.
    child = child[np.cumsum(cost[child]) <= budget]
    return Splits(child, cost[child])


def _gains(
    parent: Ints,
    leaf_parent: Ints,
    top: Ints,
    costs: NodeCosts,
    layers: Layers,
    rising: Ints,
    displaced: Floats,
) -> tuple[Floats, Floats]:
    """Seconds gained by splitting each node and leaf, and where it belongs relative to the rest of
    its top-level subtree, as a share of the pool's work.
    """
    leaf_work = costs.leaf_compute + costs.leaf_memory
    places = _places(layers.leaf_density, rising, leaf_work)
    compute = np.concatenate((costs.compute, costs.leaf_compute))
    memory = np.concatenate((costs.memory, costs.leaf_memory))
    work = compute + memory
    moments = (leaf_work * displaced, leaf_work * places.leaf)
    pull, ideal = (
        np.concatenate((_node_sums(parent, leaf_parent, moment), moment)) for moment in moments
    )
    own = np.concatenate((places.of(layers.node_density), places.leaf))
    # Sums of the rest of the top-level subtree; nothing is left of it at the top itself.
    rest_compute = np.maximum(compute[top] - compute, 0.0)
    rest_memory = np.maximum(memory[top] - memory, 0.0)
    rest = places.of(density(rest_compute, rest_memory))
    return _falls(top, work, pull, ideal, own, rest), own - rest


@allocating_kernel
def _falls(
    top: Ints, work: Floats, pull: Floats, ideal: Floats, own: Floats, rest: Floats
) -> Floats:
    """How far w·d² falls when each node or leaf goes to its `own` place and what it leaves of its
    top-level subtree to that of the `rest`.
    """
    gain = np.empty(len(top))
    for c in range(len(top)):
        t = top[c]
        gain[c] = max(_fall(work[c], pull[c], ideal[c], own[c]), 0.0)
        others = _fall(work[t] - work[c], pull[t] - pull[c], ideal[t] - ideal[c], rest[c])
        gain[c] += max(others, 0.0)
    return gain


@kernel
def _fall(work: float, pull: float, ideal: float, place: float) -> float:
    """Fall of w·d² when what is Σ w·d = `pull` off, and ideally at Σ w·x = `ideal`, goes to
    `place`; 0 for what has no work.
    """
    off = ideal - work * place
    fall = (pull * pull - off * off) / work
    return fall if np.isfinite(fall) else 0.0


class _Places(NamedTuple):
    """Where densities belong: behind which share of the pool's work, to the middle of their own."""

    rising: Floats  # distinct densities of leaves
    middle: Floats  # their places
    leaf: Floats  # (n,) each leaf's place

    def of(self, rho: Floats) -> Floats:
        """Interpolated between the leaves', so that rounding of ρ does not matter."""
        return np.interp(rho, self.rising, self.middle)


def _places(leaf_density: Floats, order: Ints, leaf_work: Floats) -> _Places:
    """Places of leaves that are in `order` by rising density."""
    ranked = leaf_density[order]
    start = np.flatnonzero(np.diff(ranked, prepend=-np.inf))
    before = np.append(0.0, np.cumsum(leaf_work[order]))
    below, upto = before[start], before[np.append(start[1:], len(order))]
    middle = 1.0 - (below + upto) / (2.0 * before[-1])
    leaf = np.empty(len(order))
    leaf[order] = np.repeat(middle, np.diff(start, append=len(order)))
    return _Places(ranked[start], middle, leaf)


@allocating_kernel
def _node_sums(parent: Ints, leaf_parent: Ints, values: Floats) -> Floats:
    """Σ of the leaves' values below each node."""
    total = np.zeros(len(parent))
    for i in range(len(leaf_parent)):
        total[leaf_parent[i]] += values[i]
    for k in range(len(parent) - 1, 0, -1):
        total[parent[k]] += total[k]
    return total


@allocating_kernel
def _split_costs(parent: Ints, leaf_parent: Ints, depth: Ints, leaves: Ints) -> Ints:
    """Tokens of prefix that each node, then each leaf, would no longer share with others."""
    n, m = len(leaf_parent), len(parent)
    cost = np.zeros(m + n, np.int64)
    for c in range(1, m + n):
        up = parent[c] if c < m else leaf_parent[c - m]
        size = leaves[c] if c < m else 1
        # An only child would take its parent's prefix along: it leaves from higher up.
        cost[c] = depth[up] if leaves[up] > size else cost[up]
        if size == 0:
            cost[c] = 0
    return cost


@allocating_kernel
def top_nodes(parent: Ints, leaf_parent: Ints) -> Ints:
    """The child of the root above each node, then each leaf (m + i); the root's own children are
    their own.
    """
    n, m = len(leaf_parent), len(parent)
    top = np.arange(m + n)
    for c in range(1, m + n):
        up = parent[c] if c < m else leaf_parent[c - m]
        if up > 0:
            top[c] = top[up]
    return top


@allocating_kernel
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
