"""The small operators in torch, on any device; see `Operators`."""

import torch
from torch import Tensor
from torch.nn import functional

from blendrt.fused.norms import HeadNorms
from blendrt.rope import Rotation, rotate


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Each row over its root mean square, times `weight`."""
    return functional.rms_norm(x, weight.shape, weight, eps)


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) · up."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate).mul_(up)


def rotate_and_store(
    projected: Tensor,
    turn: Rotation,
    rows: tuple[Tensor, Tensor],
    slots: Tensor,
    norms: HeadNorms | None,
    out: Tensor | None = None,
) -> Tensor:
    """Rotated queries; keys and values into their slots."""
    _, kv_heads, dim = rows[0].shape
    heads = projected.shape[1] // dim - 2 * kv_heads
    cut = projected.view(len(projected), heads + 2 * kv_heads, dim)
    # Queries and keys lie side by side and are rotated as one tensor.
    qk, v = cut[:, : heads + kv_heads], cut[:, heads + kv_heads :]
    if norms is not None:
        q = rms_norm(qk[:, :heads], norms.q, norms.eps)
        k = rms_norm(qk[:, heads:], norms.k, norms.eps)
        qk = torch.cat((q, k), dim=1)
    qk = rotate(qk, turn)
    rows[0].index_copy_(0, slots, qk[:, heads:])
    rows[1].index_copy_(0, slots, v)
    queries: Tensor = qk[:, :heads]
    return queries if out is None else out.copy_(queries)
