"""CUDA graphs of the dense part of small steps: a launch a layer, where there were eight.

Launching a step's kernels one by one takes the host 8 to 10 ms for 32 layers, more than a GPU
needs for a few decodes. A graph holds what lies between two attentions (`dense`) for a fixed number
of rows; a step of fewer rows is padded. Padded rows compute what nobody reads, and put their keys
and values into the pool's spare page.

    rows of a graph  [ the step's tokens | padding: old ids and positions, the spare slot ]

A size at which the GPU is no faster than at a larger one is left out: cuBLAS chooses badly at some
(on an H200 a layer's GEMMs take longer for 448 rows than for 512).
"""

import gc
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

import torch
from torch import Tensor

from blendrt.batch import StepInputs
from blendrt.config import DecoderConfig
from blendrt.kv_pool import KvPool
from blendrt.model import Decoder
from blendrt.rope import Rotation

#: Rows of the graphs. Above, a GPU takes longer for a step than launching does; GEMM tiles have 64.
#: Some from 256 to 512 have half a tile more: a step of 389 tokens on an H200 took 17.9 ms by the
#: graph of 512 rows and 16.5 kernel by kernel, by another GEMM (docs/validation.md).
SIZES = (8, 16, 32, *range(64, 256, 64), *range(256, 512, 32), *range(512, 1_025, 64))
_ROUNDS = 6  # of timing all sizes; the first warms up
_GAIN = 0.99  # a smaller size has to be so much faster than a larger one
#: Memory that the driver keeps for a graph of a few kernels. For Llama-3.1-8B all of SIZES took an
#: H200 375 MB with their rows, which leaves 380 kB a graph.
_GRAPH_BYTES = 512 << 10
_WORKSPACE_BYTES = 64 << 20  # cuBLAS's own, of one more stream

Work = Callable[[], None]


class Capture(Protocol):
    """Makes work on the device repeatable: the same kernels on the same memory, in one launch."""

    def record(self, work: Work) -> Work:
        """What repeats the work, which is done here as often as recording takes."""
        ...

    def seconds(self, works: Sequence[Work]) -> float:
        """Time of the works one after another on the device."""
        ...


class Graphs:
    """Captured dense parts of a decoder over a pool, one of every size that pays.

    Steps share the rows' memory: one is begun when all of the one before is on the stream.
    """

    @torch.inference_mode()
    def __init__(
        self,
        decoder: Decoder,
        pool: KvPool,
        capture: Capture,
        sizes: Sequence[int] = SIZES,
    ) -> None:
        self._buffers = _Buffers(decoder, pool, max(sizes))
        # NOTE: a graph knows addresses only. What nobody holds would be given to others.
        self._held = (decoder, pool)
        # Largest first: what it takes as scratch is there for the others.
        recorded = {
            size: [capture.record(work) for work in _works(decoder, pool, self._buffers, size)]
            for size in sorted(sizes, reverse=True)
        }
        #: Seconds of every size that was tried, by its rows.
        self.seconds = _fastest(capture, recorded)
        #: Rows of the graphs there are, ascending.
        self.sizes = _worthwhile(self.seconds)
        self._recorded = {size: recorded[size] for size in self.sizes}

    def begin(self, inputs: StepInputs) -> "GraphedDense | None":
        """The step's dense part; None if it has more tokens than any graph."""
        tokens = inputs.layout.tokens
        place = bisect_left(self.sizes, tokens)
        if place == len(self.sizes):
            return None
        size = self.sizes[place]
        self._buffers.take(inputs, size)
        return GraphedDense(self._buffers, self._recorded[size], tokens)


class GraphedDense:
    """A step's dense part, replayed; see `Dense`."""

    def __init__(self, buffers: "_Buffers", recorded: Sequence[Work], tokens: int) -> None:
        self._recorded = recorded
        self._queries = buffers.queries[:tokens]
        self._x = buffers.x[:tokens]
        self.attended = buffers.attended[:tokens]

    def queries(self, layer: int) -> Tensor:
        """The layer's queries."""
        self._recorded[layer]()
        return self._queries

    def rows(self) -> Tensor:
        """The last layer's rows."""
        self._recorded[-1]()
        return self._x


class _Buffers:
    """Memory that graphs read and write, for as many rows as the largest has. All of it is held
    here, also what no step reads or writes itself.
    """

    def __init__(self, decoder: Decoder, pool: KvPool, most: int) -> None:
        config, device = decoder.config, decoder.device
        self._spare = pool.spare_slot
        self.ids = torch.zeros(most, dtype=torch.int64, device=device)
        self.positions = torch.zeros_like(self.ids)
        self.slots = torch.full_like(self.ids, self._spare)
        turn = decoder.rotation(self.positions)
        self._cos, self._sin = turn.cos, turn.sin
        self.x = torch.zeros((most, config.hidden), dtype=decoder.dtype, device=device)
        # Zeros: padded rows are computed, too, and are to stay numbers.
        self.queries = decoder.room_for_attention(most).zero_()
        self.attended = decoder.room_for_attention(most).zero_()

    def turn(self, size: int) -> Rotation:
        """The rotation of the first rows."""
        return Rotation(self._cos[:size], self._sin[:size])

    def take(self, inputs: StepInputs, size: int) -> None:
        """A step's tokens into the first rows of `size`."""
        layout = inputs.layout
        tokens = layout.tokens
        self.ids[:tokens].copy_(inputs.ids)
        self.positions[:tokens].copy_(layout.positions)
        self.slots[:tokens].copy_(layout.slots)
        self.slots[tokens:size].fill_(self._spare)


def _works(decoder: Decoder, pool: KvPool, buffers: _Buffers, size: int) -> list[Work]:
    """What a graph each holds: before the first attention, between two, after the last."""
    ids, positions, slots = buffers.ids[:size], buffers.positions[:size], buffers.slots[:size]
    x, queries, attended = buffers.x[:size], buffers.queries[:size], buffers.attended[:size]
    layers = decoder.config.layers
    turn = buffers.turn(size)

    def first() -> None:
        x.copy_(decoder.embed(ids))
        fresh: Rotation = decoder.rotation(positions)
        turn.cos.copy_(fresh.cos)
        turn.sin.copy_(fresh.sin)
        decoder.qkv(0, x, turn, pool, slots, queries)

    def between(layer: int) -> None:
        decoder.output(layer - 1, attended, x)
        decoder.mlp(layer - 1, x)
        if layer < layers:
            decoder.qkv(layer, x, turn, pool, slots, queries)

    def of(layer: int) -> Work:
        return lambda: between(layer)

    return [first, *(of(layer) for layer in range(1, layers + 1))]


def _fastest(capture: Capture, recorded: dict[int, list[Work]]) -> dict[int, float]:
    """The least seconds of each size. They are timed in turn, so that a clock that rises while the
    first ones run is in no comparison.
    """
    rounds = [
        {size: capture.seconds(works) for size, works in recorded.items()} for _ in range(_ROUNDS)
    ]
    return {size: min(times[size] for times in rounds[1:]) for size in recorded}


def _worthwhile(seconds: dict[int, float]) -> list[int]:
    """Sizes at which the GPU is faster than at all larger ones, ascending."""
    kept: list[int] = []
    for size in sorted(seconds, reverse=True):
        if not kept or seconds[size] < _GAIN * seconds[kept[-1]]:
            kept.append(size)
    return kept[::-1]


class CalledAgain:
    """Work that is simply called again: what there is without CUDA, for checks."""

    def record(self, work: Work) -> Work:
        """The work itself."""
        return work

    def seconds(self, works: Sequence[Work]) -> float:
        """By the host's clock."""
        start = time.perf_counter()
        for work in works:
            work()
        return time.perf_counter() - start


class CudaCapture:
    """CUDA's graphs, all from one pool of scratch memory."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Work) -> Work:
        """A graph of the work."""
        graph = torch.cuda.CUDAGraph()
        with self._aside(), _without_collection():
            # NOTE: Triton compiles and cuBLAS takes its workspace, one a stream, when first called;
            # neither may be part of a graph.
            work()
            # torch.cuda.graph() would empty torch's cache every time: seconds for hundreds.
            graph.capture_begin(self._pool)
            try:
                work()
            except BaseException:
                with suppress(RuntimeError):  # without it the stream would go on recording
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph.replay

    def seconds(self, works: Sequence[Work]) -> float:
        """By events on the current stream."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for work in works:
            work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """On a stream of its own, as capturing asks."""
        caller = torch.cuda.current_stream()
        self._stream.wait_stream(caller)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            caller.wait_stream(self._stream)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Python's collector may free what CUDA would then have to give back, in mid-capture."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def scratch_bytes(config: DecoderConfig, itemsize: int, sizes: Sequence[int] = SIZES) -> int:
    """Memory of the GPU that graphs take for themselves, no less than they need. What a layer
    passes on is there twice: for the graphs, and from being done once before it is recorded.
    """
    kept = config.hidden + 2 * config.q_width
    passing = config.hidden + config.q_width + 2 * config.kv_width + 3 * config.intermediate
    rows = max(sizes) * (kept + 2 * passing) * itemsize
    return rows + len(sizes) * (config.layers + 1) * _GRAPH_BYTES + _WORKSPACE_BYTES
