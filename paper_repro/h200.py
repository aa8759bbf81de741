"""The H200 edition: the requests of Figure 7's workloads on one H200, and on eight for 70B, at the
common 2,048 tokens a step.

The pools are those of the A100, request by request; on the H200 they are less dense, since its
memory is faster by more than its GEMMs are.
"""

from dataclasses import replace

from paper_repro.claims import Verdict
from paper_repro.fig07 import MODELS, SMALL
from paper_repro.lab import Lab
from paper_repro.parts import Part, take_all
from paper_repro.reading import mean, shares, speedups, spread, with_ours
from paper_repro.runs import compared_on, joined, traces
from paper_repro.systems import BLEND, DFS, SYSTEMS
from paper_repro.table import Table

GPU = "h200"


def parts(lab: Lab) -> list[Part]:
    """A part a model and trace."""
    models = (SMALL,) if lab.quick else MODELS
    return [Part("h200", (model, trace)) for model in models for trace in traces(lab, 1)]


def part(lab: Lab, model: str, trace: str) -> Table:
    """A row a system."""
    on = {"model": model, "tp": MODELS[model]}
    pool = lab.pool(trace, system=lab.settings(**on).system)
    done = compared_on(replace(lab, gpu=GPU), pool, SYSTEMS, trace, own_best=False, **on)
    return joined([done], model=model)


def measure(lab: Lab) -> dict[str, Table]:
    """`runs`: a row a model, trace and system."""
    return {"runs": take_all(lab, parts(lab))}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Blending over prefix order on today's hardware, and how near to the optimum it is."""
    runs = tables["runs"]
    found = []
    for model in dict.fromkeys(runs.column("model")):
        gains = speedups(runs, BLEND, DFS, model=model)
        shown = f"{spread([*gains.values()])} at 2,048"
        near_optimum = mean(shares(runs, BLEND, model=model).values())
        claim = "h200-8b" if model == SMALL else "h200-70b"
        words = f"not a claim, the paper has no H200; {near_optimum:.1%} of the optimum"
        found.append(with_ours(Verdict(claim, shown, None, words), runs, model=model))
    return found
