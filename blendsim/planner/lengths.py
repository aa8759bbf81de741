"""Output lengths as planning may know them: a sample runs first, the rest is estimated (§5.1).

Estimates never read an output length that is not visible. A request is *known* when its length
follows from its parameters; it needs no sample, and says little about requests that need one.
"""

import math
from typing import NamedTuple

import numpy as np

from blendsim.arrays import Bools, Floats, Ints
from blendsim.compiled import allocating_kernel
from blendsim.errors import UnknownName
from blendsim.plan import fingerprint
from blendsim.planner.cut_lengths import CutLengths, Sources, as_limits, means_under
from blendsim.planner.evidence import deepest_nodes, evidence, is_alone, is_unlearned
from blendsim.planner.sample import AUTO, LEAST_GROWN, LEAST_SAMPLE, choose_sample, choose_what_pays
from blendsim.planner.shrunk import shrunk
from blendsim.planner.tree import PoolTree
from blendsim.request import Workload, joined, without_prompts
from blendsim.system import System
from blendsim.wording import BETTER, Lacking, counted

SUBTREE_MEAN, SHRUNK = "subtree-mean", "shrunk"
RULES = (SUBTREE_MEAN, SHRUNK)  # how lengths that are not visible are estimated and drawn
PRIOR_SHARE = 0.25  # of max_tokens, when no output length is known anywhere
PRIOR_OUTPUT = 256  # tokens, when there is no max_tokens either: the mean the paper normalises to
#: A mean that nothing was learned about is right to a factor of e to this in two worlds of three.
PRIOR_DOUBT = math.log(2.0)


class Lengths(NamedTuple):
    """What planning believes about outputs, a row a request."""

    expected: Ints  # tokens, ≥ 1; the true length where visible; no more than fit
    uncut: Ints  # the same, whether they fit or not
    is_visible: Bools  # the true length was seen: sampled, known, or all are given
    is_sampled: Bools  # runs before all others, to learn its length
    workload_hash: str  # plan.fingerprint of what was visible
    notes: tuple[str, ...]  # what was guessed, one sentence each


class Estimate(NamedTuple):
    """Expected outputs, a row a request, and what had to be guessed for them."""

    expected: Ints
    notes: tuple[str, ...]


def expect_lengths(
    workload: Workload,
    tree: PoolTree,
    share: float | str,
    rng: np.random.Generator,
    least: int | None = None,
    rule: str = SUBTREE_MEAN,
    system: System | None = None,
    guess: int | None = None,
) -> Lengths:
    """Sample `share` of the requests and estimate the others by `rule` (one of `RULES`); 1.0 makes
    all given lengths known, `AUTO` samples what pays on `system`. `guess` is the tokens of an
    answer of a source where none is seen; without one it is the mean of the other sources, else it
    is taken from `max_tokens`.

    `tree` is the token-level tree of the whole workload, those that are answered included: their
    lengths are known, whatever the share is, and nobody has to run for them.
    """
    n, whole = len(workload), joined(without_prompts(workload))
    group = tree.group_of_rows[:n]
    if isinstance(share, str):
        assert share == AUTO, f"a sample is a share or {AUTO!r}, not {share!r}"
        assert system is not None, "what a sample costs depends on the system"
        is_sampled = choose_what_pays(
            workload, group, system, rng, LEAST_GROWN if least is None else least
        )
        is_visible = is_sampled | workload.is_known
    elif share >= 1.0:
        is_sampled, is_visible = np.zeros(n, np.bool_), workload.has_output.copy()
    else:
        is_sampled = choose_sample(
            workload, group, share, rng, LEAST_SAMPLE if least is None else least
        )
        is_visible = is_sampled | workload.is_known
    seen = np.append(is_visible, whole.has_output[n:])
    expected, notes = estimate(whole, tree, seen, rule, guess)
    expected = expected[:n]
    return Lengths(
        expected, expected, is_visible, is_sampled, fingerprint(workload, is_visible), notes
    )


def draw(
    workload: Workload,
    tree: PoolTree,
    lengths: Lengths,
    rng: np.random.Generator,
    rule: str = SUBTREE_MEAN,
    is_doubted: bool = False,
) -> Ints:
    """One possible world: outputs as varied as the evidence, to predict a run by.

    A request whose length is not visible takes that of a visible one, drawn from where its estimate
    by `rule` is from too: the deepest subtree with evidence, or `shrunk`'s mixture. Means alone
    would predict a run without long answers, and so without a tail. Where nothing was learned of a
    source, lengths are exponential and cut at the limit, with the estimate for their mean: of all
    distributions with a given mean the exponential assumes least (its standard deviation is the
    mean; those of the four traces that `demo:` sources are drawn from are 0.8 to 2.0 of it).

    Some that were not seen are longer than all that were: `_redraw_peaks`.

    Lengths that `max_tokens` cut are no ends: who takes one and may be longer goes on as those that
    are (planner/cut_lengths.py).

    A sample is not the pool. Where it `is_doubted`, its lengths are not equally likely: each gets
    an exponential weight, the same for all who draw from it, so that worlds differ as much as the
    sample leaves open (the Bayesian bootstrap: Rubin, Annals of Statistics 9(1), 1981). What
    nothing was learned about is doubted by `PRIOR_DOUBT`, source by source; and what little was
    learned about as if one of the lengths seen were such a guess (`_little_doubt`).
    """
    luck = rng.random(len(workload))
    found = np.flatnonzero(evidence(workload, tree, lengths.is_visible))
    weight = rng.exponential(size=len(found)) if is_doubted else np.ones(len(found))
    cut = _cut_lengths(workload, tree, lengths.is_visible, found, weight)
    if rule == SHRUNK and not lengths.is_visible.all():
        value = cut.under_one_limit()
        by_leaf = shrunk(workload, tree, lengths.is_visible, value).draws(luck, weight)
    else:
        by_leaf = _draw_of_deepest(tree, lengths.is_visible, found, weight, luck)
    taken = np.empty(len(workload), np.int64)
    taken[tree.order] = by_leaf
    seen = workload.output_len[tree.order[found]]
    drawn = np.where(taken >= 0, np.append(seen, 0)[taken], lengths.expected)
    drawn = cut.go_on(taken, drawn, as_limits(workload.output_limit), rng)
    is_blind = is_unlearned(workload, tree, lengths.is_visible)
    leaf = np.flatnonzero(is_blind[tree.order])
    if len(leaf):
        doubt = PRIOR_DOUBT if is_doubted else 0.0
        factor = np.exp(doubt * rng.standard_normal(int(tree.group.max()) + 1))[tree.group[leaf]]
        row = tree.order[leaf]
        mean = _means_below(factor * lengths.uncut[row], workload.output_limit[row])
        # NOTE: a mean at the limit is infinite here, and one draw of a thousand million is 0.
        length = np.maximum(1.0, np.rint(-np.log1p(-luck[leaf]) * np.minimum(mean, 1e12)))
        drawn[row] = length.astype(np.int64)
    if is_doubted:
        scale = _little_doubt(tree, found, rng)[tree.group]
        doubtful = np.flatnonzero(scale != 1.0)
        row = tree.order[doubtful]
        drawn[row] = np.maximum(1, np.rint(drawn[row] * scale[doubtful])).astype(np.int64)
    _redraw_peaks(drawn, workload, tree, found, rng, is_doubted)
    drawn = np.minimum(drawn, as_limits(workload.output_limit)).astype(np.int64)
    return np.where(lengths.is_visible, lengths.expected, drawn)


def _little_doubt(tree: PoolTree, found: Ints, rng: np.random.Generator) -> Floats:
    """(sources,) what lengths are multiplied by where few were seen, at the positions `found`: of
    n < LEAST_SAMPLE of them and one guess, off by `PRIOR_DOUBT`, the guess weighs Beta(1, n). A
    bootstrap alone would be sure of one length, and of a few that are alike.
    """
    seen = np.bincount(tree.group[found], minlength=int(tree.group.max(initial=-1)) + 1)
    scale = np.ones(len(seen))
    few = np.flatnonzero((seen > 0) & (seen < LEAST_SAMPLE))
    if len(few):
        off = np.expm1(PRIOR_DOUBT * rng.standard_normal(len(few)))
        scale[few] += rng.beta(1.0, seen[few]) * off
    return scale


def _redraw_peaks(
    drawn: Ints,
    workload: Workload,
    tree: PoolTree,
    found: Ints,
    rng: np.random.Generator,
    is_doubted: bool,
) -> None:
    """Draw the longest anew: of a source with m lengths seen, at the positions `found`, all that
    are above the (√m + 1)th longest are that and an exponential, with the mean that the √m longest
    are above it (peaks over a threshold: Pickands, Annals of Statistics 3(1), 1975; the exponential
    assumes least). So means stay, and about one of m is longer than the longest that was seen.

    A source of which the longest was seen more than once is taken to end there, as at a limit.
    Where the sample `is_doubted`, the mean is one of those that so many peaks, and one more like
    their mean, leave possible.
    """
    sources = int(tree.group.max(initial=-1)) + 1
    group, value = tree.group[found], workload.output_len[tree.order[found]]
    order = np.lexsort((value, group))
    behind = np.searchsorted(group[order], np.arange(sources + 1))
    threshold, mean = np.full(sources, np.iinfo(np.int64).max), np.zeros(sources)
    for source in range(sources):
        seen = value[order[behind[source] : behind[source + 1]]]
        if len(seen) > 1 and seen[-1] > seen[-2]:
            peaks = round(math.sqrt(len(seen)))
            threshold[source] = seen[-1 - peaks]
            mean[source] = float(seen[-peaks:].mean()) - threshold[source]
            if is_doubted:
                mean[source] *= (peaks + 1) / rng.gamma(peaks + 1)
    of_row = tree.group_of_rows
    row = np.flatnonzero(drawn > threshold[of_row])
    more = np.rint(rng.exponential(size=len(row)) * mean[of_row[row]])
    drawn[row] = threshold[of_row[row]] + more.astype(np.int64)


def _means_below(wanted: Floats, limit: Ints) -> Floats:
    """Means of exponential distributions that have the means `wanted` when they are cut at the
    limits (0 = none): the θ with θ·(1 − exp(−L/θ)) = w, infinite where w is no less than L.
    """
    found = np.where((limit > 0) & (wanted >= limit), np.inf, wanted)
    rows = np.flatnonzero((limit > 0) & (wanted < limit))
    share, place = np.unique(wanted[rows] / limit[rows], return_inverse=True)  # few are distinct
    low, high = share, share / (1.0 - share)  # of θ/L
    for _ in range(40):
        middle = np.sqrt(low * high)
        is_low = middle * -np.expm1(-1.0 / middle) < share
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    found[rows] = np.sqrt(low * high)[place] * limit[rows]
    return found


def _cut_lengths(
    workload: Workload, tree: PoolTree, is_visible: Bools, found: Ints, weight: Floats
) -> CutLengths:
    """What the lengths seen at leaf positions `found` say under other limits, to all others."""
    limit, unseen = as_limits(workload.output_limit[tree.order]), ~is_visible[tree.order]
    row = tree.order[found]
    return CutLengths.of(
        tree.group[found],
        workload.output_len[row],
        np.where(workload.is_known[row], np.inf, limit[found]),
        weight,
        tree.group[unseen],
        limit[unseen],
    )


def _draw_of_deepest(
    tree: PoolTree, is_visible: Bools, found: Ints, weight: Floats, luck: Floats
) -> Ints:
    """(n,) by leaf position: which of the lengths seen each takes; −1: none, as it is visible or
    its source has none. That is of the paper's subtrees: `found` are the leaf positions with
    evidence, `weight` says how likely each is drawn beside the others of its subtree, `luck` is a
    random number a leaf position.
    """
    taken = np.full(len(tree.order), -1)

    def below(found: Ints) -> tuple[Ints, Ints]:
        """The range of `found` that each node holds."""
        return np.searchsorted(found, tree.first), np.searchsorted(found, tree.last)

    def take(leaf: Ints, first: Ints, last: Ints, weight: Floats, place_of: Ints) -> None:
        total = np.append(0.0, np.cumsum(weight))
        aim = total[first] + luck[leaf] * (total[last] - total[first])
        place = np.searchsorted(total, aim, side="right") - 1
        place = np.clip(place, first, last - 1)
        taken[leaf] = place_of[place]

    unseen = ~is_visible[tree.order]
    low, high = below(found)
    node = deepest_nodes(tree.parent, high - low)[tree.leaf_parent]
    leaf = np.flatnonzero((node >= 0) & unseen)
    take(leaf, low[node[leaf]], high[node[leaf]], weight, np.arange(len(found)))
    alone = is_alone(tree)
    mine = np.flatnonzero(alone[found])
    low, high = below(found[mine])
    leaf = np.flatnonzero(alone & unseen & (high > low)[tree.leaf_parent])
    at = tree.leaf_parent[leaf]
    take(leaf, low[at], high[at], weight[mine], mine)
    return taken


def estimate(
    workload: Workload,
    tree: PoolTree,
    is_visible: Bools,
    rule: str = SUBTREE_MEAN,
    guess: int | None = None,
) -> Estimate:
    """Expected output of every request by `rule`, one of `RULES`.

    Known requests count only in a source without a sample, for they are of another kind. Outside
    its source a request falls back to `guess`, to the mean of all sampled ones, then to a prior.
    """
    if rule not in RULES:
        raise UnknownName("length rule", rule, RULES)
    seen = np.where(is_visible, workload.output_len, 0)
    found = np.flatnonzero(evidence(workload, tree, is_visible))
    cut = _cut_lengths(workload, tree, is_visible, found, np.ones(len(found)))
    value = cut.under_one_limit()
    if rule == SHRUNK and not is_visible.all():
        mean = shrunk(workload, tree, is_visible, value).means()
    else:
        mean = _means_of_deepest(tree, found, value)
    mean *= cut.shares(tree.group, as_limits(workload.output_limit[tree.order]))
    guessed = np.empty(len(workload))
    guessed[tree.order] = mean
    sampled = seen[is_visible & ~workload.is_known]
    is_blind = is_unlearned(workload, tree, is_visible)
    notes: list[str] = []
    if is_blind.any():
        source = tree.group_of_rows[is_blind]
        guessed[is_blind], note = _prior(workload.output_limit[is_blind], source, sampled, guess)
        notes.append(note)
    capped = np.minimum(guessed, as_limits(workload.output_limit))
    expected = np.where(is_visible, seen, np.rint(capped))
    return Estimate(np.maximum(expected, 1).astype(np.int64), tuple(notes))


def _prior(limit: Ints, source: Sources, sampled: Ints, guess: int | None) -> tuple[Floats, str]:
    """What requests of these sources with these limits (0 = none) are expected to answer where
    nothing is seen of their source, and a sentence on it. `sampled` are lengths of other sources.
    A `guess`, or their mean, is the mean of each source, limits and all.
    """

    def under_limits(mean: float) -> Floats:
        expected = np.empty(len(limit))
        for mine in (source == each for each in np.unique(source)):
            expected[mine] = means_under(as_limits(limit[mine]), mean)
        return expected

    if guess is None and len(sampled):
        return under_limits(float(sampled.mean())), (
            f"{counted(len(limit), 'request')} of sources without a visible output length "
            f"{'is' if len(limit) == 1 else 'are'} expected to answer as the other sources' "
            "samples do, which is a guess"
        )
    have = "has" if len(limit) == 1 else "have"
    told = f"{counted(len(limit), 'request')} {have} no output length to learn from: "
    if guess is not None:
        expected, cut = under_limits(float(guess)), ""
        if (np.rint(expected) != guess).any():
            cut = ", in the mean of what max_tokens leave"
            if (expected <= guess).all():
                cut = ", or max_tokens where that is less"
        told += f"{guess:,} tokens are expected, as was asked for{cut}"
        return expected, Lacking(told)
    told += (
        f"{PRIOR_SHARE:g} of max_tokens is expected, {PRIOR_OUTPUT} where there is none; "
        f"it is a guess; {BETTER}"
    )
    return np.where(limit > 0, limit * PRIOR_SHARE, PRIOR_OUTPUT), Lacking(told)


def _means_of_deepest(tree: PoolTree, found: Ints, value: Floats) -> Floats:
    """(n,) by leaf position: the mean over the deepest subtree with visible leaves; NaN where the
    source has none. Lengths of `value` tokens are seen at the leaf positions `found`.

    That is the paper's sibling rule as well: a subtree without a visible leaf takes the mean of the
    subtrees with which it shares the longest prefix, which are those of its deepest ancestor that
    has one; requests that share no prefix at all learn from each other.
    """
    weight, seen = np.zeros(len(tree.order)), np.zeros(len(tree.order))
    weight[found], seen[found] = 1.0, value
    mean: Floats = _deepest_means(
        tree.parent,
        tree.first,
        tree.last,
        np.append(0.0, np.cumsum(weight)),
        np.append(0.0, np.cumsum(seen)),
    )[tree.leaf_parent]
    alone = is_alone(tree)
    count = np.bincount(tree.group[alone], weight[alone], int(tree.group.max(initial=-1)) + 1)
    total = np.bincount(tree.group[alone], seen[alone], len(count))
    leaf = np.flatnonzero(alone & (count > 0)[tree.group])
    mean[leaf] = (total / np.maximum(count, 1))[tree.group[leaf]]
    return mean


@allocating_kernel
def _deepest_means(parent: Ints, first: Ints, last: Ints, weight: Floats, total: Floats) -> Floats:
    """Each node's mean over its evidence, or its parent's where it has none; NaN at the root and
    where a source has none. `weight` and `total` are running sums over leaf positions.
    """
    mean = np.full(len(parent), np.nan)
    for k in range(1, len(parent)):
        count = weight[last[k]] - weight[first[k]]
        if count > 0:
            mean[k] = (total[last[k]] - total[first[k]]) / count
        elif parent[k] > 0:
            mean[k] = mean[parent[k]]
    return mean
