"""Operators held to torch's own in float64, on odd and usual sizes: `python fused_cases.py` runs
the Triton kernels so, which under TRITON_INTERPRET=1 needs no GPU.
"""

from itertools import product

import torch
from torch import Tensor

from blendrt.fused import Operators
from blendrt.fused.norms import HeadNorms
from blendrt.rope import Rotation

#: Of the largest value. Results are rounded once; torch's own path rounds after every operator.
ONCE = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
#: Heads, KV heads, head size: Llama's, a group of seven, and sizes that fill no block.
HEADS = [(32, 8, 128), (28, 4, 64), (6, 2, 8), (5, 1, 24)]
WIDTHS = [4096, 1024, 257, 64]
TOKENS = [1, 7]


def check(operators: Operators, device: torch.device, dtype: torch.dtype, share: float) -> None:
    """AssertionError where an error is above `share` of what one rounding makes."""
    bound = share * ONCE[dtype]
    torch.manual_seed(0)
    for tokens, width in product(TOKENS, WIDTHS):
        _check_rows(operators, device, dtype, bound, tokens, width)
    for tokens, shape, normed in product(TOKENS, HEADS, (False, True)):
        _check_heads(operators, device, dtype, bound, tokens, shape, normed)


def _check_rows(
    operators: Operators,
    device: torch.device,
    dtype: torch.dtype,
    bound: float,
    tokens: int,
    width: int,
) -> None:
    x = torch.randn(tokens, width, device=device).to(dtype)
    weight = (1 + 0.1 * torch.randn(width, device=device)).to(dtype)
    scale = (x.double().square().mean(1, keepdim=True) + 1e-5).rsqrt()
    _assert_near(operators.rms_norm(x, weight, 1e-5), x.double() * scale * weight.double(), bound)
    both = (3 * torch.randn(tokens, 2 * width, device=device)).to(dtype)
    gate, up = both.double().chunk(2, dim=1)
    _assert_near(operators.silu_mul(both), gate / (1 + (-gate).exp()) * up, bound)


def _check_heads(
    operators: Operators,
    device: torch.device,
    dtype: torch.dtype,
    bound: float,
    tokens: int,
    shape: tuple[int, int, int],
    normed: bool,
) -> None:
    heads, kv_heads, dim = shape
    projected = torch.randn(tokens, (heads + 2 * kv_heads) * dim, device=device).to(dtype)
    angles = 6 * torch.rand(tokens, 1, dim // 2, device=device)
    turn = Rotation(angles.cos().to(dtype), angles.sin().to(dtype))
    weights = (1 + 0.1 * torch.randn(2, dim, device=device)).to(dtype)
    norms = HeadNorms(weights[0], weights[1], 1e-6) if normed else None
    before = torch.randn(2, 20, kv_heads, dim, device=device).to(dtype)
    rows = before.clone()
    slots = torch.randperm(20, device=device)[:tokens]
    q = operators.rotate_and_store(projected, turn, (rows[0], rows[1]), slots, norms)
    given = torch.empty((tokens, heads, dim), dtype=dtype, device=device)
    again = operators.rotate_and_store(projected, turn, (rows[0], rows[1]), slots, norms, given)
    assert again is given
    assert torch.equal(q, given)

    cut = projected.view(tokens, heads + 2 * kv_heads, dim).double()
    expected = before.double()
    by = weights.double() if normed else None
    wanted = _turned(cut[:, :heads], turn, None if by is None else by[0])
    keys = cut[:, heads : heads + kv_heads]
    expected[0, slots] = _turned(keys, turn, None if by is None else by[1])
    expected[1, slots] = cut[:, heads + kv_heads :]
    _assert_near(q, wanted, bound)
    _assert_near(rows[0], expected[0], bound)
    assert torch.equal(rows[1].double(), expected[1])


def _turned(heads: Tensor, turn: Rotation, weight: Tensor | None) -> Tensor:
    """Pairs of dimensions as complex numbers, turned."""
    if weight is not None:
        heads = heads * (heads.square().mean(2, keepdim=True) + 1e-6).rsqrt() * weight
    pairs = torch.complex(*heads.chunk(2, dim=2))
    turned = pairs * torch.complex(turn.cos.double(), turn.sin.double())
    return torch.cat((turned.real, turned.imag), dim=2)


def _assert_near(got: Tensor, wanted: Tensor, bound: float) -> None:
    assert got.shape == wanted.shape
    error = (got.double() - wanted).abs().max() / wanted.abs().max()
    assert error < bound, f"{float(error):.2g} of the largest value, {bound:.2g} allowed"


if __name__ == "__main__":
    from blendrt.fused import kernels

    for dtype in ONCE:
        # The interpreter cuts bfloat16 off, where a GPU rounds.
        check(kernels, torch.device("cpu"), dtype, 2.0)
    print("kernels agree")
