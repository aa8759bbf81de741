"""Sharing: how fast kinds of work run side by side on one GPU, and the overlap f that follows.

A mode is a way to run: (r_c, r_m, r_n), each kind's speed as a share of what it has alone. A step
may spend its time in several modes, so that f(c, m, n) is a small linear program: the least Σ t_k
over modes with Σ t_k·r_k ≥ (c, m, n). By duality it is the largest a·c + b·m + d·n over the corners
(a, b, d) of the region where a·r_c + b·r_m + d·r_n ≤ 1 in every mode: those are f's lines.
"""

from itertools import combinations, pairwise

import numpy as np

from blendsim.arrays import Floats

#: The share of its speed that a network kernel keeps when it is given this share of the GPU: the
#: figures of NanoFlow's own search (repository efeslab/Nanoflow, autosearch/trace/
#: net_interference.csv at d1bbe27; 70B models on eight A100 over NVLink).
NETWORK = ((0.1, 0.4), (0.2, 0.6), (0.3, 0.7), (0.4, 0.8), (0.5, 0.9))


def network_speed(share: float) -> float:
    """The speed a network kernel keeps with `share` of the GPU; linear between the figures."""
    shares, kept = zip((0.0, 0.0), *NETWORK, (1.0, 1.0), strict=True)
    return float(np.interp(share, shares, kept))


def beside_network(modes: Floats) -> Floats:
    """Lines (a, b, d) when the network runs beside `modes` (r_c, r_m) of compute and memory.

    As in NanoFlow's search GEMMs keep the share of the GPU they have, the shares of all kernels add
    up to one, and each kernel's speed depends on its own share. So a network kernel takes from
    compute, all of it at most, and leaves memory as it is.
    """
    found = []
    for compute, memory in modes.tolist():
        taken = [0.0, compute, *(share for share, _ in NETWORK if share < compute)]
        found += [(compute - share, memory, network_speed(share)) for share in taken]
    return corners(np.array(found))


def modes_under(lines: Floats) -> Floats:
    """The modes (r_c, r_m) behind lines (a, b, …) that go from compute to memory: one where
    two neighbours meet, and each kind alone.
    """
    met = [np.linalg.solve(pair, np.ones(2)) for pair in pairwise(lines[:, :2])]
    return np.concatenate([np.array(met).reshape(-1, 2), np.eye(2)])


def corners(modes: Floats) -> Floats:
    """The corners y ≥ 0 of {y : modes @ y ≤ 1} that no other undercuts, as lines of f."""
    modes = np.array([mode for mode in modes if not _is_beaten(mode, modes)])
    planes = np.concatenate([modes, -np.eye(3)])
    limits = np.concatenate([np.ones(len(modes)), np.zeros(3)])
    triples = np.array(list(combinations(range(len(planes)), 3)))
    triples = triples[np.abs(np.linalg.det(planes[triples])) > 1e-9]
    found = np.linalg.solve(planes[triples], limits[triples][..., None])[..., 0]
    found = found[(found @ planes.T <= limits + 1e-9).all(axis=1)]
    found = np.unique(np.abs(found.round(12)), axis=0)
    return np.array([line for line in found if not _is_beaten(line, found)])


def _is_beaten(row: Floats, rows: Floats) -> bool:
    """Whether another row is at least as large in every column."""
    return bool(((rows >= row).all(axis=1) & (rows > row).any(axis=1)).any())
