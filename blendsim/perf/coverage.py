"""Coverage: where a profile was measured, so that whoever goes beyond it can be told how far."""

from dataclasses import dataclass

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

    def outside(self, batch: Batch) -> float:
        """How many times a step exceeds the measured grid, on its worst axis; 1.0 inside."""
        prefill, chunks, pairs, decodes, context, sampled = batch
        reach = pairs / max(prefill, 1) + 0.5 * (prefill / max(chunks, 1) - 1.0)
        return max(
            1.0,
            (prefill + decodes) / self.tokens,
            sampled / self.tokens,
            decodes / self.decode_requests,
            context / max(decodes, 1) / self.decode_context,
            chunks / self.prefill_requests,
            reach / self.prefill_reach,
        )

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
