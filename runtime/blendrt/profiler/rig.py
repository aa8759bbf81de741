"""Rig: a few layers of one GPU's part of a model, with weights and KV pages too large for a cache.

Layers are the rotating buffers: call i runs in layer i modulo their number, as an engine goes from
one layer to the next and finds nothing of it in the cache.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from blendrt.attention import Attention
from blendrt.attention.layout import AttentionLayout, Rows, lay_out
from blendrt.attention.reference import ReferenceAttention
from blendrt.config import DecoderConfig
from blendrt.kv_pool import KvPool, page_bytes
from blendrt.machine import free_bytes
from blendrt.model import Decoder
from blendrt.profiler.timer import Timer, timer_for
from blendrt.weights import random_weights
from blendsim.arrays import Ints
from blendsim.system import BLOCK_TOKENS

_LEAST_LAYERS = 8
_MOST_LAYERS = 32
_MOST_KV_BYTES = 32 << 30
_CPU_PAGES = 256


@dataclass(frozen=True, slots=True)
class Rig:
    """What is measured, on what, by what."""

    decoder: Decoder
    attention: Attention
    backend: str  # whose kernels, for the profile's provenance
    pool: KvPool
    timer: Timer
    rng: np.random.Generator

    @property
    def device(self) -> torch.device:
        """Where all of it lies."""
        return self.decoder.device

    @property
    def config(self) -> DecoderConfig:
        """Of the layers there are."""
        return self.decoder.config

    def layer(self, call: int) -> int:
        """The layer that a call runs in."""
        return call % self.config.layers

    def noise(self, *shape: int) -> Tensor:
        """Random values. Zeros would do, but for the power they do not draw."""
        return torch.randn(shape, device=self.device).to(self.decoder.dtype)

    def queries(self, tokens: int) -> Tensor:
        """Random queries."""
        return self.noise(tokens, self.config.heads, self.config.head_dim)

    def decodes(self, contexts: Ints) -> AttentionLayout:
        """Decodes at these contexts."""
        none = np.zeros(0, np.int64)
        return self._lay_out(none, none, contexts)

    def chunks(self, tokens: Ints, computed: Ints) -> AttentionLayout:
        """Prefill chunks of so many tokens behind computed ones."""
        return self._lay_out(tokens, computed, np.zeros(0, np.int64))

    def _lay_out(self, tokens: Ints, computed: Ints, contexts: Ints) -> AttentionLayout:
        rows = [self._pages(computed + tokens), self._pages(contexts)]
        block = self.pool.block_tokens
        return lay_out(tokens, computed, rows[0], contexts, rows[1], block, self.device)

    def _pages(self, lengths: Ints) -> Rows:
        """Pages anywhere in the pool. Where all requests need more than it has some are read twice,
        too far apart to be still in a cache.
        """
        indptr = np.concatenate((np.zeros(1, np.int64), np.cumsum(-(-lengths // self._block))))
        return Rows(indptr, self.rng.integers(0, self.pool.pages, indptr[-1]))

    @property
    def _block(self) -> int:
        return self.pool.block_tokens


@contextmanager
def build_rig(config: DecoderConfig, tp: int, device: torch.device, seed: int) -> Iterator[Rig]:
    """A rig for one of `tp` GPUs' part of a model; its memory is given back at the end."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    part = rank_part(config, tp)
    part = replace(part, layers=_layers(part, device, dtype))
    decoder = Decoder(part, random_weights(part, seed, device, dtype))
    pool = KvPool(part, _pages(part, device, dtype), BLOCK_TOKENS, device, dtype)
    pool.k.normal_()
    pool.v.normal_()
    attention, backend = make_attention(part, device, dtype)
    rng = np.random.default_rng(seed)
    try:
        yield Rig(decoder, attention, backend, pool, timer_for(device), rng)
    finally:
        del decoder, pool, attention
        if device.type == "cuda":
            torch.cuda.empty_cache()


def rank_part(config: DecoderConfig, tp: int) -> DecoderConfig:
    """The decoder whose GEMMs and heads are those of one of `tp` GPUs."""
    return replace(
        config,
        heads=config.heads // tp,
        kv_heads=max(1, config.kv_heads // tp),
        intermediate=config.intermediate // tp,
        vocab=-(-config.vocab // tp),
    )


def _layers(part: DecoderConfig, device: torch.device, dtype: torch.dtype) -> int:
    """So many that the smallest GEMM's weights, once around, do not fit the cache by half."""
    if device.type != "cuda":
        return 2
    smallest = min(part.q_width, part.intermediate) * part.hidden * dtype.itemsize
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return min(_MOST_LAYERS, max(_LEAST_LAYERS, -(-2 * cache // smallest)))


def _pages(part: DecoderConfig, device: torch.device, dtype: torch.dtype) -> int:
    if device.type != "cuda":
        return _CPU_PAGES
    return int(min(0.35 * free_bytes(device), _MOST_KV_BYTES)) // page_bytes(
        part, BLOCK_TOKENS, dtype
    )


def make_attention(
    part: DecoderConfig, device: torch.device, dtype: torch.dtype
) -> tuple[Attention, str]:
    """The attention of a device, with a plan of its own, and whose kernels it runs."""
    if device.type != "cuda":
        return ReferenceAttention(), "blendrt's reference attention"
    from blendrt.attention.flashinfer import FlashInferAttention
    from blendrt.attention.support import load_library

    version = getattr(load_library(device), "__version__", "of unknown version")
    made = FlashInferAttention(part, BLOCK_TOKENS, device, dtype)
    return made, f"FlashInfer {version}, prefill {made.backend}, decode fa2"
