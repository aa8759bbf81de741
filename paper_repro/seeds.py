"""How much of Figure 7's signs is chance, or the order in which sources are listed: its workloads
drawn and sampled anew by other seeds, and with the videos listed first, at 2,048 tokens a step.

Prefix order takes unrelated prompts as they are listed, source by source, and the paper does not
say in which order it listed them. The recipes list the videos last.
"""

from dataclasses import replace

import numpy as np

from blendsim.request import Workload, pool, select
from paper_repro.claims import Verdict, sign
from paper_repro.fig07 import LARGE, LOW, MODELS, SMALL
from paper_repro.lab import Lab
from paper_repro.parts import Part, take_all
from paper_repro.reading import mean, percent, spread
from paper_repro.runs import told, traces, trials
from paper_repro.table import Table

POLICIES = ("dfs", "random", "blend")
SEEDS = (0, 1, 2, 3)
VIDEOS = "openvid"
AS_MADE, FIRST = "videos last", "videos first"  # how sources are listed


def parts(lab: Lab) -> list[Part]:
    """A part a model, trace, seed and listing."""
    small, large = traces(lab, 1), () if lab.quick else traces(lab)
    return [
        *(Part("seeds", (SMALL, trace, seed, AS_MADE)) for trace in small for seed in SEEDS),
        *(Part("seeds", (SMALL, trace, SEEDS[0], FIRST)) for trace in small),
        *(Part("seeds", (LARGE, t, SEEDS[0], each)) for t in large for each in (AS_MADE, FIRST)),
    ]


def part(lab: Lab, model: str, trace: str, seed: int, listing: str) -> Table:
    """A row a policy."""
    lab = replace(lab, seed=lab.seed + seed)
    system = lab.settings(model=model, tp=MODELS[model]).system
    workload = lab.pool(trace, system=system)
    if listing == FIRST:
        workload = with_first(workload, VIDEOS)
    done = trials(lab.problem(workload, model=model, tp=MODELS[model]), POLICIES)
    first = {"model": model, "trace": trace, "seed": seed, "listing": listing}
    return Table.of([told(one.row, **first) for one in done.values()])


def measure(lab: Lab) -> dict[str, Table]:
    """`runs`: a row a model, trace, seed, listing and policy."""
    return {"runs": take_all(lab, parts(lab))}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Who is ahead of prefix order at every seed, and what the listing does to it."""
    runs = tables["runs"]
    return [_flip(runs), _seeds(runs), _listing(runs)]


def with_first(workload: Workload, source: str) -> Workload:
    """The pool with that source listed before the others."""
    names = workload.source_names
    order = sorted(range(len(names)), key=lambda i: names[i] != source)
    return pool([select(workload, np.flatnonzero(workload.source == i)) for i in order])


def gains(runs: Table, policy: str, **where: str | int) -> dict[str, float]:
    """By trace, tokens/s over prefix order's."""
    found = {}
    for row in runs.records(system=policy, **where):
        dfs = runs.record(system="dfs", trace=row["trace"], **where)
        found[row["trace"]] = row["tokens_per_second"] / dfs["tokens_per_second"]
    return found


def _flip(runs: Table) -> Verdict:
    """Prefix order beats random order where much is shared, and loses where little is."""
    of_seed = [gains(runs, "random", model=SMALL, seed=seed, listing=AS_MADE) for seed in SEEDS]
    by_trace = {trace: [found[trace] for found in of_seed] for trace in of_seed[0]}
    right = sum((r > 1) == (t in LOW) for t, found in by_trace.items() for r in found)
    shown = ", ".join(
        f"{t} {percent(min(found))} … {percent(max(found))}" for t, found in by_trace.items()
    )
    count = len(SEEDS) * len(by_trace)
    words = f"as in the paper in {right} of {count} runs of {len(SEEDS)} seeds"
    return sign("fig07-flip", right == count, f"Balance over DFS: {shown}", words)


def _seeds(runs: Table) -> Verdict:
    means = [
        mean(gains(runs, "blend", model=SMALL, seed=seed, listing=AS_MADE).values())
        for seed in SEEDS
    ]
    each = ", ".join(percent(found) for found in means)
    return Verdict("fig07-seeds", f"means of four workloads by seed: {each}", None, "not a claim")


def _listing(runs: Table) -> Verdict:
    shown, behind = [], []
    for model, name in ((SMALL, "8B"), (LARGE, "70B")):
        last, first = (
            gains(runs, "blend", model=model, seed=SEEDS[0], listing=each)
            for each in (AS_MADE, FIRST)
        )
        if first:
            ranges = (spread([*found.values()]) for found in (first, last))
            shown.append(f"{name} {', for '.join(ranges)} with videos last")
        behind += [f"{trace}, {name}" for trace, ratio in first.items() if ratio <= 1]
    words = f"blended is behind on {'; '.join(behind)}" if behind else "blended is ahead in all"
    return Verdict("fig07-listing", "; ".join(shown), None, words)
