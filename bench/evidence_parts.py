"""Tables of what kernels do on a part of the GPU, where a run that is kept measured it
(gpu_partitions.py).
"""

import json
from itertools import groupby

from evidence_runs import Run
from gpu_partitions_table import table

PARTITIONS = "partitions.json"
NAMES = ("part-gemms", "part-decodes", "part-skewed", "part-pairs")


def part_tables(runs: list[Run]) -> dict[str, list[str]]:
    """The tables of the last run that has them, by name; none where no run has."""
    for run in reversed(runs):
        path = run.place / PARTITIONS
        if path.exists():
            found = json.loads(path.read_text())
            chip = max(f["sms"] for f in found if f["what"] == "decode")
            parts = groupby(table(found, chip), bool)
            lines = [list(group) for is_table, group in parts if is_table]
            return dict(zip(NAMES, lines, strict=True))
    return {}
