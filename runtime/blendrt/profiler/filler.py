"""Filler: work like a serving step's, so that kernels are timed by a GPU in the state of serving.

A GPU at its power limit lowers its clock by what it drew over some tenths of a second to a second.
While kernels are timed one by one it would be idle for most of that, and its clock too high.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from blendrt.profiler.kernels import layer_gemms
from blendrt.profiler.rig import Rig, make_attention

_TOKENS = 512  # of the GEMMs: a kernel takes several times its launch, and draws what a step's does
_TRIED = 100  # layers, whose mean seconds count; their launches fit a stream's queue
#: Seconds for which they are tried over and over, of which the last counts: first at the clock of a
#: GPU that has just begun.
_SETTLING = 0.5
_SEED = 1  # of the pages that are read; the rig's own generator is left to what is measured


class StepFiller:
    """Layers of a step: GEMMs of `_TOKENS` tokens, then decode attention of (batch, context), on
    the rig's weights and KV; no more than `most` seconds in all, 0 at first.

    NOTE: Attention comes last. It reads more than a cache holds, so that no weights are left there
    for the GEMM that is timed next.
    """

    def __init__(
        self,
        rig: Rig,
        decodes: tuple[int, int],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._device, self._decodes = rig.device, decodes
        batch, context = decodes
        drawn = replace(rig, rng=np.random.default_rng(_SEED))
        attention, _ = make_attention(rig.config, rig.device, rig.decoder.dtype)
        attention.plan(drawn.decodes(np.full(batch, context)))
        q = rig.queries(batch)
        self._calls: list[Callable[[int], object]] = [
            *layer_gemms(rig, _TOKENS).values(),
            lambda i: attention.decode(rig.layer(i), q, rig.pool),
        ]
        self._layers = 0
        self._run(rig.config.layers)  # loads the kernels
        self._finish()
        begun = clock()
        while True:
            start = clock()
            self._run(_TRIED)
            self._finish()
            if clock() >= begun + _SETTLING:
                break
        self._layer_seconds = (clock() - start) / _TRIED
        #: Seconds queued so far, and how many there may be.
        self.queued, self.most = 0.0, 0.0

    @property
    def told(self) -> str:
        """As a profile's provenance has it."""
        batch, context = self._decodes
        return (
            f"filler ahead of stretches and between timings: a layer's GEMMs of {_TOKENS} tokens "
            f"and {batch} decodes at {context}, {1e3 * self._layer_seconds:.3f} ms"
        )

    @property
    def is_spent(self) -> bool:
        """Whether there is no layer left."""
        return self.most - self.queued < self._layer_seconds

    def queue(self, seconds: float) -> float:
        """See `Filler`; in whole layers."""
        wanted = math.ceil(seconds / self._layer_seconds)
        left = int((self.most - self.queued) / self._layer_seconds)
        layers = max(0, min(wanted, left))
        self._run(layers)
        queued = layers * self._layer_seconds
        self.queued += queued
        return queued

    def fill_until(self, is_done: Callable[[], bool]) -> None:
        """Queue layers until something else is done. They do not count, and `most` does not hold.

        NOTE: Where a stream's queue is full this waits, so that it is never far ahead.
        """
        while not is_done():
            self._run(1)

    def _run(self, layers: int) -> None:
        for i in range(self._layers, self._layers + layers):
            for call in self._calls:
                call(i)
        self._layers += layers

    def _finish(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
