"""Coverage: where a profile was measured, so that whoever goes beyond it can be told how far."""

from dataclasses import dataclass

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.batch import Batch
from blendsim.errors import ProfileError
from blendsim.perf.profile import Profile


@dataclass(frozen=True, slots=True)
class Coverage:
    """The measured extent of a profile's tables, and how each table was found."""

    source: str
    notes: tuple[str, ...]
    tokens: int  # of a step
    decode_requests: int
    decode_context: int  # mean, tokens
    prefill_requests: int
    prefill_reach: int  # computed + new tokens of a chunk

    def factors(self, counts: Ints) -> dict[str, Floats]:
        """Each step's size over the measured one, by what is counted. A row of `counts` is a step
        and begins with Batch's fields.
        """
        prefill, chunks, pairs, decodes, context = counts[:, :5].T
        reach = pairs / np.maximum(prefill, 1) + 0.5 * (prefill / np.maximum(chunks, 1) - 1.0)
        return {
            "tokens a step": (prefill + decodes) / self.tokens,
            "decoding requests": decodes / self.decode_requests,
            "tokens of mean context": context / np.maximum(decodes, 1) / self.decode_context,
            "prompts a step": chunks / self.prefill_requests,
            "tokens of prompt": reach / self.prefill_reach,
        }

    def outside(self, batch: Batch) -> float:
        """How many times a step exceeds the measured grid, on its worst axis; 1.0 inside."""
        factors = self.factors(np.array([batch], np.int64))
        return max(1.0, *(float(factor[0]) for factor in factors.values()))

    def require(self, token_budget: int) -> None:
        """ProfileError unless steps of `token_budget` tokens were measured. How many requests
        decode at once is memory's and the pool's doing: it is noted after a run, not refused.
        """
        if token_budget > self.tokens:
            raise ProfileError(
                f"the profile covers {self.tokens} tokens a step, {token_budget} are asked for; "
                "ask for fewer or measure a larger profile"
            )


def coverage_of(profile: Profile) -> Coverage:
    """The coverage of one profile."""
    return Coverage(
        source=f"{profile.meta['source']}, {profile.meta['backend']}",
        notes=profile.notes,
        tokens=int(profile.tokens[-1]),
        decode_requests=int(profile.decode.batches[-1]),
        decode_context=int(profile.decode.lengths[-1]),
        prefill_requests=int(profile.prefill.batches[-1]),
        prefill_reach=int(profile.prefill.lengths[-1]),
    )
