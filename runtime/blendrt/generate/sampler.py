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
from blendsim.perf.grids import Floats
from blendsim.request import Ints

_ROWS = 256  # sampled at a time: a row of 128,000 tokens takes 2.5 MB on the way
_BITS = 53  # of a random number: those of a float


def uniforms(seed: Ints, place: Ints) -> Floats:
    """(n,) numbers in [0, 1), one for each seed and place of a token in its answer."""
    mixed = mix(mix(seed) ^ place.view(np.uint64))
    return np.asarray((mixed >> np.uint64(64 - _BITS)) * 2.0**-_BITS, np.float64)


class Sampler:
    """Chooses the next token of requests, which are given as rows of `wanted`."""

    def __init__(self, wanted: Wanted, device: torch.device) -> None:
        self._wanted = wanted
        self._device = device

    @torch.inference_mode()
    def pick(self, logits: Tensor, rows: Ints, places: Ints) -> Tensor:
        """(n,) int64: token `places[i]` of the answer to `rows[i]`, by logits (n, vocab)."""
        tokens = logits.argmax(-1)
        drawn = np.flatnonzero(~self._wanted.is_greedy[rows])
        for start in range(0, len(drawn), _ROWS):
            some = drawn[start : start + _ROWS]
            index = self._upload(some)
            tokens[index] = self._draw(logits[index], rows[some], places[some])
        return tokens

    def _draw(self, logits: Tensor, rows: Ints, places: Ints) -> Tensor:
        """The token in whose share of the probabilities, likeliest first, the random number lies.
        Tokens behind the first ones that reach top_p together have no share.
        """
        temperature = self._upload(self._wanted.temperature[rows])[:, None]
        top_p = self._upload(self._wanted.top_p[rows])[:, None]
        luck = self._upload(uniforms(self._wanted.seed[rows], places))[:, None]
        # NOTE: scaled before it is divided by a temperature that may be tiny.
        scaled = (logits.double() - logits.double().amax(-1, keepdim=True)) / temperature
        shares, order = scaled.softmax(-1).sort(dim=-1, descending=True, stable=True)
        upto = shares.cumsum(-1)
        kept = (upto - shares) < top_p
        whole = (shares * kept).sum(-1, keepdim=True)
        chosen = (upto <= luck * whole).sum(-1, keepdim=True)
        last = kept.sum(-1, keepdim=True) - 1
        return order.gather(-1, torch.minimum(chosen, last)).squeeze(-1)

    def _upload(self, values: Ints | Floats) -> Tensor:
        return upload(torch.from_numpy(np.ascontiguousarray(values)), self._device)
