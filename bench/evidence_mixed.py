"""Tables of steps that mix decodes with prompts, kernel kind by kernel kind, where a run that is
kept measured them (gpu_mixed.py), beside the step model by the measured profile that is shipped.
"""

import json
from collections.abc import Sequence
from typing import Any

from evidence_runs import MEASURED, Run
from gpu_mixed_parts import Found, Priced, prices
from gpu_mixed_table import gemm_lines, part_lines

from blendsim.perf.measured import model_at, shipped_place
from blendsim.perf.overlap import SUM
from blendsim.perf.store import read_profile
from blendsim.specs import find_gpu, find_model
from blendsim.system import System

MIXED = "mixed.json"
_LEFT_OUT = ("runs", "decode_tenths")  # every run of a row, and deciles that no table shows
_PRICES = "model"  # what the step model had then; it is asked again when tables are made


def summary(found: Sequence[Found]) -> list[Found]:
    """Of what gpu_mixed.py wrote: what its tables show, but for prices."""
    kept = [one for one in found if one["what"] != _PRICES]
    return [{key: one[key] for key in one if key not in _LEFT_OUT} for one in kept]


def mixed_tables(runs: list[Run]) -> dict[str, list[str]]:
    """The tables of the last run that has them, by name; none where no run has."""
    for run in reversed(runs):
        path = run.place / MIXED
        if path.exists():
            found: list[Found] = json.loads(path.read_text())
            machine: dict[str, Any] = next(one for one in found if one["what"] == "machine")
            system = System(find_model(machine["model"]), find_gpu(machine["gpu"]))
            place = shipped_place(system)
            by = Priced(MEASURED, read_profile(place), model_at(place, system, SUM))
            found += prices([by], found)
            return {
                "mixed-steps": list(part_lines(found)),
                "mixed-gemms": list(gemm_lines(found, int(machine["layers"]))),
            }
    return {}
