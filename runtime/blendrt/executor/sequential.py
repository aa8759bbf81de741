"""The sequential executor: one operator after another, layer by layer, on one stream; the dense
ones of small steps as graphs, where there are any.
"""

import torch
from torch import Tensor

from blendrt.attention import Attention
from blendrt.batch import StepInputs
from blendrt.executor.dense import Dense, DirectDense
from blendrt.executor.graphs import Graphs
from blendrt.kv_pool import KvPool
from blendrt.model import Decoder


class SequentialExecutor:
    """Every token of the step goes through a layer's operators together."""

    is_halved = False

    def __init__(
        self,
        decoder: Decoder,
        attention: Attention,
        pool: KvPool,
        graphs: Graphs | None = None,
    ) -> None:
        self._decoder = decoder
        self._attention = attention
        self._pool = pool
        self._graphs = graphs

    @torch.inference_mode()
    def run(self, inputs: StepInputs) -> Tensor:
        """The greedy token of every sample row; see `Executor`."""
        return self.logits(inputs).argmax(-1)

    def warm_up(self, inputs: StepInputs) -> None:
        """Run the step."""
        self.run(inputs)

    @torch.inference_mode()
    def logits(self, inputs: StepInputs) -> Tensor:
        """Logits (samples, vocab) of the sample rows."""
        decoder, attention, pool = self._decoder, self._attention, self._pool
        layout = inputs.layout
        attention.plan(layout)
        dense = self._dense(inputs)
        cut = layout.prefill_tokens
        ahead, latest = dense.attended[:cut], dense.attended[cut:]
        for layer in range(decoder.config.layers):
            # NOTE: all KV of the step is written before any is read: a chunk may read what another
            # chunk of this very step shares with it.
            q = dense.queries(layer)
            if cut:
                attention.prefill(layer, q[:cut], pool, ahead)
            if layout.decodes:
                attention.decode(layer, q[cut:] if cut else q, pool, latest)
        return decoder.head(dense.rows()[inputs.sample_rows])

    def _dense(self, inputs: StepInputs) -> Dense:
        graphed = self._graphs.begin(inputs) if self._graphs is not None else None
        if graphed is not None:
            return graphed
        return DirectDense(self._decoder, self._pool, inputs.ids, inputs.layout)
