"""The KV cache's tensors: numbered pages of a few tokens each, K and V of every layer.

A token's place is its *slot*: page · block_tokens + offset in the page. K and V are two tensors of
one shape, (layers, pages + 1, block_tokens, kv_heads, head_dim): a layer of them is what FlashInfer
calls a paged cache in NHD layout, and a slot is a row of the same memory seen flat.
"""

import torch
from torch import Tensor

from blendrt.config import DecoderConfig
from blendrt.machine import free_bytes
from blendsim.errors import InputError


class KvPool:
    """K and V of `pages` pages, zero at first, and of a spare one behind them, for rows of a step
    that stand for no token.
    """

    def __init__(
        self,
        config: DecoderConfig,
        pages: int,
        block_tokens: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.pages = pages
        self.block_tokens = block_tokens
        #: A slot that no request has.
        self.spare_slot = pages * block_tokens
        there = pages + 1
        needed = there * page_bytes(config, block_tokens, dtype)
        if device.type == "cuda":
            free = free_bytes(device)
            if needed > free:
                fit = max(0, free // page_bytes(config, block_tokens, dtype) - 1)
                raise InputError(
                    f"{pages} KV blocks need {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are "
                    f"free on {torch.cuda.get_device_name(device)}; at most {fit} blocks fit"
                )
        shape = (config.layers, there, block_tokens, config.kv_heads, config.head_dim)
        self.k = torch.zeros(shape, dtype=dtype, device=device)
        self.v = torch.zeros(shape, dtype=dtype, device=device)
        row = (config.layers, there * block_tokens, config.kv_heads, config.head_dim)
        k_rows, v_rows = self.k.view(row), self.v.view(row)
        # Made once: a step asks for them in every layer.
        self._rows = [(k_rows[layer], v_rows[layer]) for layer in range(config.layers)]
        self._paged = [(self.k[layer], self.v[layer]) for layer in range(config.layers)]

    def rows(self, layer: int) -> tuple[Tensor, Tensor]:
        """A layer's K and V by slot, (slots, kv_heads, head_dim) each, to be written to."""
        return self._rows[layer]

    def paged(self, layer: int) -> tuple[Tensor, Tensor]:
        """A layer's K and V, (pages + 1, block_tokens, kv_heads, head_dim) each."""
        return self._paged[layer]


def page_bytes(config: DecoderConfig, block_tokens: int, dtype: torch.dtype) -> int:
    """Memory of one page: K and V of its tokens in all layers."""
    return 2 * config.layers * block_tokens * config.kv_width * dtype.itemsize
