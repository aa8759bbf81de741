"""The small operators as Triton kernels, one launch each; see `Operators`.

A program is one token's row, or a piece of it. Everything is read once, reckoned in float32,
rounded once and written once. Row numbers are widened before they are multiplied: a layer's K alone
may hold more than 2³¹ values.

Launching costs the host some microseconds, more with every argument. So sizes that only pad a block
are constants of the compiled kernel, and nothing is tuned at run time.
"""

# mypy: disable-error-code="import-not-found, untyped-decorator, no-untyped-def"
# (Triton gives kernels their types when it compiles them, and is not everywhere installed.)

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from blendrt.fused.norms import HeadNorms
from blendrt.rope import Rotation

_WIDE_BLOCK = 2048  # values of a row that one program of silu_mul makes
_padded = cache(triton.next_power_of_2)  # Triton's own takes a microsecond
_VALUES_A_WARP = 512  # of rms_norm: 16 a thread, two loads of 16 bytes


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Each row over its root mean square, times `weight`."""
    rows, width = x.shape
    out = torch.empty_like(x)
    block = _padded(width)
    warps = min(max(block // _VALUES_A_WARP, 1), 16)
    _rms_norm[(rows,)](x, weight, out, eps, width, block, num_warps=warps)
    return out


@triton.jit
def _rms_norm(x, weight, out, eps, width, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * width
    at = tl.arange(0, BLOCK)
    inside = at < width
    values = tl.load(x + start + at, mask=inside, other=0.0).to(tl.float32)
    by = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, axis=0) / width + eps)
    tl.store(out + start + at, values * scale * by, mask=inside)


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) · up."""
    rows, both = gate_up.shape
    width = both // 2
    out = torch.empty((rows, width), dtype=gate_up.dtype, device=gate_up.device)
    grid = (rows, -(-width // _WIDE_BLOCK))
    _silu_mul[grid](gate_up, out, width, _WIDE_BLOCK)
    return out


@triton.jit
def _silu_mul(gate_up, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    start = gate_up + row * 2 * width
    gate = tl.load(start + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(start + width + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, gate * tl.sigmoid(gate) * up, mask=inside)


def rotate_and_store(
    projected: Tensor,
    turn: Rotation,
    rows: tuple[Tensor, Tensor],
    slots: Tensor,
    norms: HeadNorms | None,
    out: Tensor | None = None,
) -> Tensor:
    """Rotated queries; keys and values into their slots."""
    tokens = len(projected)
    _, kv_heads, dim = rows[0].shape
    heads = projected.shape[1] // dim - 2 * kv_heads
    q = out
    if q is None:
        q = torch.empty((tokens, heads, dim), dtype=projected.dtype, device=projected.device)
    q_norm, k_norm, eps = norms if norms is not None else (None, None, 0.0)
    # fmt: off
    _rotate_and_store[(tokens,)](
        projected, turn.cos, turn.sin, slots, q_norm, k_norm, eps, q, *rows,
        heads, kv_heads, dim // 2,
        _padded(heads), _padded(kv_heads), _padded(dim // 2),
    )
    # fmt: on
    return q


@triton.jit
def _rotate_and_store(
    projected,
    cos,
    sin,
    slots,
    q_norm,
    k_norm,
    eps,
    q,
    k_rows,
    v_rows,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
    KV_BLOCK: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token).to(tl.int64)
    q_width: tl.constexpr = HEADS * 2 * HALF
    kv_width: tl.constexpr = KV_HEADS * 2 * HALF
    queries = projected + token * (q_width + 2 * kv_width)
    keys = queries + q_width
    at = tl.arange(0, HALF_BLOCK)
    inside = at < HALF
    c = tl.load(cos + token * HALF + at, mask=inside, other=0.0).to(tl.float32)[None, :]
    s = tl.load(sin + token * HALF + at, mask=inside, other=0.0).to(tl.float32)[None, :]
    _turn(queries, q + token * q_width, c, s, q_norm, eps, HEADS, HALF, HEADS_BLOCK, HALF_BLOCK)
    _turn(keys, k_rows + slot * kv_width, c, s, k_norm, eps, KV_HEADS, HALF, KV_BLOCK, HALF_BLOCK)
    value = tl.arange(0, KV_BLOCK * 2 * HALF_BLOCK)
    is_value = value < kv_width
    v = tl.load(keys + kv_width + value, mask=is_value)
    tl.store(v_rows + slot * kv_width + value, v, mask=is_value)


@triton.jit
def _turn(
    heads,
    out,
    c,
    s,
    norm,
    eps,
    COUNT: tl.constexpr,
    HALF: tl.constexpr,
    COUNT_BLOCK: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
):
    """COUNT heads of one token, normed where there is a norm: i is paired with i + HALF."""
    at = tl.arange(0, HALF_BLOCK)[None, :]
    head = tl.arange(0, COUNT_BLOCK)[:, None]
    inside = (head < COUNT) & (at < HALF)
    place = head * (2 * HALF) + at
    first = tl.load(heads + place, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(heads + place + HALF, mask=inside, other=0.0).to(tl.float32)
    if norm is not None:
        squares = tl.sum(first * first + second * second, axis=1)[:, None]
        scale = tl.rsqrt(squares / (2 * HALF) + eps)
        first *= scale * tl.load(norm + at, mask=at < HALF, other=0.0).to(tl.float32)
        second *= scale * tl.load(norm + at + HALF, mask=at < HALF, other=0.0).to(tl.float32)
    tl.store(out + place, first * c - second * s, mask=inside)
    tl.store(out + place + HALF, second * c + first * s, mask=inside)
