"""The small operators between GEMMs and attention: norm, rotation with the KV write, activation.

One kernel each on a GPU (`kernels`, in Triton), torch's own operators elsewhere (`plain`); results
are equal but for rounding. Triton comes with every torch for CUDA and with none for CPUs, so it is
imported only when a decoder lies on a GPU.
"""

import importlib
from functools import cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from blendrt.fused import plain
from blendrt.fused.norms import HeadNorms
from blendrt.rope import Rotation


class Operators(Protocol):
    """What `plain` and `kernels` are: modules of these functions. All tensors are contiguous, of
    one floating type; arithmetic is in float32 where it is one kernel.
    """

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Rows (tokens, hidden), each over its root mean square, times `weight`."""
        ...

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """silu(gate) · up of rows (tokens, 2 · intermediate) that hold one beside the other."""
        ...

    def rotate_and_store(
        self,
        projected: Tensor,
        turn: Rotation,
        rows: tuple[Tensor, Tensor],
        slots: Tensor,
        norms: HeadNorms | None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Rotated queries (tokens, heads, head_dim) of a projection to queries, keys and values;
        in `out` if it is given.

        Rotated keys and the values go into `rows`, K and V of a layer, (slots, kv_heads, head_dim)
        each, at `slots`, (tokens,) int64. Queries and keys are normed first where there are norms.
        """
        ...


class Choice(NamedTuple):
    """The operators for a device, and why they are not kernels of ours; None where they are."""

    operators: Operators
    failure: str | None


@cache
def choose(device: torch.device) -> Choice:
    """Our kernels where they run on the device. That is tried once: Triton compiles a part of them
    with the machine's C compiler, and a GPU may be too old.
    """
    if device.type != "cuda":
        return Choice(plain, "no GPU")
    try:
        kernels = importlib.import_module("blendrt.fused.kernels")
        _try(kernels, device)
    except Exception as error:  # Triton's own errors share no base class
        told = (str(error).strip().splitlines() or [""])[0]
        return Choice(plain, f"{type(error).__name__}: {told}")
    return Choice(kernels, None)


def _try(operators: Operators, device: torch.device) -> None:
    """Every operator, with head norms and without, on random values; RuntimeError where one is not
    what torch makes of them.
    """
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, device=device)
        return values.to(torch.bfloat16)

    x, weight, angles = draw(2, 64), draw(64), draw(2, 1, 8).float()
    turn = Rotation(angles.cos().to(x.dtype), angles.sin().to(x.dtype))
    slots = torch.tensor([3, 1], device=device)

    def results(these: Operators) -> list[Tensor]:
        found = [these.rms_norm(x, weight, 1e-5), these.silu_mul(x)]
        for norms in (None, HeadNorms(weight[:16].contiguous(), weight[16:32].contiguous(), 1e-5)):
            rows = torch.zeros((2, 4, 1, 16), dtype=x.dtype, device=device)
            found += [these.rotate_and_store(x, turn, (rows[0], rows[1]), slots, norms), rows]
        return found

    for mine, right in zip(results(operators), results(plain), strict=True):
        # Torch rounds in between, to 8 bits.
        if not torch.allclose(mine.float(), right.float(), rtol=0.03, atol=0.03):
            raise RuntimeError("a kernel of Triton's gave wrong results")
