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


class Sampled(NamedTuple):
    """How many samples lie below nodes and in bins, and their means; 0 where there are none."""

    size: Floats  # (m,)
    mean: Floats  # (m,)
    bin_size: Floats  # (m, bins)
    bin_mean: Floats  # (m, bins)


class Scatter(NamedTuple):
    """Of the children of each node that have samples, its bins among them."""

    within: Floats  # (m,) squares within them
    between: Floats  # (m,) and between them
    children: Floats  # (m,) how many they are
    squares: Floats  # (m,) Σn²


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
    sampled = _sampled(groups, bins, count, is_used)
    ratio = _ratios(groups, sampled, _scatter(groups, bins, is_used, sampled))
    weight, mean = _mix(groups, is_plain, sampled, ratio)
    return Belief(weight, mean, *_mix_bins(groups, is_plain, sampled, ratio, mean))


@allocating_kernel
def _sampled(groups: Groups, bins: Ints, count: int, is_used: Bools) -> Sampled:
    """The samples `is_used`, from the bottom up."""
    parent, home = groups.parent, groups.home
    m = len(parent)
    n, total = np.zeros(m), np.zeros(m)
    bin_n, bin_total = np.zeros((m, count)), np.zeros((m, count))
    for i in range(len(home)):
        if is_used[i]:
            bin_n[home[i], bins[i]] += 1.0
            bin_total[home[i], bins[i]] += groups.value[i]
    for k in range(m - 1, -1, -1):
        n[k] += bin_n[k].sum()
        total[k] += bin_total[k].sum()
        if parent[k] >= 0:
            n[parent[k]] += n[k]
            total[parent[k]] += total[k]
    return Sampled(n, total / np.maximum(n, 1.0), bin_n, bin_total / np.maximum(bin_n, 1.0))


@allocating_kernel
def _scatter(groups: Groups, bins: Ints, is_used: Bools, sampled: Sampled) -> Scatter:
    """Sums of squares about means, so that equal samples have a variance of exactly 0."""
    parent, home = groups.parent, groups.home
    n, mean, bin_n, bin_mean = sampled
    m, count = bin_n.shape
    bin_inner = np.zeros((m, count))
    for i in range(len(home)):
        if is_used[i]:
            bin_inner[home[i], bins[i]] += (groups.value[i] - bin_mean[home[i], bins[i]]) ** 2
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
        up = parent[k]
        if up >= 0:
            within[up] += within[k] + between[k]
            between[up] += n[k] * (mean[k] - mean[up]) ** 2
            children[up] += 1.0
            squares[up] += n[k] ** 2
    return Scatter(within, between, children, squares)


@allocating_kernel
def _ratios(groups: Groups, sampled: Sampled, scatter: Scatter) -> Floats:
    """σ²/τ² of each layer; infinite: believe the parent."""
    n, layers = sampled.size, len(groups.above)
    freedom, inside = np.zeros(layers), np.zeros(layers)
    outside, steps, spread = np.zeros(layers), np.zeros(layers), np.zeros(layers)
    for k in range(len(n)):
        if n[k] > 0.0:
            at = groups.layer[k]
            freedom[at] += n[k] - scatter.children[k]
            inside[at] += scatter.within[k]
            outside[at] += scatter.between[k]
            steps[at] += scatter.children[k] - 1.0
            spread[at] += n[k] - scatter.squares[k] / n[k]
    ratio = np.full(layers, np.inf)
    for at in range(layers):  # parents' layers come first
        if freedom[at] > 0.0 and spread[at] > 0.0:
            variance = inside[at] / freedom[at]
            apart = (outside[at] - steps[at] * variance) / spread[at]
            ratio[at] = variance / apart if apart > 0.0 else np.inf
        elif groups.above[at] >= 0:
            ratio[at] = ratio[groups.above[at]]
    return ratio


@allocating_kernel
def _mix(groups: Groups, is_plain: Bools, sampled: Sampled, ratio: Floats) -> tuple[Floats, Floats]:
    """Weights and means of nodes, from the top down."""
    parent, layer, n = groups.parent, groups.layer, sampled.size
    weight, mean = np.zeros(len(n)), np.full(len(n), np.nan)
    for k in range(len(n)):
        up = parent[k]
        if n[k] > 0.0:
            if up < 0 or is_plain[layer[up]]:
                weight[k] = 1.0
            else:
                weight[k] = n[k] / (n[k] + ratio[layer[up]])
        if up >= 0:
            mean[k] = mean[up] + weight[k] * (sampled.mean[k] - mean[up])
        elif n[k] > 0.0:
            mean[k] = sampled.mean[k]
    return weight, mean


@allocating_kernel
def _mix_bins(
    groups: Groups, is_plain: Bools, sampled: Sampled, ratio: Floats, mean: Floats
) -> tuple[Floats, Floats]:
    """Weights and means of bins, below nodes of these means."""
    n = sampled.bin_size
    weight, bin_mean = np.zeros(n.shape), np.zeros(n.shape)
    for k in range(len(n)):
        at = groups.layer[k]
        for b in range(n.shape[1]):
            if n[k, b] > 0.0:
                if is_plain[at]:
                    weight[k, b] = 1.0 if groups.parent[k] < 0 else 0.0
                else:
                    weight[k, b] = n[k, b] / (n[k, b] + ratio[at])
            bin_mean[k, b] = mean[k] + weight[k, b] * (sampled.bin_mean[k, b] - mean[k])
    return weight, bin_mean
