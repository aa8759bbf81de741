"""One step in many ways: whole, cut in two halves on every kind of lanes, and the lanes apart.

What a cut step takes has several causes: halves of GEMMs, twice as many launches, parts of the SMs,
two lanes that slow and wait for each other. Each way here has some of them and lacks the others.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from blendrt.attention import Attention
from blendrt.attention.layout import AttentionLayout, Rows, lay_out
from blendrt.attention.reference import ReferenceAttention
from blendrt.batch import StepInputs
from blendrt.config import DecoderConfig
from blendrt.executor.check import random_step
from blendrt.executor.overlap import OverlapExecutor
from blendrt.executor.rule import OverlapRule
from blendrt.executor.schedule import Piece, Schedule, Task
from blendrt.executor.sequential import SequentialExecutor
from blendrt.executor.streams import (
    NO_PARTITION,
    CudaLanes,
    Lanes,
    OneThread,
    can_partition,
    split_gpu,
)
from blendrt.kv_pool import KvPool, page_bytes
from blendrt.machine import free_bytes
from blendrt.model import Decoder
from blendrt.weights import random_weights
from blendsim.arrays import Ints
from blendsim.system import BLOCK_TOKENS

ALL, GEMMS, ATTENTION = "all", "without decode attention", "decode attention alone"
WHOLE, ONE_STREAM, PLAIN = "whole", "halves, one stream", "halves, two plain streams"
_MOST_OF_FREE = 0.7  # of the memory, for KV; kernels need some, too
_CPU_PAGES = 64


class Size(NamedTuple):
    """A step: one prompt's chunk, and decodes of one context."""

    prefill: int
    decodes: int
    context: int

    @property
    def name(self) -> str:
        """As tables show it."""
        chunk = f", {self.prefill:,} tokens of a prompt" if self.prefill else ""
        return f"{self.decodes:,} decodes at {self.context:,}{chunk}"


#: The first, third and last are like steps that were cut in a run that is kept
#: (docs/validation.md), with 48, 56 and 64 SMs; the second is what a paced plan has most of.
SIZES = (
    Size(0, 663, 880),
    Size(171, 213, 620),
    Size(868, 156, 5600),
    Size(0, 1024, 1024),
    Size(0, 612, 1016),
)
QUICK_SIZES = (Size(5, 6, 20),)


class Way(NamedTuple):
    """A way to run a step, or a part of it."""

    name: str
    part: str  # ALL, GEMMS or ATTENTION
    run: Callable[[], object]


class SwitchedAttention:
    """An attention whose decodes can be left out. It adds up how long planning took the host."""

    def __init__(self, attention: Attention) -> None:
        self._attention = attention
        self.decodes = True
        self.plan_seconds = 0.0

    def plan(self, layout: AttentionLayout) -> None:
        """See `Attention`."""
        start = time.perf_counter()
        self._attention.plan(layout)
        self.plan_seconds += time.perf_counter() - start

    def prefill(self, layer: int, q: Tensor, pool: KvPool, out: Tensor | None = None) -> Tensor:
        """See `Attention`."""
        return self._attention.prefill(layer, q, pool, out)

    def decode(self, layer: int, q: Tensor, pool: KvPool, out: Tensor | None = None) -> Tensor:
        """See `Attention`; nothing where decodes are left out."""
        return self._attention.decode(layer, q, pool, out) if self.decodes else q


@dataclass(slots=True)
class PartialLanes:
    """Lanes that others are put into, and which of their tasks are run."""

    lanes: Lanes
    part: str = ALL

    def execute(self, schedule: Schedule, run: Callable[[Task], None]) -> None:
        """See `Lanes`."""
        self.lanes.execute(schedule, lambda task: run(task) if is_in(task, self.part) else None)


def is_in(task: Task, part: str) -> bool:
    """Whether a part of a step has the task. Decode attention alone has the first layer's queries,
    and asks them in all layers.
    """
    is_decode = task.piece is Piece.DECODE
    if part == ATTENTION:
        return is_decode or (task.piece is Piece.START and task.layer == 0)
    return part == ALL or not is_decode


class CutWorld:
    """A decoder with random weights and KV, and executors that run one step in many ways."""

    def __init__(self, config: DecoderConfig, device: torch.device, kv_bytes: int) -> None:
        self.device = device
        self._rng = np.random.default_rng(0)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._config = config
        self._dtype = dtype
        self._decoder = Decoder(config, random_weights(config, 0, device, dtype))
        self._pool = filled_pool(config, kv_bytes, device, dtype)
        self.attentions: list[SwitchedAttention] = []
        self._whole = SequentialExecutor(self._decoder, self._make_attention(), self._pool)
        self._chosen = PartialLanes(OneThread())
        rule = OverlapRule(least_tokens=0, least_decodes=0, default_sms=NO_PARTITION)
        self._cut = OverlapExecutor(
            self._decoder, self._make_attention, self._pool, rule, lambda _: self._chosen
        )

    def step(self, size: Size) -> StepInputs:
        """A step of that size, its pages anywhere in the pool."""
        chunks = np.array([size.prefill] if size.prefill else [], np.int64)
        contexts = np.full(size.decodes, size.context, np.int64)
        rows = (self._pages(chunks), self._pages(contexts))
        nothing = np.zeros_like(chunks)
        layout = lay_out(chunks, nothing, rows[0], contexts, rows[1], BLOCK_TOKENS, self.device)
        return random_step(layout, self._config, BLOCK_TOKENS, self._rng)

    def ways(
        self, inputs: StepInputs, shares: Sequence[int], apart: Sequence[int]
    ) -> Iterator[Way]:
        """Every way to run a step; of partitions those with `shares` SMs for attention, none where
        SMs cannot be split. Lanes are run alone on one stream and with `apart` SMs.
        """
        for part in (ALL, GEMMS):
            yield Way(WHOLE, part, partial(self._run_whole, inputs, part))
        parted = {ONE_STREAM, *map(_name, apart)}
        for name, lanes in self._lanes(shares).items():
            for part in (ALL, GEMMS, ATTENTION) if name in parted else (ALL,):
                yield Way(name, part, partial(self._run_cut, inputs, PartialLanes(lanes, part)))

    def planned(self) -> float:
        """Seconds that the host spent planning attention since this was asked last."""
        seconds = sum(attention.plan_seconds for attention in self.attentions)
        for attention in self.attentions:
            attention.plan_seconds = 0.0
        return seconds

    def _run_whole(self, inputs: StepInputs, part: str) -> Tensor:
        self.attentions[0].decodes = part == ALL
        tokens = self._whole.run(inputs)
        self.attentions[0].decodes = True
        return tokens

    def _run_cut(self, inputs: StepInputs, chosen: PartialLanes) -> Tensor:
        self._chosen.lanes, self._chosen.part = chosen.lanes, chosen.part
        return self._cut.run(inputs)

    def _lanes(self, shares: Sequence[int]) -> dict[str, Lanes]:
        lanes: dict[str, Lanes] = {ONE_STREAM: OneThread()}
        if self.device.type == "cuda":
            lanes[PLAIN] = CudaLanes(split_gpu(self.device, NO_PARTITION))
            for sms in shares if can_partition(self.device) else ():
                lanes[_name(sms)] = CudaLanes(split_gpu(self.device, sms))
        return lanes

    def _make_attention(self) -> SwitchedAttention:
        self.attentions.append(SwitchedAttention(self._kernels()))
        return self.attentions[-1]

    def _kernels(self) -> Attention:
        if self.device.type != "cuda":
            return ReferenceAttention()
        from blendrt.attention.flashinfer import FlashInferAttention

        return FlashInferAttention(self._config, BLOCK_TOKENS, self.device, self._dtype)

    def _pages(self, lengths: Ints) -> Rows:
        """Pages by chance: some are read twice, too far apart to be in a cache still."""
        ends = np.concatenate((np.zeros(1, np.int64), np.cumsum(-(-lengths // BLOCK_TOKENS))))
        return Rows(ends, self._rng.integers(0, self._pool.pages, ends[-1]))


def filled_pool(
    config: DecoderConfig, kv_bytes: int, device: torch.device, dtype: torch.dtype
) -> KvPool:
    """A pool of random KV: of so many bytes where a GPU has that much left beside what kernels
    need, of a few pages on a CPU.
    """
    pages = _CPU_PAGES
    if device.type == "cuda":
        most = min(kv_bytes, int(_MOST_OF_FREE * free_bytes(device)))
        pages = most // page_bytes(config, BLOCK_TOKENS, dtype)
    pool = KvPool(config, pages, BLOCK_TOKENS, device, dtype)
    pool.k.normal_()
    pool.v.normal_()
    return pool


def _name(sms: int) -> str:
    return f"halves, {sms} SMs"
