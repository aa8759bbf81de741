"""What the differences from the paper come from: one thing changed at a time, on two workloads.

Blended, prefix and random order at 2,048 tokens a step unless that is what changes.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from blendsim.perf.model import StepModel
from blendsim.search import Problem
from paper_repro.claims import Verdict
from paper_repro.lab import Lab
from paper_repro.runs import told, traces, trials, with_longest
from paper_repro.table import Cell, Table

POLICIES = ("dfs", "random", "blend")
#: The paper's Table 1: measured seconds of one layer's GEMMs by tokens of the batch.
PAPERS_GEMMS = {512: 1.087e-3, 768: 1.537e-3, 1_024: 2.005e-3}
KV_BYTES = 60_000_000_000  # the paper's Figure 6
LONGEST = 16_384  # tokens of a video
Change = Callable[[Lab, str], Problem]


def measure(lab: Lab) -> dict[str, Table]:
    """`changes`: a row a trace, change and policy."""
    rows: list[dict[str, Cell]] = []
    names = ("as it is", "lengths known") if lab.quick else tuple(CHANGES)
    for trace in traces(lab, 1)[:2]:
        for name in names:
            done = trials(CHANGES[name](lab, trace), POLICIES)
            dfs = done["dfs"].row.tokens_per_second
            rows += [
                {**told(one.row, trace=trace, change=name),
                 "over_dfs": one.row.tokens_per_second / dfs}
                for one in done.values()
            ]  # fmt: skip
    return {"changes": Table.of(rows)}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """No claim of the paper: a table in the README shows what each change does."""
    count = len(set(tables["changes"].column("change")))
    return [Verdict("whatif", f"{count} changes", None, "in the table below")]


def _set(**changes: object) -> Change:
    return lambda lab, trace: lab.problem(lab.pool(trace), **changes)


def _model(change: Callable[[StepModel], StepModel], **changes: object) -> Change:
    def make(lab: Lab, trace: str) -> Problem:
        problem = lab.problem(lab.pool(trace), **changes)
        return problem._replace(model=change(problem.model))

    return make


def _another_seed(lab: Lab, trace: str) -> Problem:
    other = replace(lab, seed=lab.seed + 1)
    return other.problem(other.pool(trace))


def _short_videos(lab: Lab, trace: str) -> Problem:
    return lab.problem(with_longest(lab.pool(trace), LONGEST))


def _papers_gemms(model: StepModel) -> StepModel:
    """Every step's dense part slower by as much as the paper's A100 is at its three batches, the
    bounds' rates too.
    """
    layers = model.tables.layers
    slower = [
        seconds * model.system.model.layers / layers[tokens]
        for tokens, seconds in PAPERS_GEMMS.items()
    ]
    return _with_layers(model, layers * float(np.mean(slower)))


def _even_gemms(model: StepModel) -> StepModel:
    """Every step size computes at the best size's rate, down to streaming the weights once."""
    n = np.arange(len(model.tables.layers))
    least = 2.0 * model.system.model.parameters / model.system.gpu.bandwidth / model.system.tp
    flat = np.maximum(n * model.best_layer_seconds_per_token, least)
    flat[0] = 0.0
    return _with_layers(model, flat)


def _with_layers(model: StepModel, layers: np.ndarray) -> StepModel:
    network = model.tables.layers_with_network - model.tables.layers
    tables = model.tables._replace(layers=layers, layers_with_network=layers + network)
    n = np.arange(1, len(layers))
    return replace(model, tables=tables, best_layer_seconds_per_token=float((layers[1:] / n).min()))


CHANGES: dict[str, Change] = {
    "as it is": _set(),
    "lengths known": _set(sample=1.0),
    "another seed": _another_seed,
    "videos of at most 16,384 tokens": _short_videos,
    "512 tokens a step": _set(token_budget=512),
    "1,024 tokens a step": _set(token_budget=1_024),
    "4,096 tokens a step": _set(token_budget=4_096),
    "KV memory of 60 GB": _set(kv_bytes=KV_BYTES),
    "overlap: perfect (max)": _set(overlap="max"),
    "overlap: none (sum)": _set(overlap="sum"),
    "two nano-batches": _set(nano_batches=2),
    "GEMMs as slow as in Table 1": _model(_papers_gemms),
    "the same in two nano-batches": _model(_papers_gemms, nano_batches=2),
    "GEMMs as efficient at every size": _model(_even_gemms),
}
