"""What a measured profile says about the step model's own rules, as notes for its readers."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from blendrt.profiler.tables import SKEWED
from blendsim.arrays import Floats
from blendsim.perf.fit import OverlapFit
from blendsim.perf.kernels import prefill_seconds
from blendsim.perf.model import step_model
from blendsim.perf.overlap import SUM
from blendsim.perf.profile import Profile
from blendsim.perf.records import MICRO, column, read_rows
from blendsim.perf.store import CHUNK_HEADER, CHUNKS
from blendsim.system import System


def overlap_figures(fit: OverlapFit) -> dict[str, Any]:
    """How good the fitted overlap is, and what overlapping buys at best."""
    gain, ratio = fit.best
    errors = {"median_error": fit.median_error, "p90_error": fit.p90_error}
    return {
        "pairs": fit.sizes,
        "held_back": fit.held_back,
        **{name: round(value, 4) for name, value in errors.items() if not math.isnan(value)},
        "best_gain": round(gain, 4),
        "best_memory_over_compute": round(ratio, 4),
    }


def find_rules(profile: Profile, system: System, directory: Path) -> list[str]:
    """How far two rules of the step model are from what was measured: the price of a chunk behind a
    prefix, and that decodes cost what their mean context costs.
    """
    chunks = _columns(directory / f"{CHUNKS}.csv", list(CHUNK_HEADER))
    tables = step_model(system, SUM, profile).tables
    errors = []
    for tokens, computed, microseconds in chunks:
        pairs = int(tokens * computed + tokens * (tokens + 1) // 2)
        priced = prefill_seconds(tables, int(tokens), 1, pairs) / system.model.layers
        errors.append(priced / (microseconds * MICRO) - 1.0)
    skewed = _columns(directory / f"{SKEWED}.csv", ["batch", "context", "longest"])
    ratios = skewed[:, 4] / skewed[:, 3]
    error, bias = float(np.median(np.abs(errors))), float(np.mean(errors))
    return [
        f"prefill behind a prefix: the step model errs by {error:.1%} in the median of "
        f"{len(errors)} sizes (mean {bias:+.1%})",
        f"decode attention of skewed contexts takes {np.median(ratios):.2f} times that of equal "
        f"ones of the same mean (median of {len(ratios)}, at most {np.max(ratios):.2f})",
    ]


def _columns(path: Path, first: list[str]) -> Floats:
    """A small table as an array."""
    header, rows = read_rows(path, first)
    return np.column_stack([column(path, rows, i) for i in range(len(header))])
