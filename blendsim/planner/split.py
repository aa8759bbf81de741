"""Conditional node splitting (§5.2, Alg. 2): outliers leave their subtree and hang from the root.

Rounds of sorting the layers, pricing every possible split (outliers.py) and making the best, until
the leaves' densities never rise or no further split is allowed.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.fields import Range, require_ranges, settle
from blendsim.planner.layers import Layers, seniority, sort_layers
from blendsim.planner.outliers import choose_splits, displacements
from blendsim.planner.resort import resorted
from blendsim.planner.tree import NodeCosts, PoolTree, spread_costs

_RANGES = {
    "kept_sharing": Range(0, 1),
    "worth": Range(0, 1e9),
    "threshold": Range(0, 1e9),
}


@dataclass(frozen=True, slots=True)
class SplitRule:
    """When a leaf or subtree may leave its parent.

    The paper's rule for a given t is `SplitRule(kept_sharing=0, worth=0, threshold=t)`.
    """

    kept_sharing: float = 0.99  # of the shared tokens; the rest may be spent on splitting
    worth: float = 1.0  # seconds a split must gain at least per second it recomputes
    threshold: int | None = None  # t, tokens one split may cost; None: only the two others bind

    def __post_init__(self) -> None:
        require_ranges(self, _RANGES, "split rule")
        settle(self)


class Split(NamedTuple):
    """A tree after splitting, laid out. The parent of what was moved is 0, the root."""

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
    """Sort and split. `compute` and `memory` are the requests' unshared seconds in leaf order.

    Leaving a source node costs nothing, so all of them are dissolved first. A leaf or subtree moves
    once at most.
    """
    parent, leaf_parent = _dissolve_sources(tree)
    senior = seniority(tree.first, tree.last)
    budget = np.inf
    if rule.kept_sharing > 0.0:
        budget = (1.0 - rule.kept_sharing) * float(tree.common.sum())
    limit = np.inf if rule.threshold is None else float(rule.threshold)
    leaves_moved, subtrees_moved, dearest, rounds = 0, 0, 0, 0
    layers: Layers | None = None
    rising: Ints | None = None
    while True:
        costs = spread_costs(parent, leaf_parent, tree.depth, compute, memory, seconds_per_token)
        layers = sort_layers(parent, leaf_parent, costs, senior, layers)
        displaced = displacements(layers, costs)
        if not displaced.any():
            break
        least_gain = rule.worth * seconds_per_token
        rising = resorted(layers.leaf_density, rising)
        child, cost = choose_splits(
            parent,
            leaf_parent,
            tree.depth,
            costs,
            layers,
            rising,
            displaced,
            least_gain,
            limit,
            budget,
        )
        if not len(child):
            break
        is_leaf = child >= len(parent)
        leaf_parent[child[is_leaf] - len(parent)] = 0
        parent[child[~is_leaf]] = 0
        budget -= float(cost.sum())
        leaves_moved += int(is_leaf.sum())
        subtrees_moved += int((~is_leaf).sum())
        dearest = max(dearest, int(cost.max()))
        rounds += 1
    return Split(parent, leaf_parent, costs, layers, leaves_moved, subtrees_moved, dearest, rounds)


def _dissolve_sources(tree: PoolTree) -> tuple[Ints, Ints]:
    """Parents with the source nodes' children hanging from the root."""
    parent = np.where((tree.parent > 0) & (tree.depth[tree.parent] == 0), 0, tree.parent)
    leaf_parent = np.where(tree.depth[tree.leaf_parent] == 0, 0, tree.leaf_parent)
    return parent, leaf_parent
