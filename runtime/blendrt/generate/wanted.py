"""What is wanted of each request's answer, and what comes of it: the seam between whoever reads
requests and whatever engine answers them.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from blendsim.arrays import Bools, Floats, Ints


class Finish(StrEnum):
    """Why an answer is over, by OpenAI's names."""

    STOP = "stop"  # the model ended it, or a stop text came up
    LENGTH = "length"  # as long as it may be
    FAILED = "failed"  # the engine could not go on with it: there is no answer


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """How a pool's requests are to be answered, a row a request of the workload."""

    temperature: Floats  # (n,), 0: the likeliest token
    top_p: Floats  # (n,), the likeliest tokens that have this probability together, in (0, 1]
    seed: Ints  # (n,), of the request's own random numbers
    is_seeded: Bools  # (n,), whether the request itself gave its seed
    most: Ints  # (n,), tokens of the answer at most, ≥ 1
    stop: tuple[tuple[str, ...], ...]  # (n,), texts that end an answer and are not part of it
    ends: frozenset[int]  # token ids that end any answer

    def select(self, rows: Ints) -> "Wanted":
        """What is wanted of these requests, in that order."""
        return Wanted(
            temperature=self.temperature[rows],
            top_p=self.top_p[rows],
            seed=self.seed[rows],
            is_seeded=self.is_seeded[rows],
            most=self.most[rows],
            stop=tuple(self.stop[row] for row in rows.tolist()),
            ends=self.ends,
        )


class Answer(NamedTuple):
    """One request's answer."""

    row: int  # of the workload
    tokens: list[int]  # as generated, with the one that ended it
    text: str  # without special tokens and without a stop text
    finish: Finish
    why: str = ""  # of one that failed
