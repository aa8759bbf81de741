"""Attention by FlashInfer's kernels: paged prefill, paged decode, and cascade as an option.

FlashInfer plans a batch on the host and sends the plan to the GPU from a pinned buffer of the
wrapper's own, without waiting; planning again before that copy is done would change it under way.
So there are two sets of wrappers that take turns, and a set waits for the copies of its last plan.
The kernels of one batch may thus still run while the next is planned.

One object serves one batch after another. Batches that run side by side (nano-batches) have an
object each. Prefill and decode of a batch may run on two streams; they are joined, and ordered
after the stream that planned, by whoever made the streams.

Written for FlashInfer 0.6.6 to 0.7.2, run with 0.6.6. In 0.7 the options of decode planning are
keywords only, and "auto" may choose cuDNN, so we name a backend; cascade makes its own wrappers,
fa3 on Hopper. 0.6.6 finds a batch's longest request in a Python loop, which `load_library` spares.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blendrt.attention.layout import AttentionLayout, PageTable
from blendrt.attention.sharing import SharedDecodes, share
from blendrt.attention.splitting import MOST_CHUNKS, chunk_tokens
from blendrt.attention.support import (
    FlashInferSettings,
    blocks_at_once,
    check_supported,
    has_fa3,
    load_library,
)
from blendrt.config import DecoderConfig
from blendrt.kv_pool import KvPool
from blendsim.errors import Unavailable

#: For partial results of requests whose KV is split over the GPU. Left to itself FlashInfer asks
#: for two blocks an SM at most, of 128 queries by 128 dimensions for each head of a KV head, in
#: float32: 138 MB for 8 heads a KV head on 132 SMs.
_WORKSPACE_BYTES = 256 << 20
#: Rows of a decode's partial result: its queries, one a head of a KV head, are padded to so many.
_SMALL_TILE, _TILE = 16, 64
_FLOAT_BYTES = 4


class FlashInferAttention:
    """The `Attention` of a GPU. `library` stands in for FlashInfer in tests."""

    def __init__(
        self,
        config: DecoderConfig,
        block_tokens: int,
        device: torch.device,
        dtype: torch.dtype,
        settings: FlashInferSettings = FlashInferSettings(),
        library: Any = None,
    ) -> None:
        if library is None:
            library = load_library(device)
        check_supported(config, device, dtype, settings)
        #: Whose prefill kernels run.
        self.backend = settings.prefill
        if self.backend == "auto":
            self.backend = "fa3" if has_fa3(config, device, dtype) else "fa2"
        self._settings = settings
        self._block_tokens = block_tokens
        self._shape = (config.heads, config.kv_heads, config.head_dim, block_tokens)
        self._dtype = dtype
        self._missing = library.jit.MissingJITCacheError
        group = config.heads // config.kv_heads
        on_tensor_cores = group >= 4 if settings.tensor_cores is None else settings.tensor_cores
        workspaces = _Workspaces.on(device, _decode_bytes(config))
        self._splits = on_tensor_cores  # FlashInfer's other decode kernel cannot be told
        self._slots = blocks_at_once(device) // config.kv_heads
        self._turns = [
            _Wrappers(library, workspaces, self.backend, settings, on_tensor_cores, device)
            for _ in range(2)
        ]

    def plan(self, layout: AttentionLayout) -> None:
        """Plan the next batch. Everything it sends to the GPU is ordered on the current stream."""
        self._turns.reverse()
        wrappers = self._turns[0]
        wrappers.wait_for_copies()
        try:
            self._plan(wrappers, layout)
        except self._missing as error:
            raise Unavailable(
                f"FlashInfer has no compiled kernel for head size {self._shape[2]} in "
                f"{self._dtype} and FLASHINFER_DISABLE_JIT is set; build it first or unset that"
            ) from error
        wrappers.mark_copies()

    def prefill(self, layer: int, q: Tensor, pool: KvPool, out: Tensor | None = None) -> Tensor:
        """Causal attention of the planned batch's chunks."""
        if not len(q):
            return q
        answers: Tensor = self._turns[0].prefill.run(q, pool.paged(layer), out=out)
        return answers

    def decode(self, layer: int, q: Tensor, pool: KvPool, out: Tensor | None = None) -> Tensor:
        """Attention of the planned batch's decodes."""
        if not len(q):
            return q
        wrappers, paged = self._turns[0], pool.paged(layer)
        shared = wrappers.shared
        if shared is None:
            answers: Tensor = wrappers.decode.run(q, paged, out=out)
            return answers
        answers = torch.empty_like(q) if out is None else out
        answers[shared.members] = wrappers.cascade.run(q[shared.members], paged)
        if len(shared.alone):
            answers[shared.lone] = wrappers.decode.run(q[shared.lone], paged)
        return answers

    def _plan(self, wrappers: "_Wrappers", layout: AttentionLayout) -> None:
        if layout.prefill_tokens:
            pages = layout.prefill_pages
            wrappers.prefill.plan(
                _indptr(layout.prefill_lens),
                pages.indptr,
                pages.indices,
                pages.last_page_len,
                *self._shape,
                causal=True,
                q_data_type=self._dtype,
                kv_data_type=self._dtype,
            )
        wrappers.shared = None
        settings, decodes = self._settings, layout.decode_pages
        if settings.cascade_members and layout.decodes:
            shared = share(
                decodes, self._block_tokens, settings.cascade_members, settings.cascade_pages
            )
            if len(shared.shared):
                wrappers.shared, decodes = shared, shared.alone
                self._plan_cascade(wrappers, shared)
        if len(decodes):
            wrappers.decode.plan(
                decodes.indptr,
                decodes.indices,
                decodes.last_page_len,
                *self._shape,
                q_data_type=self._dtype,
                kv_data_type=self._dtype,
                **self._split(decodes),
            )

    def _split(self, decodes: PageTable) -> dict[str, int]:
        """FlashInfer's option for cutting long contexts, where that pays."""
        lengths = decodes.lengths(self._block_tokens).numpy()
        chunk = self._settings.decode_chunk
        if chunk is None:
            chunk = chunk_tokens(lengths, self._slots)
        if not chunk or not self._splits:
            return {}
        return {"fixed_split_size": -(-chunk // self._block_tokens)}

    def _plan_cascade(self, wrappers: "_Wrappers", shared: SharedDecodes) -> None:
        levels: list[PageTable] = [shared.shared, shared.own]
        members = torch.arange(len(shared.own) + 1, dtype=torch.int32)
        wrappers.cascade.plan(
            [shared.group_indptr, members],
            [level.indptr for level in levels],
            [level.indices for level in levels],
            [level.last_page_len for level in levels],
            *self._shape,
            q_data_type=self._dtype,
            kv_data_type=self._dtype,
        )


@dataclass(frozen=True, slots=True)
class _Workspaces:
    """Scratch of the kernels. Those of one kind run one after another and share theirs; prefill and
    decode may run side by side.
    """

    prefill: Tensor
    decode: Tensor  # cascade's too: it is a part of decoding

    @classmethod
    def on(cls, device: torch.device, decode_bytes: int) -> "_Workspaces":
        sizes = (_WORKSPACE_BYTES, decode_bytes)
        is_gpu = device.type == "cuda"
        # Zeros: some kernels count in it and leave it as they found it.
        return cls(
            *(torch.zeros(size * is_gpu, dtype=torch.uint8, device=device) for size in sizes)
        )


class _Wrappers:
    """One turn's wrappers, and when the copies of their last plan are done."""

    def __init__(
        self,
        library: Any,
        workspaces: _Workspaces,
        backend: str,
        settings: FlashInferSettings,
        tensor_cores: bool,
        device: torch.device,
    ) -> None:
        self.prefill = library.BatchPrefillWithPagedKVCacheWrapper(
            workspaces.prefill, "NHD", backend=backend
        )
        self.decode = library.BatchDecodeWithPagedKVCacheWrapper(
            workspaces.decode, "NHD", use_tensor_cores=tensor_cores, backend="fa2"
        )
        self.cascade: Any = None
        if settings.cascade_members:
            self.cascade = library.MultiLevelCascadeAttentionWrapper(2, workspaces.decode, "NHD")
        self.shared: SharedDecodes | None = None
        is_gpu = device.type == "cuda"
        self._copied = torch.cuda.Event() if is_gpu else None  # type: ignore[no-untyped-call]
        self._device = device

    def wait_for_copies(self) -> None:
        """Until the pinned buffers may be written again; no wait before the first plan."""
        if self._copied is not None:
            self._copied.synchronize()

    def mark_copies(self) -> None:
        """All copies of this plan are on the current stream."""
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(self._device))


def scratch_bytes(config: DecoderConfig) -> int:
    """Memory of the GPU that one attention takes for itself."""
    return _WORKSPACE_BYTES + _decode_bytes(config)


def _decode_bytes(config: DecoderConfig) -> int:
    tile = _SMALL_TILE if config.heads // config.kv_heads <= _SMALL_TILE else _TILE
    chunk = config.heads * tile * (config.head_dim + 1) * _FLOAT_BYTES
    return max(_WORKSPACE_BYTES, MOST_CHUNKS * chunk)


def _indptr(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
