"""A dense decoder cut into the pieces an executor calls one by one; attention is not among them.

    x = embed(ids)
    a layer:  q, k, v = qkv(layer, x, rotation)      attended = attention over the KV pages
              x = output(layer, attended, x)          x = mlp(layer, x)
    logits = head(x[rows])

Rows are tokens of any requests, in any order: nothing here looks from one row to another.
"""

import torch
from torch import Tensor
from torch.nn import functional

from blendrt.config import DecoderConfig
from blendrt.rope import Rotation, inverse_wavelengths, rotate, rotation
from blendrt.weights import Weights


class Decoder:
    """A decoder with its weights. Its methods keep nothing between calls."""

    def __init__(self, config: DecoderConfig, weights: Weights) -> None:
        self.config = config
        self.weights = weights
        self.device = weights.embed.device
        self.dtype = weights.embed.dtype
        self._wavelengths = inverse_wavelengths(config, self.device)

    def embed(self, ids: Tensor) -> Tensor:
        """Rows (tokens, hidden) of token ids."""
        return functional.embedding(ids, self.weights.embed)

    def rotation(self, positions: Tensor) -> Rotation:
        """What turns queries and keys at these positions; once a step, for all layers."""
        return rotation(positions, self._wavelengths, self.dtype)

    def qkv(self, layer: int, x: Tensor, turn: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of rows x, ready for attention: (tokens, heads, head_dim) and
        twice (tokens, kv_heads, head_dim).
        """
        return self.turned(layer, self.project(layer, self.attention_norm(layer, x)), turn)

    def attention_norm(self, layer: int, x: Tensor) -> Tensor:
        """Rows x, normed for attention."""
        return self._norm(x, self.weights.layers[layer].attention_norm)

    def project(self, layer: int, normed: Tensor) -> Tensor:
        """The qkv GEMM: (tokens, (heads + 2 · kv_heads) · head_dim)."""
        weights = self.weights.layers[layer]
        return functional.linear(normed, weights.qkv, weights.qkv_bias)

    def turned(
        self, layer: int, projected: Tensor, turn: Rotation
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The projection cut into heads, queries and keys normed (Qwen3) and rotated."""
        config, weights = self.config, self.weights.layers[layer]
        heads, kv_heads = config.heads, config.kv_heads
        rows = projected.view(len(projected), heads + 2 * kv_heads, config.head_dim)
        # Queries and keys lie side by side and are rotated as one tensor.
        qk, v = rows[:, : heads + kv_heads], rows[:, heads + kv_heads :]
        if weights.q_norm is not None and weights.k_norm is not None:
            q = self._norm(qk[:, :heads], weights.q_norm)
            k = self._norm(qk[:, heads:], weights.k_norm)
            qk = torch.cat((q, k), dim=1)
        qk = rotate(qk, turn)
        return qk[:, :heads], qk[:, heads:], v

    def output(self, layer: int, attended: Tensor, residual: Tensor) -> Tensor:
        """residual + the o GEMM of what attention returned, (tokens, heads, head_dim)."""
        weights = self.weights.layers[layer]
        flat = attended.reshape(len(attended), self.config.q_width)
        return functional.linear(flat, weights.o, weights.o_bias).add_(residual)

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        """x + MLP(norm(x)); its four pieces below, in order."""
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
        gate, up = gate_up.chunk(2, dim=-1)
        return functional.silu(gate).mul_(up)

    def down(self, layer: int, hidden: Tensor, residual: Tensor) -> Tensor:
        """residual + the down GEMM."""
        return functional.linear(hidden, self.weights.layers[layer].down).add_(residual)

    def head(self, x: Tensor) -> Tensor:
        """Logits (rows, vocab) of the rows given: the last norm and the LM head."""
        return functional.linear(self._norm(x, self.weights.norm), self.weights.head)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, weight.shape, weight, self.config.norm_eps)
