"""The H200 edition: the requests of Figure 7's workloads on one H200, and on eight for 70B, at the
common 2,048 tokens a step.

The pools are those of the A100, request by request; on the H200 they are less dense, since its
memory is faster by more than its GEMMs are.
"""

from dataclasses import replace

from paper_repro.claims import Verdict, sign
from paper_repro.fig07 import MODELS, SMALL
from paper_repro.lab import Lab
from paper_repro.reading import mean, shares, speedups, spread
from paper_repro.runs import compared_on, joined, traces
from paper_repro.systems import BLEND, DFS, SYSTEMS
from paper_repro.table import Table

GPU = "h200"


def measure(lab: Lab) -> dict[str, Table]:
    """`runs`: a row a model, trace and system."""
    new = replace(lab, gpu=GPU)
    parts = []
    for model, tp in list(MODELS.items())[: 1 if lab.quick else None]:
        system = lab.settings(model=model, tp=tp).system
        for trace in traces(lab, 1):
            pool = lab.pool(trace, system=system)
            done = compared_on(new, pool, SYSTEMS, trace, own_best=False, model=model, tp=tp)
            parts.append(joined([done], model=model))
    return {"runs": joined(parts)}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Blending over prefix order on today's hardware, and how near to the optimum it is."""
    runs = tables["runs"]
    found = []
    for model in dict.fromkeys(runs.column("model")):
        gains = speedups(runs, BLEND, DFS, model=model)
        shown = f"{spread([*gains.values()])} at 2,048"
        near_optimum = mean(shares(runs, BLEND, model=model).values())
        claim = "h200-8b" if model == SMALL else "h200-70b"
        words = f"{near_optimum:.1%} of the optimum; the paper has no H200"
        found.append(sign(claim, min(gains.values()) > 1, shown, words))
    return found
