"""Layers that attend to a window: to the last tokens of the context alone."""

from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats
from blendsim.perf.grids import AttentionGrid, along
from blendsim.perf.profile import Profile
from blendsim.system import System


class Windows(NamedTuple):
    """Attention of all layers with a window."""

    decode: Floats  # (B + 1, S), as StepTables.decode
    prefill: Floats  # (N + 1,), as StepTables.windows; empty without such layers
    best: float  # least seconds of a context token within the window
    best_of_prompts: float  # of a prompt's token


def windows_of(system: System, profile: Profile, lengths: Floats, most: int, size: int) -> Windows:
    """What layers with a window take: up to `most` decodes at contexts of `lengths`, and prompts of
    up to `size` tokens.
    """
    model, grids = system.model, profile.windowed
    if not model.windowed_layers or model.delta_heads:
        return Windows(np.zeros((most + 1, len(lengths))), np.zeros(0), 0.0, 0.0)
    assert grids is not None, "a profile of a model with windows has their tables"
    batches = np.arange(1, most + 1)
    filled = _filled(grids.decode, model.window)
    rows = np.column_stack([along(grids.decode.batches, column, batches) for column in filled.T])
    at = np.minimum(lengths, grids.decode.lengths[-1])
    rows = np.array([np.interp(at, grids.decode.lengths, row) for row in rows])
    decode = model.windowed_layers * np.concatenate([np.zeros((1, len(lengths))), rows])
    reach = batches[:, None] * np.minimum(lengths, model.window)
    # A window goes along a prompt: 4,096 tokens take 105 µs a layer on an H100 as one prompt, and
    # 93 to 109 as 4 to 256. So they are taken as one, in chunks or not.
    few = np.flatnonzero(grids.prefill.batches >= 1.0)[0]
    tokens = grids.prefill.batches[few] * grids.prefill.lengths
    prefill, n = np.zeros(size + 1), np.arange(1, size + 1)
    prefill[1:] = model.windowed_layers * along(tokens, grids.prefill.seconds[few], n)
    return Windows(
        decode=decode,
        prefill=prefill,
        best=float((decode[1:] / reach).min()),
        best_of_prompts=float((prefill[1:] / n).min()),
    )


def _filled(grid: AttentionGrid, window: int) -> Floats:
    """A windowed decode's seconds with holes filled: from a context behind the window, where none
    costs more than another, else from the next smaller batch at its rate.
    """
    seconds = grid.seconds.copy()
    for i, j in np.argwhere(np.isnan(seconds)).tolist():
        if i == 0 or (j and grid.lengths[j - 1] > window):
            seconds[i, j] = seconds[i, j - 1]
        else:
            seconds[i, j] = seconds[i - 1, j] * (grid.batches[i] / grid.batches[i - 1])
    return seconds
