"""Table 3: the blended order on 1, 2 and 4 data-parallel A100s.

`longest_alone` is what the request that takes longest needs by itself, as a share of the run: no
number of GPUs makes a run shorter. The table `capped` has the same pools with videos cut at 16,384
tokens, where no single request decides when a run ends.
"""

from paper_repro.claims import Verdict, near, read_claims
from paper_repro.lab import Lab
from paper_repro.parts import Part, take_all
from paper_repro.reading import mean, noting_ours
from paper_repro.runs import told, traces, trials, with_longest
from paper_repro.systems import PACED
from paper_repro.table import Cell, Table

RANKS = (1, 2, 4)
POLICIES = ("blend", "paced")
CAPPED = "capped"
TABLES = ("ranks", CAPPED)
LONGEST = 16_384  # tokens of a video in the table `capped`


def parts(lab: Lab) -> list[Part]:
    """A part a table and trace."""
    return [Part("table3", (name, trace)) for name in TABLES for trace in traces(lab, 1)]


def part(lab: Lab, table: str, trace: str) -> Table:
    """A row a policy and number of ranks."""
    pool = lab.pool(trace)
    if table == CAPPED:
        pool = with_longest(pool, LONGEST)
    rows: list[dict[str, Cell]] = []
    for dp in RANKS:
        done = trials(lab.problem(pool, dp=dp), POLICIES)
        for one in done.values():
            longest = one.bounds.longest / one.row.reported_seconds
            first = {"trace": trace, "ranks": dp}
            rows.append({**told(one.row, **first), "longest_alone": longest})
    return Table.of(rows)


def measure(lab: Lab) -> dict[str, Table]:
    """`ranks` and `capped`: a row a trace, number of ranks and policy."""
    found = parts(lab)
    return {name: take_all(lab, [p for p in found if p.of[0] == name]) for name in TABLES}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Four GPUs' speed-up, and every cell in tokens/s."""
    ranks, capped = tables["ranks"], tables["capped"]
    found, even = _speedups(ranks), _speedups(capped)
    longest = max(row["longest_alone"] for row in ranks.records(ranks=4, system="blend"))
    verdict = near(
        "table3-dp4",
        mean(found.values()),
        f"{min(found.values()):.2f} … {max(found.values()):.2f}×; "
        f"{min(even.values()):.2f} … {max(even.values()):.2f}× with videos of up to {LONGEST:,}",
    )
    words = f"{verdict.words}; the longest request alone takes up to {longest:.0%} of the run"
    ours = _speedups(ranks, "paced")
    shown = f"{min(ours.values()):.2f} … {max(ours.values()):.2f}×" if ours else "not measured"
    return [noting_ours(verdict._replace(words=words), {PACED: shown}), *_rates(ranks)]


def _speedups(table: Table, policy: str = "blend") -> dict[str, float]:
    """By trace, four ranks over one."""
    rows = table.records(system=policy)
    seconds = {(row["trace"], row["ranks"]): row["seconds"] for row in rows}
    traces_ = dict.fromkeys(trace for trace, _ in seconds)
    return {trace: seconds[trace, 1] / seconds[trace, 4] for trace in traces_}


def _rates(table: Table) -> list[Verdict]:
    """Tokens/s of one GPU, one claim a trace."""
    claims = read_claims()
    found = []
    for trace in dict.fromkeys(table.column("trace")):
        rates = [row["tokens_per_second"] for row in table.records(trace=trace, system="blend")]
        claim = f"table3-{trace}"
        value = claims[claim].value
        assert value is not None, claim
        shown = " / ".join(f"{rate:,.0f}" for rate in rates)
        verdict = near(claim, rates[0], f"{shown} ({rates[0] / value:.2f} × the paper's first)")
        found.append(verdict)
    return found
