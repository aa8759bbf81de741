"""Batch: what one engine step holds, in numbers. Floor 0; the performance model prices it, the step
log keeps it.
"""

from typing import NamedTuple


class Batch(NamedTuple):
    """One engine step. All fields count tokens or requests of one model replica (all its TP ranks
    together).

    A prefill chunk of q tokens behind c already computed tokens has q·c + q·(q+1)/2 query-key
    pairs. A decode reads its whole context, the token it computes included: request (p, d) reads p
    + j at its j-th decode step, j = 1 … d − 1, since prefill's last position already yields the
    first output token.
    """

    prefill_tokens: int = 0  # prompt (or recomputed) tokens computed in this step
    prefill_requests: int = 0  # chunks they come in, one a request
    prefill_pairs: int = 0  # query-key pairs of those chunks
    decode_requests: int = 0  # requests decoding, one token each
    context_tokens: int = 0  # Σ context read by those decodes
    sampled_tokens: int = 0  # positions that go through the LM head

    @property
    def tokens(self) -> int:
        """Tokens computed by the layers in this step."""
        return self.prefill_tokens + self.decode_requests
