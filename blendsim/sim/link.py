"""The links KV moves over: every replica has one out and one in, and each serves transfers in the
order they were asked for.
"""

from dataclasses import dataclass

import numpy as np

from blendsim.arrays import Floats, Ints
from blendsim.specs import Link
from blendsim.system import System


@dataclass(slots=True)
class Port:
    """One end of a link, busy until a time."""

    free_at: float = 0.0  # seconds


def move(out: Port, into: Port, link: Link, payload: float, now: float) -> float:
    """When `payload` bytes that leave by `out` have arrived at `into`, asked for at `now`.

    They wait until both ends are free and keep both busy for payload / bandwidth; the latency
    passes on the way.
    """
    start = max(now, out.free_at, into.free_at)
    out.free_at = into.free_at = start + payload / link.bandwidth
    return out.free_at + link.latency


def kv_payload(system: System, tokens: Ints) -> Floats:
    """Bytes that one GPU's link carries to move the KV of `tokens` tokens, in layers with a window
    that of the last of them, of gated delta nets the state: tensor-parallel GPUs move their shares
    side by side.
    """
    model = system.model
    moved = tokens.astype(np.float64)
    if model.delta_heads:
        moved += model.state_bytes / system.kv_bytes_per_token
    elif model.windowed_layers:
        moved += np.minimum(tokens, model.window) * (model.windowed_layers / model.full_layers)
    return moved * (system.kv_bytes_per_token / system.tp)
