"""Length distributions small enough to ship: a trace's prompt quantiles and its output quantiles in
eight prompt-length classes, or a lognormal.

Sampling is stratified: request i draws from its own 1/n of the distribution, so that even a small
sample has the table's means, and only which lengths meet is random.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats, Ints

#: Levels of the quantile knots, closer where tails are heavy.
PROMPT_LEVELS = np.unique(
    np.concatenate([np.arange(41) / 40, [0.005, 0.01, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999]])
)
OUTPUT_LEVELS = np.unique(
    np.concatenate([np.arange(11) / 10, [0.05, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999]])
)


class Lengths(NamedTuple):
    """Prompt and output lengths of n requests, and each prompt's level in its distribution."""

    prompt: Ints
    output: Ints
    level: Floats


@dataclass(frozen=True, slots=True)
class LengthTable:
    """Quantile knots of a real trace, joined by straight lines."""

    prompt: tuple[int, ...]  # at PROMPT_LEVELS
    output: tuple[tuple[int, ...], ...]  # at output_levels, a row for each equal share of prompts
    #: Levels of further knots between the last two of OUTPUT_LEVELS, for a class of so many rows
    #: that its longest would else stand for its last thousandth, which is several of them.
    tail: tuple[float, ...] = ()

    @property
    def output_levels(self) -> Floats:
        """Levels of the outputs' knots."""
        return np.concatenate([OUTPUT_LEVELS[:-1], self.tail, OUTPUT_LEVELS[-1:]])

    def sample(self, n: int, rng: np.random.Generator) -> Lengths:
        """n requests as the table has them."""
        level = strata(n, rng)
        prompt = np.interp(level, PROMPT_LEVELS, self.prompt)
        output = sample_classes(level, self.output_levels, self.output, rng)
        return Lengths(_tokens(prompt), _tokens(output), level)


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Independent lognormal prompt and output lengths, clipped. Outputs are whole multiples of
    `output_step` tokens.
    """

    prompt_median: float
    prompt_sigma: float
    prompt_clip: tuple[int, int]
    output_median: float
    output_sigma: float
    output_clip: tuple[int, int]
    output_step: int = 1

    def sample(self, n: int, rng: np.random.Generator) -> Lengths:
        """n requests of these two distributions."""
        level = strata(n, rng)
        prompt = _lognormal(level, self.prompt_median, self.prompt_sigma)
        output = _lognormal(strata(n, rng), self.output_median, self.output_sigma)
        steps = np.rint(np.clip(output, *self.output_clip) / self.output_step)
        return Lengths(
            _tokens(np.clip(prompt, *self.prompt_clip)),
            _tokens(steps * self.output_step),
            level,
        )


def strata(n: int, rng: np.random.Generator) -> Floats:
    """n levels in (0, 1), one in each n-th, in random order."""
    # NOTE: kept off 0 and 1, where a normal quantile is infinite.
    return np.clip((rng.permutation(n) + rng.random(n)) / max(n, 1), 1e-9, 1 - 1e-9)


def sample_classes(
    level: Floats, at: Floats, knots: tuple[tuple[float, ...], ...], rng: np.random.Generator
) -> Floats:
    """Draw for each request from the row of `knots` its level falls into."""
    drawn = np.empty(len(level))
    row = np.minimum((level * len(knots)).astype(np.int64), len(knots) - 1)
    for code, values in enumerate(knots):
        members = np.flatnonzero(row == code)
        drawn[members] = np.interp(strata(len(members), rng), at, values)
    return drawn


def _lognormal(level: Floats, median: float, sigma: float) -> Floats:
    from scipy.special import ndtri

    values: Floats = median * np.exp(sigma * ndtri(level))
    return values


def _tokens(lengths: Floats) -> Ints:
    return np.maximum(1, np.rint(lengths)).astype(np.int64)
