"""Token ids of prompts: equal where a workload says that prompts are equal, arbitrary elsewhere.

A workload keeps the shareable part of a prompt as token ids or block hashes; the rest is known to
be nobody else's, and nothing more. Ids are made from both when they are asked for, a piece of one
request at a time: a pool of 400 k requests has far more tokens than are ever needed at once.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from blendsim.arrays import Ints
from blendsim.request import Workload

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class PromptTokens:
    """Prompt token ids below `vocab`; the same workload, seed and place give the same id."""

    def __init__(self, workload: Workload, vocab: int, seed: int = 0) -> None:
        self._prompts = workload.prompts
        self._length = workload.prompt_len
        self._vocab = vocab
        self._seed = seed

    def ids(self, row: int, start: int, stop: int) -> Ints:
        """Ids of the prompt tokens `start` … `stop` − 1 of request `row`."""
        assert 0 <= start <= stop <= self._length[row], "tokens of the prompt are asked for"
        prompts, space = self._prompts, int(self._prompts.space[row])
        size, first = int(prompts.unit_tokens[space]), int(prompts.offsets[row])
        listed = min(stop, size * (int(prompts.offsets[row + 1]) - first))
        shared = np.arange(start, max(start, listed))
        units = prompts.units[first + shared // size].astype(np.int64)
        # Ids of a vocabulary as large as ours stay what they are.
        is_ours = (units >= 0) & (units < self._vocab) & (size == 1)
        ids = units
        if not is_ours.all():
            ids = np.where(is_ours, units, self._draw(units, space + 1, shared % size))
        own = np.arange(max(start, listed), stop)
        if not len(own):
            return ids
        return np.concatenate([ids, self._draw(np.full(len(own), self._seed), -1 - row, own)])

    def prompt(self, row: int) -> Ints:
        """The whole prompt of request `row`."""
        return self.ids(row, 0, int(self._length[row]))

    def _draw(self, unit: Ints, salt: int, offset: Ints) -> Ints:
        """An id for each (unit, salt, offset): a hash, so that no order of asking matters."""
        mixed = mix(mix(mix(np.array([salt])) ^ unit.view(np.uint64)) ^ offset.view(np.uint64))
        return (mixed % np.uint64(self._vocab)).astype(np.int64)


def mix(values: NDArray[Any]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64: a bijection of 64-bit numbers that looks random."""
    z = values.view(np.uint64) + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
