"""Figure 4, density ρ over prompt and output length, and where the six traces lie.

By the paper's closed form on peak figures, and by the step model, which charges a prompt's
attention too (the p² term that the paper writes down and then leaves out).
"""

from collections.abc import Iterable

import numpy as np

from blendsim.perf.density import RequestCosts, closed_form, profiled
from blendsim.perf.model import step_model
from blendsim.synth.sources import NAMES
from paper_repro.claims import Verdict, sign
from paper_repro.lab import Lab
from paper_repro.table import Table

LENGTHS = tuple(dict.fromkeys(round(2 ** (k / 2)) for k in range(35)))  # 1 … 131,072 tokens
REQUESTS = 5_000


def measure(lab: Lab) -> dict[str, Table]:
    """`grid`: ρ at every pair of lengths; `traces`: mean lengths and ρ there."""
    settings = lab.settings()
    model = step_model(settings.system, settings.overlap)
    p, d = (axis.ravel() for axis in np.meshgrid(LENGTHS, LENGTHS, indexing="ij"))
    kinds = {
        "closed_form": _ratio(closed_form(settings.system, p, d)),
        "step_model": _ratio(profiled(model, p, d)),
    }
    columns = zip(p.tolist(), d.tolist(), *kinds.values(), strict=True)
    grid = [
        {"prompt": prompt, "output": output, **dict(zip(kinds, ratios, strict=True))}
        for prompt, output, *ratios in columns
    ]
    return {"grid": Table.of(grid), "traces": Table.of(list(_traces(lab)))}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """Longer answers lower ρ at any prompt; OpenVid is on the memory side, the others are not."""
    grid, traces = tables["grid"], tables["traces"]
    shape = (len(LENGTHS), len(LENGTHS))
    rho = np.array(grid.column("closed_form")).reshape(shape)
    falls = bool((np.diff(rho, axis=1) < 0).all())
    border = [
        float(np.exp(np.interp(0.0, -np.log(row), np.log(LENGTHS)))) for row in (rho[0], rho[-1])
    ]
    below = [row["trace"] for row in traces.records() if row["density"] < 1]
    fold = max(border) / min(border)
    shown = (
        f"ρ = 1 at outputs of {max(border):,.0f} tokens for the shortest prompts and "
        f"{min(border):,.0f} for the longest ({fold:.1f}-fold); below 1: {', '.join(below)}"
    )
    return [sign("fig04", falls and below == ["openvid"], shown)]


def _ratio(costs: RequestCosts) -> list[float]:
    with np.errstate(divide="ignore"):
        return (costs.compute / costs.memory).tolist()


def _traces(lab: Lab) -> Iterable[dict[str, float | str]]:
    for name in NAMES:
        pool = lab.source(name, REQUESTS)
        costs = closed_form(lab.settings().system, pool.prompt_len, pool.output_len)
        yield {
            "trace": name,
            "prompt_mean": float(pool.prompt_len.mean()),
            "output_mean": float(pool.output_len.mean()),
            "density": float(costs.compute.sum() / costs.memory.sum()),
        }
