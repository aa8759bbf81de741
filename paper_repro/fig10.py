"""Figure 10: compute and memory time while Trace #2 runs, in prefix order, blended, and with paced
steps, which are ours.
"""

import numpy as np

from blendsim.steplog import StepLog
from paper_repro.claims import Verdict, sign
from paper_repro.lab import Lab
from paper_repro.runs import trials
from paper_repro.slices import slices
from paper_repro.table import Table

POLICIES = ("dfs", "blend", "paced")
SLICES = 100
TAIL = 0.05  # of the run is left out when its evenness is judged: the last requests run alone


def measure(lab: Lab) -> dict[str, Table]:
    """`slices`: seconds of compute and memory work in each hundredth of a run; `runs`: how even."""
    done = trials(lab.problem(lab.pool("trace2")), POLICIES)
    return {
        "slices": Table.of([row for name, one in done.items() for row in _slices(name, one.log)]),
        "runs": Table.of([_run(name, one.log) for name, one in done.items()]),
    }


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Blended work is more even; prefix order is starved of memory traffic first, then flooded."""
    dfs, blend, paced = (tables["runs"].record(policy=name) for name in POLICIES)
    return [
        sign(
            "fig10-blend",
            blend["unevenness"] < 0.5 * dfs["unevenness"],
            f"share of memory work varies by {blend['unevenness']:.3f} (standard deviation), "
            f"in prefix order by {dfs['unevenness']:.3f}",
            f"with paced steps, which are ours, it varies by {paced['unevenness']:.3f}",
        ),
        sign(
            "fig10-dfs",
            dfs["first_half"] < 0.5 * dfs["whole"] and dfs["last_quarter"] > 1.5 * dfs["whole"],
            f"memory's share of the work: {dfs['first_half']:.0%} in the first half, "
            f"{dfs['last_quarter']:.0%} in the last quarter, {dfs['whole']:.0%} over all",
        ),
    ]


def _slices(policy: str, log: StepLog) -> list[dict[str, str | float]]:
    cut = slices(log, SLICES)
    columns = (cut.start.tolist(), cut.end.tolist(), cut.compute.tolist(), cut.memory.tolist())
    return [
        {"policy": policy, "start_s": start, "end_s": end, "compute_s": c, "memory_s": m}
        for start, end, c, m in zip(*columns, strict=True)
    ]


def _run(policy: str, log: StepLog) -> dict[str, str | float]:
    cut = slices(log, SLICES)
    share = cut.memory / np.maximum(cut.compute + cut.memory, 1e-12)
    body = share[: round(SLICES * (1 - TAIL))]

    def of(part: slice) -> float:
        memory, compute = cut.memory[part].sum(), cut.compute[part].sum()
        return float(memory / (compute + memory))

    return {
        "policy": policy,
        "seconds": float(cut.end[-1]),
        "unevenness": float(body.std()),
        "whole": of(slice(None)),
        "first_half": of(slice(0, SLICES // 2)),
        "last_quarter": of(slice(SLICES - SLICES // 4, None)),
    }
