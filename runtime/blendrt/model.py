"""A dense decoder cut into the pieces an executor calls one by one; attention is not among them.

    x = embed(ids)
    a layer:  q = qkv(layer, x, rotation, pool, slots)    attended = attention over the KV pages
              output(layer, attended, x)                  mlp(layer, x)
    logits = head(x[rows])

Rows are tokens of any requests, in any order: nothing here looks from one row to another. `output`
and `mlp` add to x where it lies: the GEMM reads the residual and writes the sum, and no kernel is
spent on the addition. Between the GEMMs a layer has four kernels of our own (`blendrt.fused`).
"""

import torch
from torch import Tensor
from torch.nn import functional

from blendrt.config import DecoderConfig
from blendrt.fused import Operators, choose
from blendrt.fused.norms import HeadNorms
from blendrt.kv_pool import KvPool
from blendrt.rope import Rotation, inverse_wavelengths, rotation
from blendrt.weights import Weights


class Decoder:
    """A decoder with its weights. Its methods keep nothing between calls.

    The small operators are those that suit the device, unless others are given.
    """

    def __init__(
        self, config: DecoderConfig, weights: Weights, operators: Operators | None = None
    ) -> None:
        self.config = config
        self.weights = weights
        self.device = weights.embed.device
        self.dtype = weights.embed.dtype
        self._wavelengths = inverse_wavelengths(config, self.device)
        self._operators = operators or choose(self.device).operators
        self._head_norms = [
            None
            if w.q_norm is None or w.k_norm is None
            else HeadNorms(w.q_norm, w.k_norm, config.norm_eps)
            for w in weights.layers
        ]

    def embed(self, ids: Tensor) -> Tensor:
        """Rows (tokens, hidden) of token ids."""
        return functional.embedding(ids, self.weights.embed)

    def rotation(self, positions: Tensor) -> Rotation:
        """What turns queries and keys at these positions; once a step, for all layers."""
        return rotation(positions, self._wavelengths, self.dtype)

    def qkv(
        self,
        layer: int,
        x: Tensor,
        turn: Rotation,
        pool: KvPool,
        slots: Tensor,
        out: Tensor | None = None,
    ) -> Tensor:
        """Queries of rows x, (tokens, heads, head_dim), ready for attention, in `out` if it is
        given; their K and V are in the pool's slots then.
        """
        projected = self.project(layer, self.attention_norm(layer, x))
        return self.store(layer, projected, turn, pool, slots, out)

    def attention_norm(self, layer: int, x: Tensor) -> Tensor:
        """Rows x, normed for attention."""
        return self._norm(x, self.weights.layers[layer].attention_norm)

    def project(self, layer: int, normed: Tensor) -> Tensor:
        """The qkv GEMM: (tokens, (heads + 2 · kv_heads) · head_dim)."""
        weights = self.weights.layers[layer]
        return functional.linear(normed, weights.qkv, weights.qkv_bias)

    def store(
        self,
        layer: int,
        projected: Tensor,
        turn: Rotation,
        pool: KvPool,
        slots: Tensor,
        out: Tensor | None = None,
    ) -> Tensor:
        """The projection cut into heads, queries and keys normed (Qwen3) and rotated, keys and
        values in their slots, (tokens,) int64: the queries.
        """
        norms, rows = self._head_norms[layer], pool.rows(layer)
        return self._operators.rotate_and_store(projected, turn, rows, slots, norms, out)

    def room_for_attention(self, tokens: int) -> Tensor:
        """Where attention puts its answers, (tokens, heads, head_dim), layer after layer."""
        shape = (tokens, self.config.heads, self.config.head_dim)
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def output(self, layer: int, attended: Tensor, x: Tensor) -> Tensor:
        """x, with the o GEMM of what attention returned, (tokens, heads, head_dim), added in
        place.
        """
        weights = self.weights.layers[layer]
        if weights.o_bias is not None:
            x.add_(weights.o_bias)
        return x.addmm_(attended.reshape(len(attended), self.config.q_width), weights.o.t())

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        """x, with MLP(norm(x)) added in place; its four pieces below, in order."""
        hidden = self.activation(self.gate_up(layer, self.mlp_norm(layer, x)))
        return self.down(layer, hidden, x)

    def mlp_norm(self, layer: int, x: Tensor) -> Tensor:
        """Rows x, normed for the MLP."""
        return self._norm(x, self.weights.layers[layer].mlp_norm)

    def gate_up(self, layer: int, normed: Tensor) -> Tensor:
        """The gate and up GEMM: (tokens, 2 · intermediate)."""
        return functional.linear(normed, self.weights.layers[layer].gate_up)

    def activation(self, gate_up: Tensor) -> Tensor:
        """silu(gate) · up."""
        return self._operators.silu_mul(gate_up)

    def down(self, layer: int, hidden: Tensor, x: Tensor) -> Tensor:
        """x, with the down GEMM added in place."""
        return x.addmm_(hidden, self.weights.layers[layer].down.t())

    def head(self, x: Tensor) -> Tensor:
        """Logits (rows, vocab) of the rows given: the last norm and the LM head."""
        return functional.linear(self._norm(x, self.weights.norm), self.weights.head)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._operators.rms_norm(x, weight, self.config.norm_eps)
