"""A persistent GEMM: so many programs as there are SMs for it, each with tile after tile.

x (tokens, inputs) times a weight (outputs, inputs) transposed, bfloat16, sums in float32.
"""

from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


@triton.jit
def _gemm(
    x,
    w,
    y,
    rows,
    columns,
    depth,
    m: tl.constexpr,
    n: tl.constexpr,
    k: tl.constexpr,
    group: tl.constexpr,
):
    tiles_m = tl.cdiv(rows, m)
    tiles_n = tl.cdiv(columns, n)
    steps = tl.cdiv(depth, k)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True):
        # Tiles of a few rows of tiles together, column by column: they share weights in the L2.
        band = tile // (group * tiles_n)
        first = band * group
        height = min(tiles_m - first, group)
        within = tile % (group * tiles_n)
        i = (first + within % height) * m
        j = (within // height) * n
        total = tl.zeros((m, n), tl.float32)
        for s in range(steps):
            a = x.load([i, s * k])
            b = w.load([j, s * k])
            total = tl.dot(a, b.T, total)
        y.store([i, j], total.to(tl.bfloat16))


class PersistentGemm:
    """x times one weight after another."""

    def __init__(self, x: Tensor, weights: list[Tensor], m: int, n: int, k: int = 64) -> None:
        rows, depth = x.shape
        columns = weights[0].shape[0]
        self._sizes = (rows, columns, depth)
        self._tile = (m, n, k)
        self.y = torch.empty((rows, columns), dtype=x.dtype, device=x.device)
        self._x = TensorDescriptor.from_tensor(x, [m, k])
        self._y = TensorDescriptor.from_tensor(self.y, [m, n])
        self._w = [TensorDescriptor.from_tensor(weight, [n, k]) for weight in weights]

    def of(self, programs: int) -> Any:
        """A call of so many programs."""
        return partial(self.run, programs)

    def run(self, programs: int, call: int) -> Any:
        """One product, by so many programs."""
        m, n, k = self._tile
        w = self._w[call % len(self._w)]
        _gemm[(programs,)](
            self._x,
            w,
            self._y,
            *self._sizes,
            m,
            n,
            k,
            8,
            num_warps=8,
            num_stages=3 if n > 128 else 4,
        )
