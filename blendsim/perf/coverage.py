"""Coverage: where a profile was measured, so that whoever goes beyond it can be told how far."""

from dataclasses import dataclass

import numpy as np

from blendsim.batch import Batch
from blendsim.errors import ProfileError
from blendsim.perf.grids import Floats, Ints
from blendsim.perf.profile import Profile
from blendsim.steplog import COUNTS, StepLog


@dataclass(frozen=True, slots=True)
class Coverage:
    """The measured extent of a profile's tables, and how each table was found."""

    notes: tuple[str, ...]
    tokens: int  # of a step
    decode_requests: int
    decode_context: int  # mean, tokens
    prefill_requests: int
    prefill_reach: int  # computed + new tokens of a chunk

    def outside(self, batch: Batch) -> float:
        """How many times a step exceeds the measured grid, on its worst axis; 1.0 inside."""
        return float(self._factors(np.array([batch], np.int64))[0])

    def outside_log(self, log: StepLog) -> float:
        """The largest factor of all steps of a run."""
        columns = [COUNTS.index(name) for name in Batch._fields]
        return float(np.max(self._factors(log.counts[:, columns]), initial=1.0))

    def require(self, token_budget: int, requests: int, factor: float = 1.0) -> None:
        """ProfileError unless steps of `token_budget` tokens and `requests` decodes lie within
        `factor` × the measured grid.
        """
        for name, asked, measured in (
            ("tokens a step", token_budget, self.tokens),
            ("decoding requests", requests, self.decode_requests),
        ):
            if asked > factor * measured:
                raise ProfileError(
                    f"the profile covers {measured} {name}, {asked} are asked for "
                    f"({asked / measured:.1f}×); ask for fewer or measure a larger profile"
                )

    def _factors(self, counts: Ints) -> Floats:
        """One factor a row of Batch's six counts."""
        prefill, chunks, pairs, decodes, context, sampled = counts.T.astype(np.float64)
        new = np.maximum(prefill, 1.0)
        reach = pairs / new + 0.5 * (prefill / np.maximum(chunks, 1.0) - 1.0)
        ratios = (
            (prefill + decodes) / self.tokens,
            sampled / self.tokens,
            decodes / self.decode_requests,
            context / np.maximum(decodes, 1.0) / self.decode_context,
            chunks / self.prefill_requests,
            reach / self.prefill_reach,
        )
        return np.asarray(np.maximum(1.0, np.max(ratios, axis=0)), np.float64)


def coverage_of(profile: Profile) -> Coverage:
    """The coverage of one profile."""
    return Coverage(
        notes=profile.notes,
        tokens=int(profile.tokens[-1]),
        decode_requests=int(profile.decode.batches[-1]),
        decode_context=int(profile.decode.lengths[-1]),
        prefill_requests=int(profile.prefill.batches[-1]),
        prefill_reach=int(profile.prefill.lengths[-1]),
    )
