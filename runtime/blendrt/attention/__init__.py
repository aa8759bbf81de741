"""Attention over KV pages: a reference that is plainly right, and FlashInfer."""

from typing import Protocol

from torch import Tensor

from blendrt.attention.layout import AttentionLayout
from blendrt.kv_pool import KvPool


class Attention(Protocol):
    """Attention of one batch after another, each in all layers. A batch's K and V are in the pool
    before its queries are asked.
    """

    def plan(self, layout: AttentionLayout) -> None:
        """Host work, once a batch: the calls below are about this layout until the next."""
        ...

    def prefill(self, layer: int, q: Tensor, pool: KvPool, out: Tensor | None = None) -> Tensor:
        """Causal attention of the chunks' queries, (prefill tokens, heads, head_dim), same out: in
        `out`, which is contiguous, where one is given.
        """
        ...

    def decode(self, layer: int, q: Tensor, pool: KvPool, out: Tensor | None = None) -> Tensor:
        """Attention of the decodes' queries, (decodes, heads, head_dim), as `prefill`."""
        ...
