"""Figure 14: the grid of Figure 11 with ShareGPT as its compute-heavy source."""

from paper_repro.claims import Verdict, near, sign
from paper_repro.grids import PAPERS_REQUESTS, REQUESTS, measure_grid, speedups, told_of
from paper_repro.lab import Lab
from paper_repro.table import Table


def measure(lab: Lab) -> dict[str, Table]:
    """`grid`: a row a point."""
    return {"grid": measure_grid(lab, "sharegpt", PAPERS_REQUESTS if lab.quick else REQUESTS)}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """The largest speed-up and the sign at every point."""
    table = tables["grid"]
    found = speedups(table)
    behind = sum(value <= 1 for value in found)
    left_out = len(table.rows) - len(found)
    words = f"{left_out} points cannot be mixed" if left_out else "all points"
    return [
        near("fig14-most", max(found), told_of(table)),
        sign("fig14-sign", behind == 0, f"{len(found) - behind} of {len(found)} above 1", words),
    ]
