"""Choosing tokens by their probabilities, so that an answer depends on its request alone.

A request's random numbers are a hash of its seed and of the place of the token: whoever else is in
the step, and whatever order requests run in, changes nothing but the rounding of the logits.
"""

import numpy as np
import torch
from torch import Tensor

from blendrt.attention.layout import upload
from blendrt.generate.wanted import Wanted
from blendrt.tokens import mix
from blendsim.arrays import Floats, Ints

_ROWS = 256  # sampled at a time
_BYTES = 56  # of a token's probability on the way, where tokens are sorted
_BITS = 53  # of a random number: those of a float


def uniforms(seed: Ints, place: Ints) -> Floats:
    """(n,) numbers in [0, 1), one for each seed and place of a token in its answer."""
    mixed = mix(mix(seed) ^ place.view(np.uint64))
    return np.asarray((mixed >> np.uint64(64 - _BITS)) * 2.0**-_BITS, np.float64)


def scratch_bytes(vocab: int, samples: int, itemsize: int) -> int:
    """Memory for the logits of a step's `samples` and for drawing from some of them."""
    return vocab * (samples * itemsize + min(samples, _ROWS) * _BYTES)


class Sampler:
    """Chooses the next token of requests, which are given as rows of `wanted`."""

    def __init__(self, wanted: Wanted, device: torch.device) -> None:
        self._wanted = wanted
        self._device = device
        self._is_drawn = wanted.temperature > 0.0
        self._is_cut = wanted.top_p < 1.0

    @torch.inference_mode()
    def pick(self, logits: Tensor, rows: Ints, places: Ints) -> tuple[Tensor, Tensor]:
        """(n,) int64: token `places[i]` of the answer to `rows[i]`, by logits (n, vocab); and (n,)
        of which of them the logits are no numbers, so that they say nothing: it is any token then.
        """
        tokens = logits.argmax(-1)
        # NOTE: NaN is the largest to `argmax`: one value a row says it of all.
        is_lost = logits.gather(-1, tokens[:, None]).squeeze(-1).isnan()
        is_drawn = self._is_drawn[rows]
        if not is_drawn.any():
            return tokens, is_lost
        is_cut = self._is_cut[rows]
        for cuts in (False, True):
            drawn = np.flatnonzero(is_drawn & (is_cut == cuts))
            for start in range(0, len(drawn), _ROWS):
                some = drawn[start : start + _ROWS]
                index = self._upload(some)
                shares = self._shares(logits[index], rows[some])
                luck = self._upload(uniforms(self._wanted.seed[rows[some]], places[some]))[:, None]
                top_p = self._wanted.top_p[rows[some]]
                tokens[index] = self._of_top(shares, luck, top_p) if cuts else _of_all(shares, luck)
        return tokens, is_lost

    def _shares(self, logits: Tensor, rows: Ints) -> Tensor:
        """(n, vocab) probabilities at the requests' temperatures."""
        temperature = self._upload(self._wanted.temperature[rows])[:, None]
        # NOTE: scaled before it is divided by a temperature that may be tiny.
        return ((logits.double() - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)

    def _of_top(self, shares: Tensor, luck: Tensor, top_p: Floats) -> Tensor:
        """As `_of_all`, among the likeliest tokens, of which the last one reaches top_p."""
        sorted_shares, order = shares.sort(dim=-1, descending=True, stable=True)
        upto = sorted_shares.cumsum(-1)
        kept = (upto - sorted_shares) < self._upload(top_p)[:, None]
        whole = (sorted_shares * kept).sum(-1, keepdim=True)
        last = (kept.sum(-1) - 1).clamp(min=0)  # of probabilities that are no numbers none is kept
        return order.gather(-1, _place(upto, luck * whole, last)[:, None]).squeeze(-1)

    def _upload(self, values: Ints | Floats) -> Tensor:
        return upload(torch.from_numpy(np.ascontiguousarray(values)), self._device)


def _of_all(shares: Tensor, luck: Tensor) -> Tensor:
    """The token in whose share the random number lies, by id. Nothing is sorted: that takes longer
    than all else here.
    """
    upto = shares.cumsum(-1)
    return _place(upto, luck * upto[:, -1:], shares.shape[-1] - 1)


def _place(upto: Tensor, at: Tensor, last: Tensor | int) -> Tensor:
    """(n,) the first place whose sum is above `at`, (n, 1); at most `last`."""
    # NOTE: a tensor made of a number would be copied to the GPU, and the host would wait for it.
    return torch.searchsorted(upto, at, right=True).squeeze(-1).clamp(max=last)
