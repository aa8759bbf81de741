"""Density × sharing grids of one compute-heavy source: 65 pools, each in prefix order and blended.

A pool has 200,000 requests: in one of the paper's 40,000 only some thirty are videos, and the
longest of them alone takes longer than all the rest (table `small` of Figure 11).
"""

from concurrent.futures import ThreadPoolExecutor

from blendsim.errors import InputError
from blendsim.synth.recipes import Recipe, grid
from paper_repro.lab import Lab
from paper_repro.runs import trials
from paper_repro.table import Cell, Table

REQUESTS = 200_000
PAPERS_REQUESTS = 40_000
CORNERS = (0, 4, 60, 64)  # of the 65 points, for a quick run


def measure_grid(lab: Lab, source: str, requests: int) -> Table:
    """A row a point; without rates where no mix of the sources has that density and sharing."""
    points = grid(source, requests, lab.seed)
    if lab.quick:
        points = [points[i] for i in CORNERS]
    with ThreadPoolExecutor(2) as threads:  # compiled code runs outside the interpreter's lock
        return Table.of(list(threads.map(lambda point: _point(lab, point), points)))


def _point(lab: Lab, point: Recipe) -> dict[str, Cell]:
    wanted: dict[str, Cell] = {"density": point.density, "sharing": point.sharing}
    try:
        pool = lab.pool(point)
    except InputError as error:
        return {**wanted, **dict.fromkeys(_KEYS), "left_out": str(error)}
    done = trials(lab.problem(pool), ("dfs", "blend"))
    dfs, blend = done["dfs"].row, done["blend"].row
    values = (
        len(pool),
        blend.density,
        blend.sharing_optimum,
        dfs.tokens_per_second,
        blend.tokens_per_second,
        blend.tokens_per_second / dfs.tokens_per_second,
        dfs.share_of_optimum,
        blend.share_of_optimum,
    )
    return {**wanted, **dict(zip(_KEYS, values, strict=True)), "left_out": None}


_KEYS = (
    "requests",
    "density_reached",
    "sharing_in_blocks",
    "dfs_tokens_per_second",
    "blend_tokens_per_second",
    "speedup",
    "dfs_share_of_optimum",
    "blend_share_of_optimum",
)


def speedups(table: Table) -> list[float]:
    """Of all points that can be made."""
    return [value for value in table.column("speedup") if value is not None]


def told_of(table: Table) -> str:
    """Least, most and mean, and where the best point is."""
    found = speedups(table)
    best = max(
        (row for row in table.records() if row["speedup"] is not None),
        key=lambda row: row["speedup"],
    )
    return (
        f"{min(found):.2f} … {max(found):.2f}×, mean {sum(found) / len(found):.3f}×, "
        f"best at ρ {best['density']:.2f}, s {best['sharing']:.2f}"
    )
