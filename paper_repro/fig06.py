"""Figure 6, how the dual scanner divides the KV memory between its two ends: the paper's example.

What goes in is the paper's: 60 GB and three densities. What comes out is `memory_split`, which the
serving core divides its memory by.
"""

import numpy as np

from blendsim.perf.density import memory_split
from paper_repro.claims import Verdict, near
from paper_repro.lab import Lab
from paper_repro.table import Table

MEMORY_GB = 60.0
LEFT, RIGHT, ROOT = 3.73, 0.096, 1.27  # ρ at the dense end, at the other end, of the whole pool
POINTS = 41


def measure(lab: Lab) -> dict[str, Table]:
    """`example`: the paper's case; `split`: the same ends in pools of every density between."""
    del lab  # arithmetic: no data, no chance
    example = {"rho_left": LEFT, "rho_right": RIGHT, **_divided(ROOT)}
    densities = np.linspace(RIGHT, LEFT, POINTS).tolist()
    return {
        "example": Table.of([example]),
        "split": Table.of([_divided(density) for density in densities]),
    }


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Both shares are the paper's but for its rounding."""
    (row,) = tables["example"].records()
    return [
        near("fig06-left", row["left_gb"], f"{row['left_gb']:.2f} GB"),
        near("fig06-right", row["right_gb"], f"{row['right_gb']:.2f} GB"),
    ]


def _divided(root: float) -> dict[str, float]:
    left, right = memory_split(MEMORY_GB, LEFT, RIGHT, root)
    return {"rho_root": root, "left_gb": left, "right_gb": right}
