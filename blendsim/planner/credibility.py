"""Means of groups within groups, each a mix of its own sample and of its parent's estimate.

A group with n samples and mean x̄ below a parent with estimate e is expected at z·x̄ + (1 − z)·e,
z = n / (n + σ²/τ²): Bühlmann's credibility, with σ² the variance within the groups of one layer and
τ² that of their true means about their parents'. Both are estimated from the sample, a layer at a
time, by the analysis of variance of unequal groups (Bühlmann and Straub). A layer that does not
tell them apart, as where no group has two samples, takes the ratio of the layer above; the
uppermost is then not believed at all. Where τ² is not above 0, z is 0.

What hangs from a node directly is one more child of it, or several: its bins.
"""

from typing import NamedTuple

import numpy as np

from blendsim.arrays import Bools, Floats, Ints
from blendsim.compiled import allocating_kernel


class Groups(NamedTuple):
    """Nodes with samples below them, parents first, and the samples."""

    parent: Ints  # (m,) −1: a top node, whose mean is its sample's
    layer: Ints  # (m,) whose children's variances are estimated together
    above: Ints  # (layers,) the layer that holds the parents of this one's nodes; −1: none
    home: Ints  # (e,) node that each sample hangs from
    value: Floats  # (e,)


class Belief(NamedTuple):
    """Means and credibilities; a group without samples has its parent's mean and weight 0."""

    weight: Floats  # (m,) z of each node; 1 of top nodes
    mean: Floats  # (m,)
    bin_weight: Floats  # (m, bins)
    bin_mean: Floats  # (m, bins)


def believe(groups: Groups, bins: Ints, count: int, is_used: Bools, is_plain: Bools) -> Belief:
    """What the samples `is_used` say. `bins` says which of `count` bins each sample is in.

    In layers that are `is_plain` nothing is mixed (the paper's rule): a group with a sample is
    believed alone, bins below a top node too, bins below others not.
    """
    n, mean, bin_n, bin_mean, ratio = _ratios(*groups, bins, count, is_used)
    return Belief(*_mix(groups.parent, groups.layer, is_plain, n, mean, bin_n, bin_mean, ratio))


@allocating_kernel
def _ratios(
    parent: Ints,
    layer: Ints,
    above: Ints,
    home: Ints,
    value: Floats,
    bins: Ints,
    count: int,
    is_used: Bools,
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Samples and means of nodes and bins, and σ²/τ² of each layer; infinite: believe the parent.

    Sums of squares are taken about means, so that equal samples have a variance of exactly 0.
    """
    m, layers = len(parent), len(above)
    n, total, inner = np.zeros(m), np.zeros(m), np.zeros(m)
    bin_n, bin_total = np.zeros((m, count)), np.zeros((m, count))
    bin_inner = np.zeros((m, count))
    for i in range(len(home)):
        if is_used[i]:
            bin_n[home[i], bins[i]] += 1.0
            bin_total[home[i], bins[i]] += value[i]
    for k in range(m - 1, -1, -1):
        n[k] += bin_n[k].sum()
        total[k] += bin_total[k].sum()
        if parent[k] >= 0:
            n[parent[k]] += n[k]
            total[parent[k]] += total[k]
    mean, bin_mean = total / np.maximum(n, 1.0), bin_total / np.maximum(bin_n, 1.0)
    for i in range(len(home)):
        if is_used[i]:
            bin_inner[home[i], bins[i]] += (value[i] - bin_mean[home[i], bins[i]]) ** 2
    # Of each node's children: squares within, squares between, how many there are, Σn².
    within, between = np.zeros(m), np.zeros(m)
    children, squares = np.zeros(m), np.zeros(m)
    for k in range(m - 1, -1, -1):
        if n[k] == 0.0:
            continue
        for b in range(count):
            if bin_n[k, b] > 0.0:
                within[k] += bin_inner[k, b]
                between[k] += bin_n[k, b] * (bin_mean[k, b] - mean[k]) ** 2
                children[k] += 1.0
                squares[k] += bin_n[k, b] ** 2
        inner[k] = within[k] + between[k]
        up = parent[k]
        if up >= 0:
            within[up] += inner[k]
            between[up] += n[k] * (mean[k] - mean[up]) ** 2
            children[up] += 1.0
            squares[up] += n[k] ** 2
    freedom, inside = np.zeros(layers), np.zeros(layers)
    outside, steps, spread = np.zeros(layers), np.zeros(layers), np.zeros(layers)
    for k in range(m):
        if n[k] > 0.0:
            at = layer[k]
            freedom[at] += n[k] - children[k]
            inside[at] += within[k]
            outside[at] += between[k]
            steps[at] += children[k] - 1.0
            spread[at] += n[k] - squares[k] / n[k]
    ratio = np.full(layers, np.inf)
    for at in range(layers):  # parents' layers come first
        if freedom[at] > 0.0 and spread[at] > 0.0:
            variance = inside[at] / freedom[at]
            apart = (outside[at] - steps[at] * variance) / spread[at]
            ratio[at] = variance / apart if apart > 0.0 else np.inf
        elif above[at] >= 0:
            ratio[at] = ratio[above[at]]
    return n, mean, bin_n, bin_mean, ratio


@allocating_kernel
def _mix(
    parent: Ints,
    layer: Ints,
    is_plain: Bools,
    n: Floats,
    own: Floats,
    bin_n: Floats,
    bin_own: Floats,
    ratio: Floats,
) -> tuple[Floats, Floats, Floats, Floats]:
    """Weights and means from the top down."""
    m, count = bin_n.shape
    weight, mean = np.zeros(m), np.full(m, np.nan)
    bin_weight, bin_mean = np.zeros((m, count)), np.zeros((m, count))
    for k in range(m):
        up = parent[k]
        if n[k] > 0.0:
            if up < 0 or is_plain[layer[up]]:
                weight[k] = 1.0
            else:
                weight[k] = n[k] / (n[k] + ratio[layer[up]])
        if up < 0:
            mean[k] = own[k] if n[k] > 0.0 else np.nan
        else:
            mean[k] = mean[up] + weight[k] * (own[k] - mean[up])
        for b in range(count):
            if bin_n[k, b] > 0.0:
                if is_plain[layer[k]]:
                    bin_weight[k, b] = 1.0 if up < 0 else 0.0
                else:
                    bin_weight[k, b] = bin_n[k, b] / (bin_n[k, b] + ratio[layer[k]])
            bin_mean[k, b] = mean[k] + bin_weight[k, b] * (bin_own[k, b] - mean[k])
    return weight, mean, bin_weight, bin_mean
