"""Overlap: f(c, m, n), seconds of a step whose compute takes c, whose decode reads take m and whose
all-reduces take n alone.

f is the maximum of lines a·c + b·m + d·n with a, b, d ≥ 0, so it is convex, homogeneous of degree
one and monotone. That is what makes f(ΣC, ΣM, ΣN) a lower bound on Σf(c, m, n).
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from blendsim.arrays import Floats
from blendsim.errors import ProfileError, UnknownName
from blendsim.perf.hull import hull_corners
from blendsim.perf.records import above_zero, read_rows
from blendsim.perf.sharing import beside_network, modes_under
from blendsim.perf.store import OVERLAP_FILE, profiles_directory
from blendsim.system import System

SUM, MAX, TABLE, FIT = "sum", "max", "table", "fit"
OVERLAPS = (SUM, MAX, TABLE, FIT)

MEASURED_ON = "a100-80g"
#: NanoFlow (OSDI'25, Table 3, A100): the share of its speed that decode attention keeps when it is
#: given this share of the GPU; the GEMM beside it keeps the rest of the share.
INTERFERENCE = ((0.2, 0.3), (0.4, 0.8), (0.8, 0.85), (0.9, 0.95))


def overlap_lines(name: str, system: System) -> Floats:
    """(k, 3) lines (a, b, d) of the overlap `name`. `fit` needs a measured overlap.csv of this
    model, else of this GPU.

    The network adds in `sum` and is a third argument of `max`. In `table` and `fit` it takes a
    share of the GPU from compute, by NanoFlow's figures.
    """
    if name == SUM:
        return np.ones((1, 3))
    if name == MAX:
        return np.eye(3)
    if name == TABLE:
        if system.joined_gpus == 1:
            return interference_lines(INTERFERENCE)
        shares = np.array([(1.0 - share, kept) for share, kept in INTERFERENCE])
        return beside_network(np.concatenate([shares, np.eye(2)]))
    if name != FIT:
        raise UnknownName("overlap", name, OVERLAPS)
    path = _measured(system.gpu.name, system.model.label, system.tp)
    if path is None:
        raise ProfileError(
            f"no overlap is measured yet for {system.gpu.name}; choose --overlap table"
        )
    return fitted(read_points(path), system.joined_gpus)


def overlap_points(name: str, system: System) -> tuple[Floats, ...]:
    """(m/c, f/c) as measured, ascending, for `fit` on one GPU; empty for any other overlap."""
    if name != FIT or system.joined_gpus > 1:
        return ()
    path = _measured(system.gpu.name, system.model.label, system.tp)
    return () if path is None else read_points(path)


def read_points(path: Path) -> tuple[Floats, Floats]:
    """(m/c, f/c) of an overlap.csv, ascending, held between the longer of both and their sum: what
    is measured beyond is noise.
    """
    _, rows = read_rows(path, ["memory_over_compute", "time_over_compute"])
    ratios, times = above_zero(path, rows, 0), above_zero(path, rows, 1)
    order = np.argsort(ratios)
    held = np.clip(times, np.maximum(1.0, ratios), 1.0 + ratios)
    return ratios[order], held[order]


def fitted(points: tuple[Floats, Floats], gpus: int) -> Floats:
    """Lines of measured points; with several GPUs the network takes its share of them."""
    lines = hull(*points)
    return lines if gpus == 1 else beside_network(modes_under(lines))


def default_overlap(system: System) -> str:
    """`fit` where an overlap was measured on this GPU, else `table`."""
    return TABLE if _measured(system.gpu.name, system.model.label, system.tp) is None else FIT


@cache
def _measured(gpu: str, model: str, tp: int) -> Path | None:
    """The measured overlap of this model and size, else the first of this GPU."""
    root = profiles_directory() / gpu
    own = root / model / f"tp{tp}" / OVERLAP_FILE
    if own.exists():
        return own
    return min([*root.glob(OVERLAP_FILE), *root.glob(f"*/tp*/{OVERLAP_FILE}")], default=None)


def interference_lines(table: Sequence[tuple[float, float]]) -> Floats:
    """Lines of the best fixed split of the GPU under a table of (share, speed kept) of attention;
    a network would run after the rest.

    With share R and speed P, attention ends first in m/P, in which the GEMM does (1 − R)·m/P: in
    all c + m·R/P. Or the GEMM ends first in c/(1 − R): in all m + c·(1 − P)/(1 − R). The longer of
    the two is the step. The split with the least of each is one and the same in NanoFlow's table
    (R = 0.4, P = 0.8): max(c + m/2, m + c/3), at its best where m/c = 4/3.
    """
    first = min(share / kept for share, kept in table)
    second = min((1.0 - kept) / (1.0 - share) for share, kept in table)
    assert any(
        np.isclose(share / kept, first) and np.isclose((1 - kept) / (1 - share), second)
        for share, kept in table
    ), "one split is best on both sides"
    return np.array([[1.0, first, 1.0], [second, 1.0, 1.0]])


def hull(ratios: Floats, times: Floats) -> Floats:
    """Lines of the largest admissible f under measured points: `times` = f/c at `ratios` = m/c;
    a network would run after the rest.

    With u = m/(c + m) and φ(u) = f/(c + m), f is convex and homogeneous exactly if φ is convex,
    and φ(0) = φ(1) = 1. So points are held between max and sum and the lower convex hull of φ is
    taken; each of its pieces is the line a·c + b·m with a, b the piece's values at u = 0 and 1.
    """
    u = ratios / (1.0 + ratios)
    phi = np.clip(times / (1.0 + ratios), np.maximum(u, 1.0 - u), 1.0)
    points = sorted({(0.0, 1.0), (1.0, 1.0), *zip(u.tolist(), phi.tolist(), strict=True)})
    u, first = np.unique([at for at, _ in points], return_index=True)
    phi = np.array([height for _, height in points])[first]  # the lowest at each u
    corners = hull_corners(u, phi)
    u, phi = u[corners], phi[corners]
    slope = np.diff(phi) / np.diff(u)
    compute = np.maximum(0.0, phi[:-1] - slope * u[:-1])
    memory = np.maximum(0.0, phi[:-1] + slope * (1.0 - u[:-1]))
    return np.column_stack([compute, memory, np.ones_like(slope)])


def overlapped_each(
    lines: Floats, compute: Floats, memory: Floats, network: Floats | float = 0.0
) -> Floats:
    """f of many steps at once; `overlapped` in kernels.py is of one."""
    forms = [a * compute + b * memory + d * network for a, b, d in lines]
    return np.asarray(np.max(forms, axis=0), np.float64)
