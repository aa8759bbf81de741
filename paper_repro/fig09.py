"""Figure 9: how much of the prefix sharing that prefix order reaches each order keeps."""

from paper_repro.claims import Verdict, sign
from paper_repro.fig07 import SMALL
from paper_repro.fig07 import parts as fig07_parts
from paper_repro.lab import Lab
from paper_repro.parts import Part, take_all
from paper_repro.runs import COMMON
from paper_repro.systems import BALANCE, BEYOND, BLEND, DFS
from paper_repro.table import Table

SHOWN = (DFS, BALANCE, BLEND, *BEYOND)


def parts(lab: Lab) -> list[Part]:
    """The runs of Figure 7a."""
    return fig07_parts(lab, (SMALL,))


def measure(lab: Lab) -> dict[str, Table]:
    """`kept`: a row a trace and order, prompt tokens not computed again of all prompt tokens."""
    runs = take_all(lab, parts(lab))
    rows = []
    for run in runs.records(at=COMMON):
        if run["system"] not in SHOWN:
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
