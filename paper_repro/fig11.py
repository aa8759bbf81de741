"""Figure 11: blended over prefix order on 65 pools of BurstGPT, MMLU and OpenVid."""

from paper_repro.claims import Verdict, near, sign
from paper_repro.grids import PAPERS_REQUESTS, Grid, grid_parts, ours, speedups, told_of
from paper_repro.lab import Lab
from paper_repro.parts import Part, take_all
from paper_repro.reading import mean, noting_ours
from paper_repro.table import Table

GRID = Grid("fig11", "burstgpt")


def parts(lab: Lab) -> list[Part]:
    """Of both tables, in a quick run the same."""
    return list(dict.fromkeys([*GRID.parts(lab), *_small(lab)]))


def _small(lab: Lab) -> list[Part]:
    return grid_parts(lab, GRID.source, PAPERS_REQUESTS)


def measure(lab: Lab) -> dict[str, Table]:
    """`grid`: a row a point; `small`: the same with as few requests as the paper's."""
    return {**GRID.measure(lab), "small": take_all(lab, _small(lab))}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Mean and largest speed-up, the sign at every point, and where the best ones are."""
    found = speedups(tables["grid"])
    behind = sum(value <= 1 for value in found)
    small = speedups(tables["small"])
    by_density: dict[float, list[float]] = {}
    for row in tables["grid"].records():
        if row["speedup"] is not None:
            by_density.setdefault(row["density"], []).append(row["speedup"])
    best = max(by_density, key=lambda density: mean(by_density[density]))
    return [
        noting_ours(near("fig11-mean", mean(found), told_of(tables["grid"])), ours(tables["grid"])),
        near("fig11-most", max(found), f"{max(found):.2f}×"),
        sign(
            "fig11-sign",
            behind == 0,
            f"{len(found) - behind} of {len(found)} points above 1",
            f"with 40,000 requests a point: {min(small):.2f} … {max(small):.2f}×",
        ),
        near("fig11-best", best, f"ρ {best:.2f} has the best mean, {mean(by_density[best]):.2f}×"),
    ]
