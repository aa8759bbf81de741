"""Whole steps that mix decodes with prompts, as an engine runs them: by CUDA graphs, and launched
kernel by kernel.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from experiments.cutting import filled_pool

from blendrt.attention.layout import Rows, lay_out
from blendrt.batch import StepInputs
from blendrt.config import DecoderConfig
from blendrt.executor.check import random_step
from blendrt.executor.graphs import CalledAgain, Graphs
from blendrt.executor.sequential import SequentialExecutor
from blendrt.loading import ModelChoice, load_decoder, make_attention, make_graphs
from blendrt.profiler.kernels import lognormal
from blendsim.arrays import Ints
from blendsim.errors import InputError
from blendsim.system import BLOCK_TOKENS

GRAPHS, DIRECT = "by graphs", "kernel by kernel"
_CPU_ROWS = (8, 16)  # of what stands for graphs on a CPU


class Mix(NamedTuple):
    """A step: decodes about a mean context, and like chunks of prompts."""

    decodes: int
    context: int  # tokens of a decode, in the mean
    chunks: int = 0
    chunk: int = 0  # tokens of each
    computed: int = 0  # tokens before each
    is_unlike: bool = False  # contexts as unlike as where the profiler measures skewed ones

    @property
    def tokens(self) -> int:
        """All that are computed."""
        return self.decodes + self.chunks * self.chunk

    @property
    def name(self) -> str:
        """As tables show it."""
        unlike = ", unlike" if self.is_unlike else ""
        prompts = f", {self.chunks * self.chunk:,} prompt tokens" if self.chunks else ""
        return f"{self.decodes:,} decodes at {self.context:,}{unlike}{prompts}"


_PACED = (Mix(275, 590, 1, 114), Mix(213, 620, 1, 171))
#: The mixed ones are like most steps of paced plans on an H200 (docs/validation.md), the second one
#: of them was also cut in two there; the last is like prefix order's full steps.
MIXES = (
    *_PACED,
    Mix(213, 620),
    Mix(350, 590),
    Mix(185, 313, chunks=9, chunk=207, computed=124),
    *(mix._replace(is_unlike=True) for mix in _PACED),
)
#: Those that are run kernel by kernel as well.
BOTH_WAYS = _PACED
QUICK_MIXES = (Mix(6, 20, 1, 5), Mix(6, 20, is_unlike=True), Mix(6, 20, 2, 7, 4))


class MixedStep(NamedTuple):
    """A step that can be run."""

    mix: Mix
    way: str  # GRAPHS or DIRECT
    rows: int  # that GEMMs are given
    inputs: StepInputs
    run: Callable[[], object]


class MixWorld:
    """A decoder with random weights and KV, and its executors with and without graphs.

    Graphs are captured before anything is traced.
    """

    def __init__(self, config: DecoderConfig, device: torch.device, kv_bytes: int) -> None:
        self.device = device
        self.layers = config.layers
        self._rng = np.random.default_rng(0)
        self._decoder = load_decoder(ModelChoice(config, None), 0, device)
        self._pool = filled_pool(config, kv_bytes, device, self._decoder.dtype)
        self._graphs = self._captured()
        attentions = [make_attention(self._decoder, self._pool) for _ in range(2)]
        #: Whose kernels run prefill attention.
        self.backend = str(getattr(attentions[0], "backend", "torch"))
        self._executors = {
            way: SequentialExecutor(self._decoder, attention, self._pool, graphs)
            for way, attention, graphs in zip(
                (GRAPHS, DIRECT), attentions, (self._graphs, None), strict=True
            )
        }

    @property
    def graph_rows(self) -> list[int]:
        """Rows of the graphs there are, ascending."""
        return self._graphs.sizes

    def engines_way(self, mix: Mix) -> str:
        """How an engine runs such a step."""
        return GRAPHS if mix.tokens <= self.graph_rows[-1] else DIRECT

    def step(self, mix: Mix, way: str) -> MixedStep:
        """A step of that mix, to be run in a way; InputError where the pool does not hold it."""
        chunks = np.full(mix.chunks, mix.chunk, np.int64)
        computed = np.full(mix.chunks, mix.computed, np.int64)
        contexts = np.full(mix.decodes, mix.context, np.int64)
        if mix.is_unlike:
            contexts = lognormal(self._rng, mix.decodes, mix.context)
        pages = self._pages(mix, np.concatenate((computed + chunks, contexts)))
        rows = (Rows.of(pages[: mix.chunks]), Rows.of(pages[mix.chunks :]))
        layout = lay_out(chunks, computed, rows[0], contexts, rows[1], BLOCK_TOKENS, self.device)
        inputs = random_step(layout, self._decoder.config, BLOCK_TOKENS, self._rng)
        given = mix.tokens
        if way == GRAPHS:
            given = min(size for size in self.graph_rows if size >= mix.tokens)
        executor = self._executors[way]
        return MixedStep(mix, way, given, inputs, lambda: executor.run(inputs))

    def _captured(self) -> Graphs:
        if self.device.type == "cuda":
            return make_graphs(self._decoder, self._pool)
        return Graphs(self._decoder, self._pool, CalledAgain(), _CPU_ROWS)

    def _pages(self, mix: Mix, lengths: Ints) -> list[Ints]:
        """Pages of each request anywhere in the pool, no page in two places."""
        counts = -(-lengths // BLOCK_TOKENS)
        needed, there = int(counts.sum()), self._pool.pages
        if needed > there:
            raise InputError(
                f"{mix.name}: needs {needed:,} KV pages and the pool has {there:,}; give it more "
                f"memory with --kv-gb, on a larger GPU"
            )
        drawn = self._rng.permutation(there)[:needed]
        return np.split(drawn, np.cumsum(counts)[:-1])
