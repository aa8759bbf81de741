"""What cascade attention adds to a layer: a launch for the shared prefixes, one for the merge, and
the partial results of every decode.

Modelled, not measured: launches and bandwidth are those of the profile's small operators. Attention
writes two partial results a decode instead of one, the merge reads both and writes one.
"""

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.perf.profile import Profile
from blendsim.specs import BYTES_PER_VALUE
from blendsim.system import System

_LAUNCHES = 2
_PASSES = 4  # over a decode's values: one written more, two read, one written


def merge_seconds(system: System, profile: Profile, decodes: Ints) -> Floats:
    """Seconds of all layers by the number of decodes, beside the reads and pairs themselves."""
    figures = profile.meta["small_operators"]
    bandwidth = figures["bandwidth_share"] * system.gpu.bandwidth
    model = system.model
    values = model.heads // system.tp * model.head_dim
    moved = _PASSES * BYTES_PER_VALUE * values
    each = _LAUNCHES * figures["launch_seconds"] + decodes * (moved / bandwidth)
    return np.asarray(np.where(decodes > 0, model.full_layers * each, 0.0), np.float64)
