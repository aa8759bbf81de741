"""The sequential executor: one operator after another, layer by layer, on one stream."""

import torch
from torch import Tensor

from blendrt.attention import Attention
from blendrt.batch import StepInputs
from blendrt.kv_pool import KvPool
from blendrt.model import Decoder


class SequentialExecutor:
    """Every token of the step goes through a layer's operators together."""

    def __init__(self, decoder: Decoder, attention: Attention, pool: KvPool) -> None:
        self._decoder = decoder
        self._attention = attention
        self._pool = pool

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
        decoder, attention, layout = self._decoder, self._attention, inputs.layout
        attention.plan(layout)
        x = decoder.embed(inputs.ids)
        turn = decoder.rotation(layout.positions)
        cut = layout.prefill_tokens
        for layer in range(decoder.config.layers):
            q, k, v = decoder.qkv(layer, x, turn)
            # NOTE: all KV of the step is written before any is read: a chunk may read what another
            # chunk of this very step shares with it.
            self._pool.write(layer, layout.slots, k, v)
            attended = torch.empty_like(q)
            if cut:
                attended[:cut] = attention.prefill(layer, q[:cut], self._pool)
            if layout.decodes:
                attended[cut:] = attention.decode(layer, q[cut:], self._pool)
            x = decoder.mlp(layer, decoder.output(layer, attended, x))
        return decoder.head(x[inputs.sample_rows])
