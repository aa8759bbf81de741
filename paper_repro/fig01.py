"""Figure 1, the idea: one pool in prefix order, compute first and memory after, and blended.

Two simulated runs of Trace #1 on the same engine, which overlaps compute and memory in both: only
the order of the requests differs. Output lengths are known.
"""

from blendsim.search.problem import plan_policy
from blendsim.search.trial import find_engine, log_in
from blendsim.steplog import StepLog
from paper_repro.claims import Verdict, sign
from paper_repro.lab import Lab
from paper_repro.reading import in_per_cent, percent
from paper_repro.slices import slices
from paper_repro.table import Table

POLICIES = ("dfs", "blend")
SLICES = 100


def measure(lab: Lab) -> dict[str, Table]:
    """`slices`: work per second over each run; `runs`: what the runs took."""
    problem = lab.problem(lab.pool("trace1"), sample=1.0)
    engine = find_engine(problem, "nanoflow")
    plans = {name: plan_policy(problem, name) for name in POLICIES}
    logs = {name: log_in(problem, plan, engine, problem.drawn) for name, plan in plans.items()}
    return {
        "slices": Table.of([row for name, log in logs.items() for row in _slices(name, log)]),
        "runs": Table.of([_run(name, log) for name, log in logs.items()]),
    }


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """The blended run ends first, and it does more of its work side by side."""
    dfs, blend = (tables["runs"].record(policy=name) for name in POLICIES)
    gain = dfs["seconds"] / blend["seconds"] - 1
    shown = (
        f"{dfs['seconds']:,.0f} s in prefix order, {blend['seconds']:,.0f} s blended "
        f"({percent(1 + gain)} throughput); work side by side: "
        f"{in_per_cent(dfs['side_by_side'], 0)} → "
        f"{in_per_cent(blend['side_by_side'], 0)} of the run"
    )
    holds = gain > 0 and blend["side_by_side"] > dfs["side_by_side"]
    return [sign("fig01", holds, shown)]


def _slices(policy: str, log: StepLog) -> list[dict[str, float | str]]:
    cut = slices(log, SLICES)
    width = float(cut.end[0] - cut.start[0])
    return [
        {
            "policy": policy,
            "start_s": start,
            "end_s": start + width,
            "compute_s_per_s": compute / width,
            "memory_s_per_s": memory / width,
        }
        for start, compute, memory in zip(
            cut.start.tolist(), cut.compute.tolist(), cut.memory.tolist(), strict=True
        )
    ]


def _run(policy: str, log: StepLog) -> dict[str, float | str]:
    """`side_by_side`: seconds of work beyond one a second, as a share of the run."""
    seconds = log.end
    compute, memory = (float(log.time(f"{kind}_seconds").sum()) for kind in ("compute", "memory"))
    return {
        "policy": policy,
        "seconds": seconds,
        "compute_s": compute,
        "memory_s": memory,
        "side_by_side": (compute + memory) / seconds - 1.0,
    }
