"""What one batch's attention needs to know, in plain tensors.

A batch's tokens stand in this order: the prefill chunks, request after request, then the decodes,
one token each.

    tokens   [ chunk 0 ········ | chunk 1 ····· | decode 0 | decode 1 | … ]
    a chunk  [ computed before: c | chunk: q ]  its last page is filled up to token c + q − 1
    a decode [ context, the token being computed included ]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from blendsim.arrays import Ints


@dataclass(frozen=True, slots=True)
class PageTable:
    """The pages of some requests, in token order, as compressed rows.

    What planning reads is on the host; the page numbers, which kernels read, are on both sides.
    """

    indptr: Tensor  # (requests + 1,) int32, host
    last_page_len: Tensor  # (requests,) int32, host: tokens in each request's last page, ≥ 1
    numbers: Tensor  # (indptr[-1],) int32, host
    indices: Tensor  # the same on the device

    def __len__(self) -> int:
        return len(self.last_page_len)

    def lengths(self, block_tokens: int) -> Tensor:
        """Tokens of each request, (requests,) int32 on the host."""
        pages = self.indptr[1:] - self.indptr[:-1]
        return (pages - 1) * block_tokens + self.last_page_len


@dataclass(frozen=True, slots=True)
class AttentionLayout:
    """A batch, or the part of one that an executor runs as a nano-batch."""

    prefill_lens: Tensor  # (P,) int32, host: tokens of each chunk
    prefill_computed: Tensor  # (P,) int32, host: tokens before it
    prefill_pages: PageTable  # P requests, the chunk included
    decode_pages: PageTable  # D requests, the token being computed included
    slots: Tensor  # (tokens,) int64, device: where each token's K and V go
    positions: Tensor  # (tokens,) int64, device
    prefill_tokens: int

    @property
    def decodes(self) -> int:
        """Decode tokens, one a request."""
        return len(self.decode_pages)

    @property
    def tokens(self) -> int:
        """All tokens of the batch."""
        return self.prefill_tokens + self.decodes


@dataclass(frozen=True, slots=True)
class Rows:
    """Pages of requests on the host: request i's are numbers[indptr[i] : indptr[i + 1]]."""

    indptr: Ints
    numbers: Ints

    @classmethod
    def of(cls, pages: Sequence[Sequence[int] | npt.NDArray[np.integer]]) -> "Rows":
        """From a list a request."""
        indptr = np.cumsum([0, *map(len, pages)])
        numbers = [np.zeros(0, np.int64), *(np.asarray(row, np.int64) for row in pages)]
        return cls(indptr, np.concatenate(numbers))


def lay_out(
    chunks: Ints,
    computed: Ints,
    chunk_pages: Rows,
    contexts: Ints,
    decode_pages: Rows,
    block_tokens: int,
    device: torch.device,
) -> AttentionLayout:
    """The layout of P chunks of `chunks` tokens behind `computed` ones and of D decodes at
    `contexts` tokens, their own included. Every request has just the pages its tokens fill.
    """
    starts = np.concatenate((computed, contexts - 1))
    counts = np.concatenate((chunks, np.ones_like(contexts)))
    first_page = np.concatenate(
        (chunk_pages.indptr[:-1], decode_pages.indptr[:-1] + chunk_pages.indptr[-1])
    )
    numbers = np.concatenate((chunk_pages.numbers, decode_pages.numbers))
    # Token by token: its request, then its position, page and slot.
    request = np.repeat(np.arange(len(counts)), counts)
    begin = np.cumsum(counts) - counts
    positions = np.arange(len(request)) - begin[request] + starts[request]
    page = numbers[first_page[request] + positions // block_tokens]
    slots = page * block_tokens + positions % block_tokens
    return AttentionLayout(
        prefill_lens=_host(chunks),
        prefill_computed=_host(computed),
        prefill_pages=page_table(chunk_pages, computed + chunks, block_tokens, device),
        decode_pages=page_table(decode_pages, contexts, block_tokens, device),
        slots=upload(torch.from_numpy(slots), device),
        positions=upload(torch.from_numpy(positions), device),
        prefill_tokens=int(chunks.sum()),
    )


def upload(host: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. To a GPU it goes through pinned memory and nobody waits for it."""
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


def page_table(rows: Rows, lengths: Ints, block_tokens: int, device: torch.device) -> PageTable:
    """The pages of requests of `lengths` tokens, and a copy of their numbers on the device."""
    pages = np.diff(rows.indptr)
    assert (lengths > 0).all(), "a request without tokens has no attention"
    assert (pages == -(-lengths // block_tokens)).all(), (
        f"{pages} pages do not hold {lengths} tokens in blocks of {block_tokens}"
    )
    numbers = _host(rows.numbers)
    return PageTable(
        indptr=_host(rows.indptr),
        last_page_len=_host((lengths - 1) % block_tokens + 1),
        numbers=numbers,
        indices=upload(numbers, device),
    )


def _host(values: Ints) -> Tensor:
    return torch.from_numpy(values.astype(np.int32))
