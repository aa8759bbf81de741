"""Attention by FlashInfer's kernels: paged prefill, paged decode, and cascade as an option.

FlashInfer plans a batch on the host and sends the plan to the GPU from a pinned buffer of the
wrapper's own, without waiting; planning again before that copy is done would change it under way.
So there are two sets of wrappers that take turns, and a set waits for the copies of its last plan.
The kernels of one batch may thus still run while the next is planned.

One object serves one batch after another. Batches that run side by side (nano-batches) have an
object each. Prefill and decode of a batch may run on two streams; they are joined, and ordered
after the stream that planned, by whoever made the streams.

Written for FlashInfer 0.6.6 to 0.7.2. In 0.7 the options of decode planning are keywords only, and
"auto" may choose cuDNN, so we name a backend; cascade makes its own wrappers, fa3 on Hopper. 0.6.6
finds a batch's longest request in a Python loop: 2 ms of planning for 1000 decodes.
"""

import importlib
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from blendrt.attention.layout import AttentionLayout, PageTable
from blendrt.attention.sharing import SharedDecodes, share
from blendrt.config import DecoderConfig
from blendrt.kv_pool import KvPool
from blendsim.errors import InputError, Unavailable

#: For partial results of requests whose KV is split over the GPU. The most FlashInfer asks for is
#: two blocks an SM, of 128 queries by 128 dimensions for each head of a KV head, in float32: 138 MB
#: for 8 heads a KV head on 132 SMs.
_WORKSPACE_BYTES = 256 << 20
_HEAD_DIMS = (64, 128, 256)
_TYPES = (torch.bfloat16, torch.float16)
_LEAST_CAPABILITY = 8  # bfloat16 on tensor cores: Ampere
#: Heads a KV head for which the decode kernel without tensor cores is compiled.
_PLAIN_GROUPS = (1, 2, 3, 4, 8)


@dataclass(frozen=True, slots=True)
class FlashInferSettings:
    """How FlashInfer is used."""

    #: fa3 exists on Hopper only. Decodes always run fa2's kernels.
    prefill: Literal["fa2", "fa3"] = "fa2"
    #: Decode on tensor cores: pays when several heads read one KV head. None: when 4 or more do.
    tensor_cores: bool | None = None
    #: Read a prefix only once that at least this many decodes of a batch share. 0: never.
    cascade_members: int = 0
    cascade_pages: int = 16  # that they share at least


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
        self._settings = settings
        self._block_tokens = block_tokens
        self._shape = (config.heads, config.kv_heads, config.head_dim, block_tokens)
        self._dtype = dtype
        self._missing = library.jit.MissingJITCacheError
        group = config.heads // config.kv_heads
        on_tensor_cores = group >= 4 if settings.tensor_cores is None else settings.tensor_cores
        workspaces = _Workspaces.on(device)
        self._turns = [
            _Wrappers(library, workspaces, settings, on_tensor_cores, device) for _ in range(2)
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
            )

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
    def on(cls, device: torch.device) -> "_Workspaces":
        size = _WORKSPACE_BYTES if device.type == "cuda" else 0
        # Zeros: some kernels count in it and leave it as they found it.
        return cls(*(torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2)))


class _Wrappers:
    """One turn's wrappers, and when the copies of their last plan are done."""

    def __init__(
        self,
        library: Any,
        workspaces: _Workspaces,
        settings: FlashInferSettings,
        tensor_cores: bool,
        device: torch.device,
    ) -> None:
        self.prefill = library.BatchPrefillWithPagedKVCacheWrapper(
            workspaces.prefill, "NHD", backend=settings.prefill
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


def load_library(device: torch.device) -> Any:
    """The flashinfer package, or Unavailable."""
    if device.type != "cuda":
        raise Unavailable("FlashInfer needs an NVIDIA GPU; without one use the reference attention")
    try:
        return importlib.import_module("flashinfer")
    except ImportError as error:
        raise Unavailable(
            f"FlashInfer cannot be imported ({error}): pip install 'blendsim[gpu]'"
        ) from error


def check_supported(
    config: DecoderConfig, device: torch.device, dtype: torch.dtype, settings: FlashInferSettings
) -> None:
    """InputError for a model or a GPU that FlashInfer has no kernels for."""
    use = "use the reference attention"
    if config.head_dim not in _HEAD_DIMS:
        known = ", ".join(map(str, _HEAD_DIMS))
        raise InputError(
            f"{config.name} has heads of {config.head_dim} dimensions, FlashInfer's kernels have "
            f"{known}; {use}"
        )
    if dtype not in _TYPES:
        raise InputError(f"FlashInfer has no kernels for {dtype}; use bfloat16, or {use}")
    group = config.heads // config.kv_heads
    if settings.tensor_cores is False and group not in _PLAIN_GROUPS:
        raise InputError(
            f"{config.name} has {group} heads a KV head, for which FlashInfer decodes on tensor "
            "cores only; leave tensor_cores unset"
        )
    if device.type == "cuda":
        _check_architecture(device, settings)


def _check_architecture(device: torch.device, settings: FlashInferSettings) -> None:
    major, minor = torch.cuda.get_device_capability(device)
    has = f"{torch.cuda.get_device_name(device)} has {major}.{minor}"
    if major < _LEAST_CAPABILITY:
        raise InputError(
            f"FlashInfer needs compute capability {_LEAST_CAPABILITY}.0 or more and {has}; "
            "use another GPU, or --model tiny without --gpu"
        )
    if settings.prefill == "fa3" and major != 9:
        raise InputError(
            f"fa3 kernels exist for compute capability 9.0 alone and {has}; choose fa2"
        )


def _indptr(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
