"""Output lengths that were cut by `max_tokens`, and what they say of requests with another limit.

An answer that was cut at c tokens says that it would have had at least c. Of a source's lengths the
distribution of uncut ones is the product-limit estimate (Kaplan and Meier, Journal of the American
Statistical Association 53, 1958): what a cut one weighs goes in equal parts to all that are longer,
from the shortest cut one on (Efron, Fifth Berkeley Symposium 4, 1967). Behind the longest, if that
was cut, lengths are exponential, with the mean that all tokens over all uncut answers are.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blendsim.arrays import Bools, Floats, Ints

Sources = NDArray[np.int32]  # a number a source


def as_limits(output_limit: Ints) -> Floats:
    """(n,) `max_tokens` of requests, infinite where there is none."""
    return np.where(output_limit > 0, output_limit, np.inf)


@dataclass(frozen=True, slots=True)
class SourceLengths:
    """The lengths seen of one source, ascending; uncut ones before cut ones of the same length."""

    value: Floats  # (e,), tokens
    is_cut: Bools  # (e,)
    weight: Floats  # (e,), how likely each is drawn beside the others
    place: Ints  # (e,), where each stood

    @staticmethod
    def of(value: Ints, limit: Floats, weight: Floats) -> "SourceLengths":
        """Of lengths, the limit each had and how likely each is."""
        is_cut = value >= limit
        place = np.lexsort((is_cut, value))
        return SourceLengths(value[place].astype(np.float64), is_cut[place], weight[place], place)

    @property
    def tail_mean(self) -> float:
        """Tokens by which an answer goes on behind the longest, in the mean."""
        return float(self.value.sum()) / max(1, int((~self.is_cut).sum()))

    def mass(self) -> Floats:
        """(e,) how likely each length is that of an uncut answer; of the longest, where they were
        cut: that an answer is longer and nobody knows by how much. Sums to 1.
        """
        values, at = np.unique(self.value, return_inverse=True)
        uncut = np.bincount(at, self.weight * ~self.is_cut, len(values))
        every = np.bincount(at, self.weight, len(values))
        ends_here = uncut / np.cumsum(every[::-1])[::-1]  # of those that are at least so long
        survives = np.append(1.0, np.cumprod(1.0 - ends_here))
        of_value = survives[:-1] * ends_here / np.where(uncut > 0.0, uncut, 1.0)
        mass = np.where(self.is_cut, 0.0, self.weight * of_value[at])
        is_open = self.is_cut & (at == len(values) - 1)
        if is_open.any():
            mass[is_open] = survives[-1] * self.weight[is_open] / self.weight[is_open].sum()
        return mass

    def longer(self, tokens: Floats) -> Ints:
        """Where the lengths above so many tokens begin."""
        return np.searchsorted(self.value, tokens, side="right")

    def mean_below(self, limit: Floats) -> Floats:
        """Mean lengths of answers that are cut at the limits."""
        mass = self.mass()
        longest = self.value[-1]
        upto = np.minimum(limit, longest)
        at = self.longer(upto)
        mean = np.append(0.0, np.cumsum(mass * self.value))[at]
        mean += upto * np.append(np.cumsum(mass[::-1])[::-1], 0.0)[at]
        open_ended = float(mass[self.is_cut].sum())
        return mean + open_ended * self._beyond(limit - longest)

    def mean_of_longer(self, tokens: Floats, limit: float) -> Floats:
        """Mean lengths of answers that are longer than so many tokens and cut at the limit."""
        mass = self.mass()
        longest = self.value[-1]
        at = self.longer(tokens)
        cut = np.minimum(self.value, limit)
        cut[self.is_cut] += self._beyond(np.array(limit - longest))
        likely = np.append(np.cumsum(mass[::-1])[::-1], 0.0)[at]
        total = np.append(np.cumsum((mass * cut)[::-1])[::-1], 0.0)[at]
        alone = np.minimum(limit, tokens + self._beyond(limit - tokens))
        return np.where(likely > 0.0, total / np.where(likely > 0.0, likely, 1.0), alone)

    def _beyond(self, room: Floats) -> Floats:
        """Tokens in the mean by which an open-ended answer goes on where so many are left."""
        mean = self.tail_mean
        return mean * -np.expm1(-np.maximum(room, 0.0) / mean)

    def go_on(self, tokens: Floats, limit: Floats, rng: np.random.Generator) -> Floats:
        """Where answers end that were cut at so many tokens, which their own limits allow: as one
        of those that are longer, and if that was cut, too, as one that is longer yet.
        """
        ends = tokens.copy()
        open_ended = np.flatnonzero(tokens < limit)
        total = np.append(0.0, np.cumsum(self.weight))
        while len(open_ended):
            at = self.longer(ends[open_ended])
            is_last = at == len(self.value)
            last = open_ended[is_last]
            ends[last] += np.maximum(1.0, np.rint(rng.exponential(self.tail_mean, len(last))))
            open_ended, at = open_ended[~is_last], at[~is_last]
            aim = total[at] + rng.random(len(open_ended)) * (total[-1] - total[at])
            found = np.clip(np.searchsorted(total, aim, side="right") - 1, at, len(self.value) - 1)
            ends[open_ended] = self.value[found]
            goes_on = self.is_cut[found] & (ends[open_ended] < limit[open_ended])
            open_ended = open_ended[goes_on]
        return ends


@dataclass(frozen=True, slots=True)
class CutLengths:
    """What was seen of a pool's sources in which limits matter: answers were cut, or requests whose
    length is not visible may be cut shorter than answers that were seen.
    """

    source: Sources  # (e,) of each length seen
    value: Floats  # (e,), tokens
    lengths: dict[int, SourceLengths]  # by source
    most: dict[int, float]  # by source, the highest limit of requests that are not visible

    @staticmethod
    def of(
        source: Sources,
        value: Ints,
        limit: Floats,
        weight: Floats,
        unseen: Sources,
        unseen_limit: Floats,
    ) -> "CutLengths":
        """Of e lengths seen, and the sources and limits of all whose length is not visible."""
        found: dict[int, SourceLengths] = {}
        most: dict[int, float] = {}
        matters = bool(np.isfinite(limit).any() or np.isfinite(unseen_limit).any())
        for s in np.intersect1d(source, unseen).tolist() if matters else ():
            mine, open_limits = np.flatnonzero(source == s), unseen_limit[unseen == s]
            if (value[mine] >= limit[mine]).any() or open_limits.min() < value[mine].max():
                found[s] = SourceLengths.of(value[mine], limit[mine], weight[mine])
                most[s] = float(open_limits.max())
        return CutLengths(source, value.astype(np.float64), found, most)

    def under_one_limit(self) -> Floats:
        """(e,) the lengths seen as if all had had the highest limit of those not visible: what was
        cut before it is expected to be as long as those that are longer.
        """
        value = self.value.copy()
        for s, lengths in self.lengths.items():
            mine = np.flatnonzero(self.source == s)[lengths.place]
            value[mine] = np.minimum(lengths.value, self.most[s])
            cut = lengths.is_cut & (lengths.value < self.most[s])
            value[mine[cut]] = lengths.mean_of_longer(lengths.value[cut], self.most[s])
        return value

    def shares(self, source: Sources, limit: Floats) -> Floats:
        """(n,) what the limits of requests leave of the mean under the highest one."""
        share = np.ones(len(source))
        for s, lengths in self.lengths.items():
            mine = np.flatnonzero(source == s)
            highest = lengths.mean_below(np.array([self.most[s]]))
            share[mine] = np.minimum(1.0, lengths.mean_below(limit[mine]) / highest)
        return share

    def go_on(self, taken: Ints, drawn: Ints, limit: Floats, rng: np.random.Generator) -> Ints:
        """(n,) the lengths `drawn`, of which `taken` were seen (−1: none was), without the limits
        that those had: answers that were cut go on as those that are longer.
        """
        ends = drawn.copy()
        for s, lengths in self.lengths.items():
            is_cut = np.zeros(len(self.source), np.bool_)
            is_cut[np.flatnonzero(self.source == s)[lengths.place]] = lengths.is_cut
            rows = np.flatnonzero((taken >= 0) & is_cut[taken] & (drawn < limit))
            ends[rows] = lengths.go_on(drawn[rows].astype(np.float64), limit[rows], rng)
        return ends


def means_under(limit: Floats, mean: float) -> Floats:
    """(n,) expected lengths that come to `mean` in their mean, of answers that are all distributed
    alike, exponentially, and cut at their own limits; the limits where these come to no more.
    """
    if limit.mean() <= mean:
        return limit.copy()
    low, high = np.log(mean), np.log(mean) + 1.0
    while _cut_means(limit, np.exp(high)).mean() < mean:
        high += 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        is_low = _cut_means(limit, np.exp(middle)).mean() < mean
        low, high = (middle, high) if is_low else (low, middle)
    return _cut_means(limit, np.exp(high))


def _cut_means(limit: Floats, mean: float) -> Floats:
    """Means of exponential lengths of one mean that are cut at the limits."""
    return np.asarray(mean * -np.expm1(-limit / mean))
