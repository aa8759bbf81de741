"""The overlapped executor: a step's two nano-batches on two streams, the GEMMs of one beside the
decode attention of the other.

The order is `schedule`'s, the streams are `streams`', the cut is `split`'s; here the pieces are
computed. Results equal the sequential executor's, but for rounding: a GEMM of half the rows may add
in another order.

NOTE: memory. torch gives a freed tensor's memory out again on the stream it was made on, at once.
Queries, which another stream reads, are kept in `_Step` until the same piece of the next layer puts
others in their place. That piece, and so all that its stream runs later, comes after the reader.
A nano-batch's rows and the answers of its attention are two tensors for the whole step, written
over in every layer, each part by one kind of piece: again that piece comes after the reader.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from blendrt.attention import Attention
from blendrt.batch import StepInputs
from blendrt.executor.dense import DirectDense
from blendrt.executor.graphs import Graphs
from blendrt.executor.rule import OverlapRule
from blendrt.executor.schedule import Piece, Task, build_schedule
from blendrt.executor.sequential import SequentialExecutor
from blendrt.executor.split import Nano, Split, split_step
from blendrt.executor.streams import CudaLanes, Lanes, OneThread, split_gpu
from blendrt.kv_pool import KvPool
from blendrt.model import Decoder


class OverlapExecutor:
    """Runs a step in two nano-batches where `rule` says that this pays, else in one piece, small
    ones by graphs if there are any.

    `make_attention` is called three times: a nano-batch's plan lives while the other's runs. On a
    GPU every share of SMs that is used gets a pair of streams, made when first needed.
    """

    def __init__(
        self,
        decoder: Decoder,
        make_attention: Callable[[], Attention],
        pool: KvPool,
        rule: OverlapRule = OverlapRule(),
        make_lanes: Callable[[int], Lanes] | None = None,
        graphs: Graphs | None = None,
    ) -> None:
        self._decoder = decoder
        self._pool = pool
        self._rule = rule
        self._sequential = SequentialExecutor(decoder, make_attention(), pool, graphs)
        self._attentions = (make_attention(), make_attention())
        self._schedule = build_schedule(decoder.config.layers)
        # NOTE: no method of this object: it would hold itself, and with it a GPU's whole KV pool.
        self._make_lanes = make_lanes or partial(_lanes_of, decoder.device)
        self._lanes: dict[int, Lanes] = {}
        self.is_halved = False  # the last step; what warms up is none

    @torch.inference_mode()
    def run(self, inputs: StepInputs) -> Tensor:
        """The greedy token of every sample row; see `Executor`."""
        return self.logits(inputs).argmax(-1)

    @torch.inference_mode()
    def logits(self, inputs: StepInputs) -> Tensor:
        """Logits (samples, vocab) of the sample rows."""
        attention_sms = self._rule.attention_sms(inputs.counts)
        self.is_halved = attention_sms is not None
        if attention_sms is None:
            return self._sequential.logits(inputs)
        return self._logits_cut(inputs, attention_sms)

    def warm_up(self, inputs: StepInputs) -> None:
        """Run the step whole, and cut under every share the rule may choose."""
        self._sequential.warm_up(inputs)
        if inputs.counts.decode_requests > 1:
            for attention_sms in self._rule.choices:
                self._logits_cut(inputs, attention_sms)

    @torch.inference_mode()
    def _logits_cut(self, inputs: StepInputs, attention_sms: int) -> Tensor:
        if attention_sms not in self._lanes:
            self._lanes[attention_sms] = self._make_lanes(attention_sms)
        split = split_step(inputs.layout, self._pool.block_tokens)
        step = _Step(self._decoder, self._attentions, self._pool, split, inputs.ids)
        self._lanes[attention_sms].execute(self._schedule, step.run)
        # The head runs once, on the whole GPU.
        return self._decoder.head(step.joined()[split.places[inputs.sample_rows]])


class _Step:
    """The tensors of one step under way, and the pieces that make them."""

    def __init__(
        self,
        decoder: Decoder,
        attentions: tuple[Attention, Attention],
        pool: KvPool,
        split: Split,
        ids: Tensor,
    ) -> None:
        self._halves = [
            _Half(decoder, attention, pool, nano, ids)
            for attention, nano in zip(attentions, split.nanos, strict=True)
        ]

    def run(self, task: Task) -> None:
        """Put one piece on the current stream."""
        half = self._halves[task.nano]
        if task.piece is Piece.START:
            half.start(task.layer)
        elif task.piece is Piece.DECODE:
            half.decode(task.layer)
        else:
            half.dense.complete(task.layer)

    def joined(self) -> Tensor:
        """The last layer's rows, A's and then B's."""
        return torch.cat([half.dense.x for half in self._halves])


class _Half:
    """One nano-batch under way: its dense part, and the queries of the layer it is in."""

    def __init__(
        self, decoder: Decoder, attention: Attention, pool: KvPool, nano: Nano, ids: Tensor
    ) -> None:
        attention.plan(nano.layout)
        self._attention = attention
        self._pool = pool
        self._layout = nano.layout
        self.dense = DirectDense(decoder, pool, ids[nano.tokens], nano.layout)
        self._q: Tensor

    def start(self, layer: int) -> None:
        self._q = self.dense.project(layer)
        cut = self._layout.prefill_tokens
        if cut:
            self._attention.prefill(layer, self._q[:cut], self._pool, self.dense.attended[:cut])

    def decode(self, layer: int) -> None:
        cut = self._layout.prefill_tokens
        if self._layout.decodes:
            self._attention.decode(layer, self._q[cut:], self._pool, self.dense.attended[cut:])


def _lanes_of(device: torch.device, attention_sms: int) -> Lanes:
    if device.type != "cuda":
        return OneThread()
    return CudaLanes(split_gpu(device, attention_sms))
