"""Waves: a decode-attention kernel that gives every (request, KV head) a thread block runs them in
waves, and a last wave that is nearly empty costs almost as much as a full one.

The grid holds powers of two only, so the cliffs lie between its points. Time is taken as
smooth(batch, context) × stretch(batch), stretch = 1 + share · (ceil(w)/w − 1), w = batch × KV heads
/ (SMs × blocks an SM). Blocks an SM and share are found from the grid itself: leave a point out and
predict it from its neighbours; kernels that split the KV evenly show no cliff and keep share 0.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats
from blendsim.perf.grids import AttentionGrid, HeadShape

_SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0)
_GAIN = 0.9  # believe a cliff only if it takes a tenth off the error without one
_BANDWIDTH_BOUND = 1 << 18  # batch × KV heads × context from which the launch no longer shows


class Waves(NamedTuple):
    """The cliff of one GPU's decode kernel, and its leave-one-out error (RMS) with and without."""

    blocks_per_sm: int
    share: float
    error: float
    error_without: float


def stretch(blocks: Floats, slots: float, share: float) -> Floats:
    """How much longer `blocks` thread blocks take on `slots` places than if waves were always full;
    below one wave the kernel splits the KV instead and nothing is lost.
    """
    waves = np.maximum(blocks / slots, 1.0)
    return np.asarray(1.0 + share * (np.ceil(waves) / waves - 1.0), np.float64)


def fit_waves(grids: Mapping[HeadShape, AttentionGrid], sm_count: int) -> Waves:
    """Blocks an SM and share with the least leave-one-out error over all grids of head size 128."""
    without = _error(grids, sm_count, 0.0)
    tried = [
        Waves(per_sm, share, round(_error(grids, sm_count * per_sm, share), 4), round(without, 4))
        for per_sm in (1, 2)
        for share in _SHARES
    ]
    best = min(tried, key=lambda waves: waves.error)
    if best.error > _GAIN * without:
        return Waves(1, 0.0, round(without, 4), round(without, 4))
    return best


def _error(grids: Mapping[HeadShape, AttentionGrid], slots: float, share: float) -> float:
    """RMS relative error of each bandwidth-bound point predicted from the batches around it."""
    misses = []
    for shape, grid in grids.items():
        if shape.head_dim != 128:
            continue
        blocks = grid.batches * shape.kv_heads
        smooth = grid.seconds / stretch(blocks, slots, share)[:, None]
        b = grid.batches[:, None]
        weight = (b[1:-1] - b[:-2]) / (b[2:] - b[:-2])
        guess = (1.0 - weight) * smooth[:-2] + weight * smooth[2:]
        is_large = blocks[1:-1, None] * grid.lengths[None, :] >= _BANDWIDTH_BOUND
        miss = (guess / smooth[1:-1] - 1.0)[is_large]
        misses.append(miss[~np.isnan(miss)])
    return float(np.sqrt(np.mean(np.concatenate(misses) ** 2)))
