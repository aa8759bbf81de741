"""Output lengths as distributions: each subtree's sample mixed with its parent's distribution.

The distribution of a node's outputs is its own sample with probability z and its parent's
distribution otherwise (`credibility` says what z is); a source's is its sample. Its mean is the
estimate, and draws come from it, so the two agree.

Requests that hang from the same node may be told apart by prompt length: they are put in bins of
equally many samples. Each source decides by its sample alone how it is estimated: the sample is cut
in folds, each fold is predicted from the others, and the rule with the least squared error is
taken. Prompt length has to lower it by more than a standard error of the difference.
"""

from typing import NamedTuple

import numpy as np

from blendsim.arrays import Bools, Floats, Ints
from blendsim.compiled import allocating_kernel, kernel
from blendsim.planner.credibility import Belief, Groups, believe
from blendsim.planner.evidence import deepest_nodes, evidence
from blendsim.planner.tree import PoolTree
from blendsim.request import Workload

FOLDS = 5
BELOW_ONE = 1.0 - 2.0**-53
BINS = (2, 4, 8, 16)  # of prompt length, that are tried; each holds FOLDS samples at least


class SourceRule(NamedTuple):
    """How one source is estimated."""

    is_plain: bool  # every subtree by its own sample alone
    edges: Floats  # prompt lengths at which bins begin; none: one bin


class Beliefs(NamedTuple):
    """The distribution of every request's output, as far as samples say."""

    groups: Groups
    belief: Belief
    rules: dict[int, SourceRule]  # by source
    bins: Ints  # (e,) bin of each sample
    low: Ints  # (m,) first sample below the node; samples stand in leaf order
    high: Ints  # (m,)
    node: Ints  # (n,) by leaf position: deepest node with a sample at or above; −1: none
    bin: Ints  # (n,) −1: not below the node directly

    def means(self) -> Floats:
        """(n,) by leaf position: expected output; NaN where the source has no sample."""
        mean: Floats = np.append(self.belief.mean, np.nan)[self.node]
        direct = np.flatnonzero(self.bin >= 0)
        mean[direct] = self.belief.bin_mean[self.node[direct], self.bin[direct]]
        return mean

    def draws(self, luck: Floats, likely: Floats) -> Ints:
        """(n,) by leaf position: which sample each request's output is, of its distribution, found
        by a random number of 0 … 1 each; −1 where the source has no sample. `likely` (e,) says
        how likely a sample is taken beside the others of its node and bin.
        """
        count = self.belief.bin_mean.shape[1]
        key = self.groups.home * count + self.bins
        by_bin = np.argsort(key, kind="stable")
        start = np.searchsorted(key[by_bin], np.arange(len(self.low) * count + 1))
        drawn: Ints = _draws(
            self.node,
            self.bin,
            luck,
            self.groups.parent,
            *self.belief[::2],
            self.low,
            self.high,
            np.append(0.0, np.cumsum(likely)),
            by_bin,
            start,
            np.append(0.0, np.cumsum(likely[by_bin])),
        )
        return drawn


def shrunk(
    workload: Workload, tree: PoolTree, is_visible: Bools, value: Floats | None = None
) -> Beliefs:
    """What the visible lengths of `workload` say of all; no other length is read. `value` is what
    those that are evidence count as, in leaf order, if not as they are.
    """
    found = np.flatnonzero(evidence(workload, tree, is_visible))
    low, high = np.searchsorted(found, tree.first), np.searchsorted(found, tree.last)
    kept = np.flatnonzero(high[1:] > low[1:]) + 1  # without the root
    number = np.full(len(tree.parent) + 1, -1)  # one more, for no node
    number[kept] = np.arange(len(kept))
    source = tree.group[tree.first[kept]].astype(np.int64)
    groups = _groups(
        number[tree.parent[kept]],
        source,
        number[tree.leaf_parent[found]],
        workload.output_len[tree.order[found]].astype(np.float64) if value is None else value,
    )
    prompt = workload.prompt_len[tree.order].astype(np.float64)
    rules = _choose(groups, source, prompt[found])
    group = tree.group.astype(np.int64)
    bins = _bins(prompt, group, rules)
    node = number[deepest_nodes(tree.parent, high - low)[tree.leaf_parent]]
    plain = {at: rule.is_plain for at, rule in rules.items()}
    is_plain = np.zeros(len(groups.above), np.bool_)
    is_plain[groups.layer] = np.array([plain[s] for s in source.tolist()], np.bool_)
    count = int(bins.max(initial=0)) + 1
    every = np.ones(len(found), np.bool_)
    return Beliefs(
        groups=groups,
        belief=believe(groups, bins[found], count, every, is_plain),
        rules=rules,
        bins=bins[found],
        low=low[kept],
        high=high[kept],
        node=node,
        bin=np.where(number[tree.leaf_parent] >= 0, bins, -1),
    )


def _groups(parent: Ints, source: Ints, home: Ints, value: Floats) -> Groups:
    """A layer is the nodes of one source with equally many ancestors."""
    level = _levels(parent)
    levels = int(level.max(initial=0)) + 1
    key, layer = np.unique(source * levels + level, return_inverse=True)
    above = np.where(key % levels > 0, np.arange(len(key)) - 1, -1)
    return Groups(parent, layer.astype(np.int64), above, home, value)


def _choose(groups: Groups, source: Ints, prompt: Floats) -> dict[int, SourceRule]:
    """The rule of each source with samples, `source` a node; `prompt` a sample."""
    at = source[groups.home]
    bare = {s: SourceRule(False, np.zeros(0)) for s in np.unique(source).tolist()}
    rows = {s: np.flatnonzero(at == s) for s in bare}
    fold = np.empty(len(at), np.int64)
    for of_source in rows.values():
        fold[of_source] = np.arange(len(of_source)) % FOLDS

    def errors(rules: dict[int, SourceRule]) -> Floats:
        return _held_out(
            groups, _bins(prompt, at, rules), fold, next(iter(rules.values())).is_plain
        )

    chosen = dict(bare)
    if not len(at):
        return chosen
    plain = errors({s: rule._replace(is_plain=True) for s, rule in bare.items()})
    least = errors(bare)
    for s, of_source in rows.items():
        if len(of_source) >= FOLDS and plain[of_source].mean() < least[of_source].mean():
            chosen[s] = SourceRule(True, np.zeros(0))
            least[of_source] = plain[of_source]
    base = least.copy()
    for count in BINS:
        fine = {s: r for s, r in rows.items() if len(r) >= FOLDS * count}
        if not fine:
            break
        shares = np.arange(1, count) / count
        binned = bare | {
            s: SourceRule(False, np.quantile(prompt[r], shares)) for s, r in fine.items()
        }
        error = errors(binned)
        for s, of_source in fine.items():
            gain = base[of_source] - error[of_source]
            sure = gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain))
            if sure and error[of_source].mean() < least[of_source].mean():
                chosen[s] = binned[s]
                least[of_source] = error[of_source]
    return chosen


def _held_out(groups: Groups, bins: Ints, fold: Ints, is_plain: bool) -> Floats:
    """(e,) squared error of each sample, predicted from the other folds."""
    error = np.zeros(len(fold))
    plain = np.full(len(groups.above), is_plain)
    count = int(bins.max(initial=0)) + 1
    for k in range(FOLDS):
        out = np.flatnonzero(fold == k)
        belief = believe(groups, bins, count, fold != k, plain)
        guess = belief.bin_mean[groups.home[out], bins[out]]
        error[out] = (groups.value[out] - guess) ** 2
    return np.nan_to_num(error, nan=0.0)  # of a source with one sample nothing can be predicted


def _bins(prompt: Floats, source: Ints, rules: dict[int, SourceRule]) -> Ints:
    """The bin of each prompt length of each source; 0 in sources without a rule."""
    bins = np.zeros(len(prompt), np.int64)
    for s, rule in rules.items():
        if len(rule.edges):
            rows = np.flatnonzero(source == s)
            bins[rows] = np.searchsorted(rule.edges, prompt[rows], side="right")
    return bins


@allocating_kernel
def _levels(parent: Ints) -> Ints:
    """Ancestors of each node."""
    level = np.zeros(len(parent), np.int64)
    for k in range(len(parent)):
        if parent[k] >= 0:
            level[k] = level[parent[k]] + 1
    return level


@kernel
def _left(u: float, z: float) -> float:
    """A random number of 0 … 1, of one that is not below z."""
    return min((u - z) / (1.0 - z), BELOW_ONE)


@kernel
def _place(total: Floats, first: int, last: int, share: float) -> int:
    """Which of first … last a share of their summed likelihoods falls to; `total` are running
    sums.
    """
    aim = total[first] + share * (total[last] - total[first])
    low, high = first, last - 1
    while low < high:
        middle = (low + high) // 2
        if total[middle + 1] > aim:
            high = middle
        else:
            low = middle + 1
    return low


@allocating_kernel
def _draws(
    node: Ints,
    bin: Ints,
    luck: Floats,
    parent: Ints,
    weight: Floats,
    bin_weight: Floats,
    low: Ints,
    high: Ints,
    total: Floats,
    by_bin: Ints,
    start: Ints,
    bin_total: Floats,
) -> Ints:
    """Up from each leaf until a group's own sample is taken. What is left of the random number
    once it has decided that is as random as it was, and chooses among the samples.
    """
    count = bin_weight.shape[1]
    drawn = np.full(len(node), -1)
    for i in range(len(node)):
        k, u = node[i], luck[i]
        if k < 0:
            continue
        if bin[i] >= 0:
            z = bin_weight[k, bin[i]]
            if u < z:
                first, last = start[k * count + bin[i]], start[k * count + bin[i] + 1]
                drawn[i] = by_bin[_place(bin_total, first, last, u / z)]
                continue
            u = _left(u, z)
        while parent[k] >= 0 and u >= weight[k]:
            u = _left(u, weight[k])
            k = parent[k]
        drawn[i] = _place(total, low[k], high[k], u / weight[k])
    return drawn
