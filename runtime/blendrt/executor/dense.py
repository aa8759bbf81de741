"""The dense part of a step: all that is computed between one layer's attention and the next one's.

    queries(0) · attention · queries(1) · attention · … · queries(L − 1) · attention · rows()

It is cut at attention because that is where steps differ: the dense part looks at no row beside its
own and depends on nothing but how many there are, so it can be captured once a size and replayed
(`graphs`); attention is planned anew for every step.
"""

from typing import Protocol

from torch import Tensor

from blendrt.attention.layout import AttentionLayout
from blendrt.kv_pool import KvPool
from blendrt.model import Decoder


class Dense(Protocol):
    """One step's dense part."""

    @property
    def attended(self) -> Tensor:
        """Where attention puts its answers, (tokens, heads, head_dim), layer after layer."""
        ...

    def queries(self, layer: int) -> Tensor:
        """The layer's queries, (tokens, heads, head_dim); the step's keys and values of this layer
        are in the pool then. The layer before is completed first, by what is in `attended`.
        """
        ...

    def rows(self) -> Tensor:
        """The last layer's rows, (tokens, hidden)."""
        ...


class DirectDense:
    """Every operator launched by itself, on just the tokens of a step or of a nano-batch."""

    def __init__(
        self, decoder: Decoder, pool: KvPool, ids: Tensor, layout: AttentionLayout
    ) -> None:
        self._decoder = decoder
        self._pool = pool
        self._slots = layout.slots
        self.x = decoder.embed(ids)
        self._turn = decoder.rotation(layout.positions)
        self.attended = decoder.room_for_attention(layout.tokens)

    def queries(self, layer: int) -> Tensor:
        """The layer's queries."""
        if layer:
            self.complete(layer - 1)
        return self.project(layer)

    def rows(self) -> Tensor:
        """The last layer's rows."""
        self.complete(self._decoder.config.layers - 1)
        return self.x

    def project(self, layer: int) -> Tensor:
        """The layer's queries, where the layer before is complete."""
        return self._decoder.qkv(layer, self.x, self._turn, self._pool, self._slots)

    def complete(self, layer: int) -> None:
        """What follows the layer's attention."""
        self._decoder.output(layer, self.attended, self.x)
        self._decoder.mlp(layer, self.x)
