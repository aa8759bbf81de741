"""Step logs cut into slices of time, as the table that figures/overview.py draws.

`make figures` calls it. Arguments: "title=steps.parquet" for each run; the table goes to stdout.
"""

import sys
from pathlib import Path

import numpy as np

from blendsim.steplog import read_steplog

SLICES = 120


def slices(name: str, path: Path) -> list[str]:
    """CSV rows of one run: work per second of the run in each slice, and a last row at its end."""
    log = read_steplog(path)
    start, seconds = log.time("start"), log.time("seconds")
    edges = np.linspace(0, float((start + seconds).max()), SLICES + 1)
    columns = [
        np.histogram(start, edges, weights=log.time(column))[0] / np.diff(edges)
        for column in ("compute_seconds", "memory_seconds")
    ]
    rows = zip(edges[:-1], *columns, strict=True)
    return [f"{name},{at:.3f},{c:.4f},{m:.4f}" for at, c, m in rows] + [
        f"{name},{edges[-1]:.3f},0,0"
    ]


if __name__ == "__main__":
    print("policy,start,compute_seconds,memory_seconds")
    for argument in sys.argv[1:]:
        label, _, file = argument.partition("=")
        print("\n".join(slices(label, Path(file))))
