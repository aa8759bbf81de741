"""How far an attention is from the exact answer, on fresh random batches.

The exact answer is the reference with float32 queries over the same cache. The error of a token is
the length of the difference over the length of the exact answer, all heads together; the worst
token of a batch counts, so that one wrong row among many shows. Rounding to bfloat16 alone makes
about 0.003, a kernel that rounds its weights as well about twice that.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from blendrt.attention import Attention
from blendrt.attention.layout import AttentionLayout, Rows, lay_out
from blendrt.attention.reference import ReferenceAttention
from blendrt.config import DecoderConfig
from blendrt.kv_pool import KvPool
from blendsim.arrays import Ints


class World(NamedTuple):
    """A random batch: its layout, queries of all tokens, and a cache of one layer."""

    layout: AttentionLayout
    q: Tensor
    pool: KvPool


class Deviation(NamedTuple):
    """The worst token's relative error, of prefills and of decodes; 0 where there are none."""

    prefill: float
    decode: float


class Sizes(NamedTuple):
    """Upper ends of what a random batch holds."""

    chunks: int = 4
    chunk_tokens: int = 300
    computed_tokens: int = 1000
    decodes: int = 64
    context_tokens: int = 2000
    #: Pages that some of the decodes have in common.
    shared_pages: int = 40


@torch.inference_mode()
def compare(
    attention: Attention,
    config: DecoderConfig,
    block_tokens: int,
    device: torch.device,
    dtype: torch.dtype,
    rng: np.random.Generator,
    worlds: int = 8,
    sizes: Sizes = Sizes(),
) -> list[Deviation]:
    """Errors of `attention` on random batches, planned and run one after another without waiting,
    as an engine would.
    """
    made = [random_world(rng, config, block_tokens, device, dtype, sizes) for _ in range(worlds)]
    answers = [_answer(attention, world, world.q) for world in made]
    exact = [_answer(ReferenceAttention(), world, world.q.float()) for world in made]
    return [
        _deviation(got.float(), right, world.layout.prefill_tokens)
        for got, right, world in zip(answers, exact, made, strict=True)
    ]


def random_world(
    rng: np.random.Generator,
    config: DecoderConfig,
    block_tokens: int,
    device: torch.device,
    dtype: torch.dtype,
    sizes: Sizes = Sizes(),
) -> World:
    """Chunks behind computed tokens (or none), decodes of any length, some behind a shared prefix,
    all over pages in random order.
    """
    chunks = rng.integers(1, sizes.chunk_tokens + 1, rng.integers(0, sizes.chunks + 1))
    computed = rng.integers(0, sizes.computed_tokens + 1, len(chunks)) * rng.integers(
        0, 2, len(chunks)
    )
    contexts = rng.integers(1, sizes.context_tokens + 1, rng.integers(1, sizes.decodes + 1))
    prefix = int(rng.integers(0, sizes.shared_pages + 1))
    counts = [_pages(tokens, block_tokens) for tokens in (computed + chunks, contexts)]
    pages = sum(int(count.sum()) for count in counts) + prefix
    numbers = rng.permutation(pages)
    shared, numbers = numbers[:prefix], numbers[prefix:]
    prefill_rows = np.split(numbers[: counts[0].sum()], np.cumsum(counts[0])[:-1])[: len(chunks)]
    decode_rows = np.split(numbers[counts[0].sum() :], np.cumsum(counts[1])[:-1])
    for row in decode_rows[::2]:  # every other one, so that members do not stand together
        if len(row) > prefix:
            row[:prefix] = shared
    layout = lay_out(
        chunks,
        computed,
        Rows.of(prefill_rows),
        contexts,
        Rows.of(decode_rows),
        block_tokens,
        device,
    )
    generator = torch.Generator(device).manual_seed(int(rng.integers(1 << 62)))
    pool = KvPool(replace(config, layers=1), pages, block_tokens, device, dtype)
    pool.k.normal_(generator=generator)
    pool.v.normal_(generator=generator)
    q = torch.randn(
        (layout.tokens, config.heads, config.head_dim),
        generator=generator,
        dtype=dtype,
        device=device,
    )
    return World(layout, q, pool)


def _pages(tokens: Ints, block_tokens: int) -> Ints:
    return -(-tokens // block_tokens)


def _answer(attention: Attention, world: World, q: Tensor) -> Tensor:
    cut = world.layout.prefill_tokens
    attention.plan(world.layout)
    return torch.cat(
        (attention.prefill(0, q[:cut], world.pool), attention.decode(0, q[cut:], world.pool))
    )


def _deviation(got: Tensor, right: Tensor, cut: int) -> Deviation:
    errors = (got - right).flatten(1).norm(dim=1) / right.flatten(1).norm(dim=1)
    # NOTE: max() of a tensor keeps a NaN, as Python's does not.
    worst = [float(part.max()) if len(part) else 0.0 for part in (errors[:cut], errors[cut:])]
    return Deviation(*worst)
