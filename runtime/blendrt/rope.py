"""Rotary position embedding, with Llama 3.1's scaling of its wavelengths.

The angles depend on positions alone, so a step computes them once and all layers share them.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from blendrt.config import DecoderConfig


class Rotation(NamedTuple):
    """Cosines and sines of a batch's angles, each (tokens, 1, head_dim / 2)."""

    cos: Tensor
    sin: Tensor


def inverse_wavelengths(config: DecoderConfig, device: torch.device) -> Tensor:
    """Radians a token of every pair of dimensions, (head_dim / 2,), float32."""
    pairs = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device)
    plain = 1.0 / config.rope_theta ** (pairs / config.head_dim)
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    turns = scaling.context * plain / (2 * math.pi)  # in the first training's context
    ramp = ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0.0, 1.0)
    return plain * (ramp + (1.0 - ramp) / scaling.factor)


def rotation(positions: Tensor, wavelengths: Tensor, dtype: torch.dtype) -> Rotation:
    """The rotation of tokens at `positions`, reckoned in float32 and rounded to `dtype`."""
    angles = (positions.to(torch.float32)[:, None] * wavelengths)[:, None, :]
    return Rotation(angles.cos().to(dtype), angles.sin().to(dtype))


def rotate(heads: Tensor, by: Rotation) -> Tensor:
    """(tokens, heads, head_dim) rotated: dimension i is paired with i + head_dim / 2."""
    half = heads.shape[-1] // 2
    first, second = heads[..., :half], heads[..., half:]
    rotated = torch.empty(heads.shape, dtype=heads.dtype, device=heads.device)
    # Products into halves of one buffer: four kernels, and no copy to join them.
    torch.mul(first, by.cos, out=rotated[..., :half])
    rotated[..., :half].addcmul_(second, by.sin, value=-1)
    torch.mul(second, by.cos, out=rotated[..., half:])
    rotated[..., half:].addcmul_(first, by.sin)
    return rotated
