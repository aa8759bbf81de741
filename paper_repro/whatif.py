"""What the differences from the paper come from: one thing changed at a time, on two workloads.

Blended, prefix and random order at 2,048 tokens a step unless that is what changes.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from blendsim.perf.model import StepModel
from blendsim.request import Workload
from blendsim.search import Problem
from paper_repro.claims import Verdict
from paper_repro.lab import Lab
from paper_repro.runs import told, traces, trials, with_longest
from paper_repro.table import Cell, Table

POLICIES = ("dfs", "random", "blend")
SLOWER_GEMM = 1.08  # the paper's Table 1 against our profile at batch 512
KV_BYTES = 60_000_000_000  # the paper's Figure 6
LONGEST = 16_384  # tokens of a video
Change = Callable[[Lab, Workload], Problem]


def measure(lab: Lab) -> dict[str, Table]:
    """`changes`: a row a trace, change and policy."""
    rows: list[dict[str, Cell]] = []
    names = ("as it is", "lengths known") if lab.quick else tuple(CHANGES)
    for trace in traces(lab, 1)[:2]:
        pool = lab.pool(trace)
        for name in names:
            done = trials(CHANGES[name](lab, pool), POLICIES)
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
    return lambda lab, pool: lab.problem(pool, **changes)


def _model(change: Callable[[StepModel], StepModel]) -> Change:
    def make(lab: Lab, pool: Workload) -> Problem:
        problem = lab.problem(pool)
        return problem._replace(model=change(problem.model))

    return make


def _slower_gemms(model: StepModel) -> StepModel:
    """Every step's dense part takes SLOWER_GEMM times as long, the bounds' rates too."""
    return _with_layers(model, model.tables.layers * SLOWER_GEMM)


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
    "videos of at most 16,384 tokens": lambda lab, pool: lab.problem(with_longest(pool, LONGEST)),
    "512 tokens a step": _set(token_budget=512),
    "1,024 tokens a step": _set(token_budget=1_024),
    "4,096 tokens a step": _set(token_budget=4_096),
    "KV memory of 60 GB": _set(kv_bytes=KV_BYTES),
    "overlap: perfect (max)": _set(overlap="max"),
    "overlap: none (sum)": _set(overlap="sum"),
    "two nano-batches": _set(nano_batches=2),
    "GEMMs 8 % slower": _model(_slower_gemms),
    "GEMMs as efficient at every size": _model(_even_gemms),
}
