"""Where the requests of one source come from. A supply gives lengths for the solver, many times,
and the requests themselves once.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from blendsim.arrays import Ints
from blendsim.request import Prompts, Workload, from_lengths

_VOCABULARY = 128_000


class Drawn(NamedTuple):
    """Some requests of a source, as lengths."""

    prompt: Ints
    output: Ints
    shared: int  # prompt tokens that need not be computed, among these requests


class Supply(Protocol):
    """One source of requests. The same count and trial give the same requests."""

    @property
    def name(self) -> str:
        """The source's name."""
        ...

    @property
    def origin(self) -> str:
        """Which file or generator it is, in a few words."""
        ...

    def draw(self, n: int, trial: int) -> Drawn:
        """Lengths of n requests; another trial is another sample where there is choice."""
        ...

    def requests(self, n: int, trial: int) -> Workload:
        """The requests that `draw` gives the lengths of."""
        ...


#: Prompt and output lengths of n requests.
Sampler = Callable[[int, np.random.Generator], tuple[Ints, Ints]]


class LengthSupply:
    """Requests that share nothing but their source's system prompt. Only that prompt is listed:
    what follows belongs to one request, whatever its ids.
    """

    def __init__(
        self,
        name: str,
        origin: str,
        sampler: Sampler,
        *,
        is_known: bool,
        seed: int,
        system_tokens: int,
    ) -> None:
        self.name, self.origin = name, origin
        self._sampler, self._is_known, self._seed = sampler, is_known, seed
        self._system = system_prompt(name, seed, system_tokens)

    def draw(self, n: int, trial: int) -> Drawn:
        """Lengths of n requests, system prompt included."""
        prompt, output = self._sampler(n, stream(self.name, self._seed, trial))
        return Drawn(prompt + len(self._system), output, (n - 1) * len(self._system))

    def requests(self, n: int, trial: int) -> Workload:
        """The n requests."""
        prompt, output, _ = self.draw(n, trial)
        return from_lengths(
            prompt,
            output,
            source=self.name,
            is_known=self._is_known,
            prompts=listing(self.name, np.full(n, len(self._system)), np.tile(self._system, n)),
        )


def from_rows(prompt: Ints, output: Ints) -> Sampler:
    """The rows of a file in random order; each once before any comes again."""

    def sample(n: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
        rows = shuffled(len(prompt), n, rng)
        return prompt[rows], output[rows]

    return sample


def shuffled(size: int, n: int, rng: np.random.Generator) -> Ints:
    """n of `size` rows in random order; each once before any comes again."""
    rounds = [rng.permutation(size) for _ in range(-(-n // size))]
    rows: Ints = np.concatenate([np.zeros(0, np.int64), *rounds])[:n]
    return rows


def stream(name: str, seed: int, trial: int) -> np.random.Generator:
    """Random numbers of one source's trial, independent of all others."""
    return np.random.default_rng([seed, crc32(name.encode()), trial])


def system_prompt(name: str, seed: int, tokens: int) -> NDArray[np.int32]:
    """Token ids of the system prompt of a source: random, the source's own."""
    rng = stream(f"{name} system prompt", seed, 0)
    return rng.integers(0, _VOCABULARY, tokens, dtype=np.int32)


def listing(name: str, lengths: Ints, units: NDArray[np.int32]) -> Prompts:
    """Prompts of a source from their listed tokens, in a space of the source's own: nothing is
    shared with others by chance.
    """
    return Prompts(
        offsets=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        units=units,
        space=np.zeros(len(lengths), np.int32),
        unit_tokens=np.ones(1, np.int32),
        space_names=(f"tokens:synth-{name}",),
    )
