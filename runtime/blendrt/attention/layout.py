"""What one batch's attention needs to know, in plain tensors.

A batch's tokens stand in this order: the prefill chunks, request after request, then the decodes,
one token each.

    tokens   [ chunk 0 ········ | chunk 1 ····· | decode 0 | decode 1 | … ]
    a chunk  [ computed before: c | chunk: q ]  its last page is filled up to token c + q − 1
    a decode [ context, the token being computed included ]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from blendsim.arrays import Ints

Pages = npt.NDArray[np.int32]

#: Bytes: where each array of a copy begins. Triton compiles a kernel anew for memory that is not
#: aligned so, and what is allocated by itself is.
_ALIGNED = 16
_TYPES = {np.dtype(np.int32): torch.int32, np.dtype(np.int64): torch.int64}


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
    numbers: npt.NDArray[np.integer]

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
    layout = lay_out_on_host(chunks, computed, chunk_pages, contexts, decode_pages, block_tokens)
    return layout.on_device(*upload_together(layout.to_send, device))


class HostLayout(NamedTuple):
    """A layout of which the device has nothing yet."""

    prefill_lens: Tensor
    prefill_computed: Tensor
    prefill_pages: "_HostTable"
    decode_pages: "_HostTable"
    slots: Ints
    positions: Ints
    prefill_tokens: int

    @property
    def to_send(self) -> tuple[Ints, Ints, Pages, Pages]:
        """What the device is to have."""
        return (self.slots, self.positions, self.prefill_pages.numbers, self.decode_pages.numbers)

    def on_device(
        self, slots: Tensor, positions: Tensor, prefill: Tensor, decode: Tensor
    ) -> AttentionLayout:
        """The layout, with `to_send` as it came there."""
        return AttentionLayout(
            prefill_lens=self.prefill_lens,
            prefill_computed=self.prefill_computed,
            prefill_pages=self.prefill_pages.on_device(prefill),
            decode_pages=self.decode_pages.on_device(decode),
            slots=slots,
            positions=positions,
            prefill_tokens=self.prefill_tokens,
        )


def lay_out_on_host(
    chunks: Ints,
    computed: Ints,
    chunk_pages: Rows,
    contexts: Ints,
    decode_pages: Rows,
    block_tokens: int,
) -> HostLayout:
    """As `lay_out`, for who sends it to the device with other things."""
    # Token by token.
    positions = contexts - 1
    page = decode_pages.numbers[decode_pages.indptr[:-1] + positions // block_tokens]
    if len(chunks):
        request = np.repeat(np.arange(len(chunks)), chunks)
        begin = np.cumsum(chunks) - chunks
        ahead = np.arange(len(request)) - begin[request] + computed[request]
        place = chunk_pages.indptr[:-1][request] + ahead // block_tokens
        positions = np.concatenate((ahead, positions))
        page = np.concatenate((chunk_pages.numbers[place], page))
    slots = page.astype(np.int64) * block_tokens + positions % block_tokens
    return HostLayout(
        prefill_lens=_host(chunks),
        prefill_computed=_host(computed),
        prefill_pages=_on_host(chunk_pages, computed + chunks, block_tokens),
        decode_pages=_on_host(decode_pages, contexts, block_tokens),
        slots=slots,
        positions=positions,
        prefill_tokens=int(chunks.sum()),
    )


def upload(host: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. To a GPU it goes through pinned memory and nobody waits for it."""
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


def upload_together(
    arrays: Sequence[npt.NDArray[np.integer]], device: torch.device
) -> list[Tensor]:
    """The arrays on the device by one copy, as views of what it brought."""
    ends = list(accumulate(-(-array.nbytes // _ALIGNED) * _ALIGNED for array in arrays))
    packed = np.empty(ends[-1], np.uint8)
    starts = [0, *ends[:-1]]
    for start, array in zip(starts, arrays, strict=True):
        packed[start : start + array.nbytes].view(array.dtype)[:] = array
    sent = upload(torch.from_numpy(packed), device)
    return [
        sent[start : start + array.nbytes].view(_TYPES[array.dtype])
        for start, array in zip(starts, arrays, strict=True)
    ]


def page_table(rows: Rows, lengths: Ints, block_tokens: int, device: torch.device) -> PageTable:
    """The pages of requests of `lengths` tokens, and a copy of their numbers on the device."""
    table = _on_host(rows, lengths, block_tokens)
    return table.on_device(upload(torch.from_numpy(table.numbers), device))


class _HostTable(NamedTuple):
    """A page table that the device does not have yet."""

    indptr: Tensor
    last_page_len: Tensor
    numbers: Pages

    def on_device(self, indices: Tensor) -> PageTable:
        """The table with its numbers on the device."""
        numbers = torch.from_numpy(self.numbers)
        return PageTable(self.indptr, self.last_page_len, numbers, indices)


def _on_host(rows: Rows, lengths: Ints, block_tokens: int) -> _HostTable:
    numbers = rows.numbers.astype(np.int32)
    if not len(lengths):
        return _HostTable(_host(rows.indptr), _host(lengths), numbers)
    pages = np.diff(rows.indptr)
    assert (lengths > 0).all(), "a request without tokens has no attention"
    assert (pages == -(-lengths // block_tokens)).all(), (
        f"{pages} pages do not hold {lengths} tokens in blocks of {block_tokens}"
    )
    last = (lengths - 1) % block_tokens + 1
    return _HostTable(_host(rows.indptr), _host(last), numbers)


def _host(values: Ints) -> Tensor:
    return torch.from_numpy(values.astype(np.int32))
