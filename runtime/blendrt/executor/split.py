"""Split: a step cut into two nano-batches of about equal tokens and equal decode reads.

    tokens of the step   [ chunk 0 | chunk 1 ···· | decodes ]
    nano-batch A         [ chunk 0 | chunk 1 ·· ] [ every other decode, by context ]
    nano-batch B                      [ ·· rest ] [ the others ]

Chunks keep their order, so that one which reads KV of this very step stands behind the one that
writes it: in the same nano-batch or in the one before.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blendrt.attention.layout import AttentionLayout, PageTable, upload
from blendsim.arrays import Ints


@dataclass(frozen=True, slots=True)
class Nano:
    """One nano-batch: which tokens of the step it holds, in its own order, and their layout."""

    tokens: Tensor  # (n,) int64, device
    layout: AttentionLayout


@dataclass(frozen=True, slots=True)
class Split:
    """Two nano-batches, and where each token of the step stands when A and B are joined."""

    nanos: tuple[Nano, Nano]
    places: Tensor  # (tokens,) int64, device


def split_step(layout: AttentionLayout, block_tokens: int) -> Split:
    """Cut a step in two."""
    device = layout.slots.device
    lens = layout.prefill_lens.numpy().astype(np.int64)
    contexts = layout.decode_pages.lengths(block_tokens).numpy()
    deals = deal_decodes(contexts)
    # As many prefill tokens to A as make the halves equal, or as near as there are.
    first = min(max(layout.tokens // 2 - len(deals[0]), 0), layout.prefill_tokens)
    spans = ((0, first), (first, layout.prefill_tokens))
    order: list[Ints] = []
    nanos: list[Nano] = []
    for span, decodes in zip(spans, deals, strict=True):
        tokens = np.concatenate((np.arange(*span), layout.prefill_tokens + decodes))
        order.append(tokens)
        on_device = upload(torch.from_numpy(tokens), device)
        chunks, computed, pages = _cut_chunks(layout, lens, span, block_tokens)
        nanos.append(
            Nano(
                on_device,
                AttentionLayout(
                    prefill_lens=_host(chunks),
                    prefill_computed=_host(computed),
                    prefill_pages=pages,
                    decode_pages=_choose(layout.decode_pages, decodes),
                    slots=layout.slots[on_device],
                    positions=layout.positions[on_device],
                    prefill_tokens=span[1] - span[0],
                ),
            )
        )
    places = np.empty(layout.tokens, np.int64)
    places[np.concatenate(order)] = np.arange(layout.tokens)
    return Split((nanos[0], nanos[1]), upload(torch.from_numpy(places), device))


def deal_decodes(contexts: Ints) -> tuple[Ints, Ints]:
    """Two halves of the decodes, about equal in number and in context: the longest to A, the next
    two to B, the next two to A, and so on. Each half in the step's order.
    """
    ranked = np.argsort(-contexts, kind="stable")
    turn = np.arange(len(contexts)) % 4
    is_first = (turn == 0) | (turn == 3)
    return np.sort(ranked[is_first]), np.sort(ranked[~is_first])


def _cut_chunks(
    layout: AttentionLayout, lens: Ints, span: tuple[int, int], block_tokens: int
) -> tuple[Ints, Ints, PageTable]:
    """The parts of the chunks inside a span of the step's prefill tokens: their tokens, what is
    computed before them (the part cut off included), and their pages up to their ends.
    """
    ends = np.cumsum(lens)
    starts = ends - lens
    low, high = np.clip(starts, *span), np.clip(ends, *span)
    chosen = np.flatnonzero(high > low)
    computed = layout.prefill_computed.numpy()[chosen] + (low - starts)[chosen]
    chunks = (high - low)[chosen]
    return chunks, computed, _choose(layout.prefill_pages, chosen, computed + chunks, block_tokens)


def _choose(
    table: PageTable, rows: Ints, lengths: Ints | None = None, block_tokens: int = 0
) -> PageTable:
    """Some rows of a page table, cut to `lengths` tokens where those are given."""
    indptr = table.indptr.numpy().astype(np.int64)
    begins, counts = indptr[rows], (indptr[1:] - indptr[:-1])[rows]
    last = table.last_page_len.numpy()[rows]
    if lengths is not None:
        counts, last = -(-lengths // block_tokens), (lengths - 1) % block_tokens + 1
    ends = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
    places = np.repeat(begins - ends[:-1], counts) + np.arange(ends[-1])
    numbers = table.numbers[torch.from_numpy(places)]
    return PageTable(_host(ends), _host(last), numbers, upload(numbers, table.indices.device))


def _host(values: Ints) -> Tensor:
    return torch.from_numpy(values.astype(np.int32))
