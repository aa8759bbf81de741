"""§6.5: speed-ups simulated against speed-ups measured on a GPU.

Measured ones are those that `blendsim validate --json` writes for two policies; their files are put
into results/measured/. Until there is one, the claim is not measured.
"""

import json
from pathlib import Path

from paper_repro.claims import Verdict, near
from paper_repro.lab import REPOSITORY, Lab
from paper_repro.reading import mean
from paper_repro.table import Table

MEASURED = REPOSITORY / "paper_repro" / "results" / "measured"
COLUMNS = ("run", "simulated", "measured", "error")


def measure(lab: Lab) -> dict[str, Table]:
    """`speedups`: a row a measured pair of policies; none while no GPU has run."""
    rows = [_row(path) for path in sorted(MEASURED.glob("*.json"))]
    return {"speedups": Table(COLUMNS, tuple(rows))}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """The mean relative difference."""
    errors = tables["speedups"].column("error")
    if not errors:
        return [Verdict("sec65", "not measured yet", None, "no GPU has run")]
    off = mean(abs(error) for error in errors)
    return [near("sec65", off, f"{off:.2%} in the mean of {len(errors)}")]


def _row(path: Path) -> tuple[str, float, float, float]:
    speedup = json.loads(path.read_text())["speedup"]
    simulated, measured = speedup["simulated"], speedup["measured"]
    return path.stem, simulated, measured, simulated / measured - 1
