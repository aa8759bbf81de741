"""§5.4: is a sample of 1 % of the output lengths as good as knowing all?"""

from paper_repro.claims import Verdict, near
from paper_repro.lab import Lab
from paper_repro.parts import Part, take_all
from paper_repro.runs import told, traces, trials
from paper_repro.table import Table

SAMPLES = (0.01, 0.1, 1.0)
MORE = SAMPLES[1]


def parts(lab: Lab) -> list[Part]:
    """A part a trace."""
    return [Part("sec54_sampling", (trace,)) for trace in traces(lab, 1)]


def part(lab: Lab, trace: str) -> Table:
    """A row a share of requests whose output length is sampled."""
    pool = lab.pool(trace)
    rows = []
    for share in SAMPLES:
        row = trials(lab.problem(pool, sample=share), ("blend",))["blend"].row
        rows.append(told(row, trace=trace, sample=share))
    return Table.of(rows)


def measure(lab: Lab) -> dict[str, Table]:
    """`samples`: a row a trace and share."""
    return {"samples": take_all(lab, parts(lab))}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Tokens/s with 1 % over tokens/s with all, the worst of the traces."""
    rows = tables["samples"]
    known = {row["trace"]: row["tokens_per_second"] for row in rows.records(sample=1)}
    found = {
        row["trace"]: row["tokens_per_second"] / known[row["trace"]]
        for row in rows.records(sample=0.01)
    }
    worst = min(found, key=lambda trace: found[trace])
    more = [row["tokens_per_second"] / known[row["trace"]] for row in rows.records(sample=MORE)]
    shown = ", ".join(f"{trace} {ratio:.3f}" for trace, ratio in found.items())
    shown += " of the rate with all lengths known"
    if more:  # which runs more requests before all others
        shown += f"; with {MORE:.0%} sampled {min(more):.3f} … {max(more):.3f}"
    return [near("sec54-sampling", found[worst], shown)]
