"""Figure 9: how much of the prefix sharing that prefix order reaches each order keeps."""

from paper_repro.claims import Verdict, sign
from paper_repro.lab import Lab
from paper_repro.runs import COMMON, compared, joined, traces
from paper_repro.systems import BALANCE, BLEND, DFS, SYSTEMS
from paper_repro.table import Table

MODEL = "llama-3.1-8b"  # the runs of Figure 7a


def measure(lab: Lab) -> dict[str, Table]:
    """`kept`: a row a trace and order, prompt tokens not computed again of all prompt tokens."""
    runs = joined([compared(lab, trace, SYSTEMS, model=MODEL, tp=1) for trace in traces(lab)])
    rows = []
    for run in runs.records(at=COMMON):
        if run["system"] not in (DFS, BALANCE, BLEND):
            continue
        dfs = runs.record(at=COMMON, trace=run["trace"], system=DFS)
        rows.append(
            {
                "trace": run["trace"],
                "system": run["system"],
                "sharing_ratio": run["sharing_ratio"],
                "sharing_optimum": run["sharing_optimum"],
                "kept_of_dfs": run["sharing_ratio"] / dfs["sharing_ratio"],
            }
        )
    return {"kept": Table.of(rows)}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Blend keeps more than 97 % of what DFS shares, random order less than 30 %."""
    kept = tables["kept"]
    blend = [row["kept_of_dfs"] for row in kept.records(system=BLEND)]
    balance = {row["trace"]: row["kept_of_dfs"] for row in kept.records(system=BALANCE)}
    few = [trace for trace, share in balance.items() if share < 0.30]
    shown = f"{min(balance.values()):.1%} … {max(balance.values()):.1%}"
    words = f"below 30 % on {', '.join(few) or 'none'} of {len(balance)} workloads"
    return [
        sign("fig09-blend", min(blend) > 0.97, f"{min(blend):.1%} at least"),
        sign("fig09-balance", len(few) == len(balance), shown, words),
    ]
