"""Figure 7: every system on the four workloads, Llama-3.1-8B on one A100 and 70B on eight.

Runs are at the common 2,048 tokens a step and at each system's own best budget. Each workload has
the recipe's density on the system it runs on.
"""

from collections.abc import Sequence

from paper_repro.claims import Verdict, near, sign
from paper_repro.lab import Lab
from paper_repro.parts import Part, take_all
from paper_repro.reading import mean, shares, speedups, spread, with_ours
from paper_repro.runs import COMMON, OWN, compared, joined, traces
from paper_repro.systems import BALANCE, BEYOND, BLEND, DFS, SGLANG, SYSTEMS, VLLM
from paper_repro.table import Table

MODELS = {"llama-3.1-8b": 1, "llama-3.1-70b": 8}  # and the GPUs each is spread over
SMALL, LARGE = MODELS
HIGH, LOW = ("trace1", "trace2"), ("trace3", "trace4")  # prefix sharing


def parts(lab: Lab, models: Sequence[str] = tuple(MODELS)) -> list[Part]:
    """A part a model and trace."""
    return [
        Part("fig07", (model, trace))
        for model in models
        for trace in traces(lab, 2 if model == SMALL else 1)
    ]


def part(lab: Lab, model: str, trace: str) -> Table:
    """A row a system and budget."""
    return joined([compared(lab, trace, SYSTEMS, model=model, tp=MODELS[model])], model=model)


def measure(lab: Lab) -> dict[str, Table]:
    """`runs`: a row a model, trace, system and budget."""
    return {"runs": take_all(lab, parts(lab))}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Who is ahead, by how much, and how near to the optimum."""
    runs = tables["runs"]
    small = speedups(runs, BLEND, DFS, model=SMALL)
    large = speedups(runs, BLEND, DFS, model=LARGE)
    return [
        _gain(runs, "fig07-8b-dfs", SMALL, small),
        _gain(runs, "fig07-70b-dfs", LARGE, large),
        _most(runs, "fig07-8b-vllm", VLLM),
        _most(runs, "fig07-8b-sglang", SGLANG),
        _over_balance(runs),
        _share(runs, "fig07-8b-optimum", SMALL, BLEND),
        _share(runs, "fig07-70b-optimum", LARGE, BLEND),
        _share(runs, "fig07-8b-dfs-optimum", SMALL, DFS),
        _first(runs, "fig07-first", COMMON),
        *([_first(runs, "fig07-first-own", OWN)] if runs.records(at=OWN) else []),
    ]


def _gain(runs: Table, claim: str, model: str, found: dict[str, float]) -> Verdict:
    shown = f"{spread([*found.values()])} at 2,048"
    own = speedups(runs, BLEND, DFS, OWN, model=model)
    if own:
        shown += f"; {spread([*own.values()])} at own best"
    return with_ours(near(claim, mean(found.values()), shown), runs, model=model)


def _most(runs: Table, claim: str, rival: str) -> Verdict:
    found = speedups(runs, BLEND, rival, model=SMALL)
    best = max(found, key=lambda trace: found[trace])
    shown = f"{found[best]:.2f}× on {best} at 2,048"
    if own := speedups(runs, BLEND, rival, OWN, model=SMALL):
        shown += f"; {max(own.values()):.2f}× at own best"
    return near(claim, found[best], shown)


def _over_balance(runs: Table) -> Verdict:
    found = speedups(runs, BLEND, BALANCE, model=SMALL)
    ours = mean(found[trace] for trace in HIGH if trace in found)
    shown = f"{ours:.2f}× at 2,048"
    if own := speedups(runs, BLEND, BALANCE, OWN, model=SMALL):
        shown += f"; {mean(own[trace] for trace in HIGH if trace in own):.2f}× at own best"
    return near("fig07-8b-balance", ours, shown)


def _share(runs: Table, claim: str, model: str, system: str) -> Verdict:
    found = mean(shares(runs, system, model=model).values())
    shown = f"{found:.1%} at 2,048"
    if own := shares(runs, system, OWN, model=model):
        shown += f"; {mean(own.values()):.1%} at own best"
    return near(claim, found, shown)


def _first(runs: Table, claim: str, at: str) -> Verdict:
    """Blending is ahead of every baseline everywhere."""
    lost, count = [], 0
    for row in runs.records(at=at):
        if row["system"] in (BLEND, *BEYOND):
            continue
        ours = runs.record(at=at, system=BLEND, model=row["model"], trace=row["trace"])
        count += 1
        if ours["tokens_per_second"] <= row["tokens_per_second"]:
            lost.append(f"{row['system']} on {row['trace']}, {row['model']}")
    words = f"behind {'; '.join(lost)}" if lost else "ahead in all comparisons"
    return sign(claim, not lost, f"{count - len(lost)} of {count} comparisons won", words)
