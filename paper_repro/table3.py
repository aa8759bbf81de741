"""Table 3: the blended order on 1, 2 and 4 data-parallel A100s.

`longest_alone` is what the request that takes longest needs by itself, as a share of the run: no
number of GPUs makes a run shorter. The table `capped` has the same pools with videos cut at 16,384
tokens, where no single request decides when a run ends.
"""

from paper_repro.claims import Verdict, near, read_claims
from paper_repro.lab import Lab
from paper_repro.reading import mean
from paper_repro.runs import told, traces, trials, with_longest
from paper_repro.table import Cell, Table

RANKS = (1, 2, 4)
LONGEST = 16_384  # tokens of a video in the table `capped`


def measure(lab: Lab) -> dict[str, Table]:
    """`ranks` and `capped`: a row a trace and number of ranks."""
    rows: dict[str, list[dict[str, Cell]]] = {"ranks": [], "capped": []}
    for trace in traces(lab, 1):
        pool = lab.pool(trace)
        for name, requests in (("ranks", pool), ("capped", with_longest(pool, LONGEST))):
            for dp in RANKS:
                trial = trials(lab.problem(requests, dp=dp), ("blend",))["blend"]
                first = {"trace": trace, "ranks": dp}
                longest = trial.bounds.longest / trial.row.reported_seconds
                rows[name].append({**told(trial.row, **first), "longest_alone": longest})
    return {name: Table.of(found) for name, found in rows.items()}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Four GPUs' speed-up, and every cell in tokens/s."""
    ranks, capped = tables["ranks"], tables["capped"]
    found, even = _speedups(ranks), _speedups(capped)
    longest = max(row["longest_alone"] for row in ranks.records(ranks=4))
    verdict = near(
        "table3-dp4",
        mean(found.values()),
        f"{min(found.values()):.2f} … {max(found.values()):.2f}×; "
        f"{min(even.values()):.2f} … {max(even.values()):.2f}× with videos of up to {LONGEST:,}",
    )
    words = f"{verdict.words}; the longest request alone takes up to {longest:.0%} of the run"
    return [verdict._replace(words=words), *_rates(ranks)]


def _speedups(table: Table) -> dict[str, float]:
    """By trace, four ranks over one."""
    alone = {row["trace"]: row["seconds"] for row in table.records(ranks=1)}
    return {row["trace"]: alone[row["trace"]] / row["seconds"] for row in table.records(ranks=4)}


def _rates(table: Table) -> list[Verdict]:
    """Tokens/s of one GPU, one claim a trace."""
    claims = read_claims()
    found = []
    for trace in dict.fromkeys(table.column("trace")):
        rates = [row["tokens_per_second"] for row in table.records(trace=trace)]
        claim = f"table3-{trace}"
        value = claims[claim].value
        assert value is not None, claim
        shown = " / ".join(f"{rate:,.0f}" for rate in rates)
        verdict = near(claim, rates[0], f"{shown} ({rates[0] / value:.2f} × the paper's first)")
        found.append(verdict)
    return found
