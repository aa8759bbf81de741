"""Figure 3, compute over memory time while a run goes on: no usual order keeps it even.

NanoFlow on Trace #2, lengths known, in prefix order and in random order. An even run would have
the pool's own ratio all the time.
"""

import numpy as np

from blendsim.search.problem import plan_policy
from blendsim.search.trial import find_engine, log_in
from blendsim.steplog import StepLog
from paper_repro.claims import Verdict, sign
from paper_repro.lab import Lab
from paper_repro.reading import in_per_cent
from paper_repro.slices import slices
from paper_repro.table import Table

POLICIES = ("dfs", "random")
SLICES = 100
FAR = 2.0  # a slice is uneven when its ratio is so many times the run's, or a part of it


def measure(lab: Lab) -> dict[str, Table]:
    """`slices`: the ratio over each run; `runs`: how uneven it was."""
    problem = lab.problem(lab.pool("trace2"), sample=1.0)
    engine = find_engine(problem, "nanoflow")
    plans = {name: plan_policy(problem, name) for name in POLICIES}
    logs = {name: log_in(problem, plan, engine, problem.drawn) for name, plan in plans.items()}
    return {
        "slices": Table.of([row for name, log in logs.items() for row in _slices(name, log)]),
        "runs": Table.of([_run(name, log) for name, log in logs.items()]),
    }


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Prefix order spends much of the run short of memory work, and much short of compute."""
    dfs, random = (tables["runs"].record(policy=name) for name in POLICIES)
    words = [
        f"{name}: {in_per_cent(row['far_above'], 0)} of the time above {FAR:g} × the run's own "
        f"ratio, {in_per_cent(row['far_below'], 0)} below 1/{FAR:g} of it"
        for name, row in (("prefix order", dfs), ("random order", random))
    ]
    holds = dfs["far_above"] > 0.1 and dfs["far_below"] > 0.1
    return [sign("fig03", holds, "; ".join(words))]


def _slices(policy: str, log: StepLog) -> list[dict[str, float | str]]:
    cut = slices(log, SLICES)
    return [
        {"policy": policy, "start_s": start, "end_s": end, "compute_s": c, "memory_s": m}
        for start, end, c, m in zip(
            cut.start.tolist(),
            cut.end.tolist(),
            cut.compute.tolist(),
            cut.memory.tolist(),
            strict=True,
        )
    ]


def _run(policy: str, log: StepLog) -> dict[str, float | str]:
    cut = slices(log, SLICES)
    whole = float(cut.compute.sum() / cut.memory.sum())
    low, high = np.quantile(cut.ratio, (0.05, 0.95)).tolist()
    return {
        "policy": policy,
        "seconds": float(cut.end[-1]),
        "ratio": whole,
        "ratio_p5": low,
        "ratio_p95": high,
        "far_above": float((cut.ratio > FAR * whole).mean()),
        "far_below": float((cut.ratio < whole / FAR).mean()),
    }
