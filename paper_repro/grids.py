"""Density × sharing grids of one compute-heavy source: 65 pools, each in prefix order, blended, and
with paced steps.

A pool has 200,000 requests: in one of the paper's 40,000 only some thirty are videos, and the
longest of them alone takes longer than all the rest (table `small` of Figure 11).
"""

from typing import NamedTuple

import numpy as np

from blendsim.errors import InputError
from blendsim.synth.recipes import Recipe, grid
from blendsim.traces.limits import without_oversize
from paper_repro.claims import Verdict, near, sign
from paper_repro.lab import Lab
from paper_repro.parts import Part, take_all
from paper_repro.reading import noting_ours
from paper_repro.runs import trials
from paper_repro.systems import ORDERS, PACED
from paper_repro.table import Cell, Table

REQUESTS = 200_000
PAPERS_REQUESTS = 40_000
OURS = "paced_speedup"  # column of our own policy
CORNERS = (0, 4, 60, 64)  # of the 65 points, for a quick run


class Grid(NamedTuple):
    """The figure of a source: its largest speed-up and who is ahead at every point."""

    figure: str
    source: str

    def parts(self, lab: Lab) -> list[Part]:
        """A part a density."""
        return grid_parts(lab, self.source, PAPERS_REQUESTS if lab.quick else REQUESTS)

    def measure(self, lab: Lab) -> dict[str, Table]:
        """`grid`: a row a point."""
        return {"grid": take_all(lab, self.parts(lab))}

    def verdicts(self, tables: dict[str, Table]) -> list[Verdict]:
        """The largest speed-up and the sign at every point."""
        table = tables["grid"]
        found = speedups(table)
        behind = sum(value <= 1 for value in found)
        left_out = len(table.rows) - len(found)
        words = f"{left_out} points cannot be mixed; " if left_out else ""
        words += told_of_chance(table)
        shown = f"{len(found) - behind} of {len(found)} above 1"
        return [
            noting_ours(near(f"{self.figure}-most", max(found), told_of(table)), ours(table)),
            sign(f"{self.figure}-sign", behind == 0, shown, words),
        ]


def grid_parts(lab: Lab, source: str, requests: int) -> list[Part]:
    """A part a density of the source's grid."""
    densities = dict.fromkeys(point.density for point in _points(lab, source, requests))
    return [Part("grids", (source, requests, density)) for density in densities]


def part(lab: Lab, source: str, requests: int, density: float) -> Table:
    """A row a sharing; without rates where no mix of the sources has that density and sharing."""
    points = _points(lab, source, requests)
    return Table.of([_point(lab, point) for point in points if point.density == density])


def _points(lab: Lab, source: str, requests: int) -> list[Recipe]:
    points = grid(source, requests, lab.seed)
    return [points[i] for i in CORNERS] if lab.quick else points


def _point(lab: Lab, point: Recipe) -> dict[str, Cell]:
    wanted: dict[str, Cell] = {"density": point.density, "sharing": point.sharing}
    try:
        pool = lab.pool(point)
    except InputError as error:
        return {**wanted, **dict.fromkeys(_KEYS), "left_out": str(error)}
    # NOTE: ShareGPT has one prompt longer than the model's context.
    pool = without_oversize(pool, lab.settings().system.longest_request, skip=True)
    done = trials(lab.problem(pool), ORDERS)
    dfs, blend, paced = (done[policy].row for policy in ORDERS)
    values = (
        len(pool),
        blend.density,
        blend.sharing_optimum,
        dfs.tokens_per_second,
        blend.tokens_per_second,
        blend.tokens_per_second / dfs.tokens_per_second,
        dfs.share_of_optimum,
        blend.share_of_optimum,
        paced.tokens_per_second / dfs.tokens_per_second,
        paced.share_of_optimum,
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
    OURS,
    "paced_share_of_optimum",
)


def speedups(table: Table, column: str = "speedup") -> list[float]:
    """Of all points that can be made."""
    return [value for value in table.column(column) if value is not None]


def ours(table: Table) -> dict[str, str]:
    """Of our own policy, least, most and mean; nothing where it was not measured."""
    found = speedups(table, OURS) if OURS in table.columns else []
    return {PACED: _range(found)} if found else {}


def _range(found: list[float]) -> str:
    return f"{min(found):.2f} … {max(found):.2f}×, mean {sum(found) / len(found):.3f}×"


def told_of_chance(table: Table) -> str:
    """How far points lie from the means of their density and of their sharing: each is a pool and a
    sample of its own, so that much of a point is chance.
    """
    made = [row for row in table.records() if row["speedup"] is not None]
    values = np.array([row["speedup"] for row in made])
    over_all = values.mean()
    off = values - over_all
    for name in ("density", "sharing"):
        of = np.array([row[name] for row in made])
        off = off - np.array([values[of == each].mean() - over_all for each in of])
    return f"a point is off by ±{off.std():.3f} from its row's and column's means"


def told_of(table: Table) -> str:
    """Least, most and mean, and where the best point is."""
    best = max(
        (row for row in table.records() if row["speedup"] is not None),
        key=lambda row: row["speedup"],
    )
    return f"{_range(speedups(table))}, best at ρ {best['density']:.2f}, s {best['sharing']:.2f}"
