"""Figure 10: compute and memory time while Trace #2 runs, in prefix order, blended, and with paced
steps, which are ours.
"""

from collections.abc import Mapping

import numpy as np

from blendsim.steplog import StepLog
from paper_repro.claims import Verdict, sign
from paper_repro.lab import Lab
from paper_repro.runs import trials
from paper_repro.slices import slices
from paper_repro.table import Table

POLICIES = ("dfs", "blend", "paced")
SLICES = 100
EVEN = 1.2  # times its share over all is what memory may have of the last quarter of an even run
TAIL = 0.05  # of the run is left out when its evenness is judged: the last requests run alone


def measure(lab: Lab) -> dict[str, Table]:
    """`slices`: seconds of compute and memory work in each hundredth of a run; `runs`: how even."""
    done = trials(lab.problem(lab.pool("trace2")), POLICIES)
    return {
        "slices": Table.of([row for name, one in done.items() for row in _slices(name, one.log)]),
        "runs": Table.of([_run(name, one.log) for name, one in done.items()]),
    }


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Blended work is even; prefix order is starved of memory traffic first, then flooded."""
    dfs, blend, paced = (tables["runs"].record(policy=name) for name in POLICIES)
    return [
        sign(
            "fig10-blend",
            blend["last_quarter"] < EVEN * blend["whole"],
            f"memory's share of the work: {_shares(blend)}; from slice to slice it varies by "
            f"{blend['unevenness']:.3f} (standard deviation), in prefix order by "
            f"{dfs['unevenness']:.3f}",
            f"evener than prefix order, even is a last quarter below {EVEN:g} times the whole; "
            f"with paced steps, which are ours, {_shares(paced)}, varying by "
            f"{paced['unevenness']:.3f}",
        ),
        sign(
            "fig10-dfs",
            dfs["first_half"] < 0.5 * dfs["whole"] and dfs["last_quarter"] > 1.5 * dfs["whole"],
            f"memory's share of the work: {_shares(dfs)}",
        ),
    ]


def _shares(run: Mapping[str, float]) -> str:
    return (
        f"{run['first_half']:.0%} in the first half, {run['last_quarter']:.0%} in the last "
        f"quarter, {run['whole']:.0%} over all"
    )


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
