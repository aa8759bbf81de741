"""What the differences from the paper come from: one thing changed at a time, on two workloads of
the 8B model and, for what may differ there, on one of the 70B.

Blended and prefix order, and paced steps, at 2,048 tokens a step unless that is what changes.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from blendsim.arrays import Floats
from blendsim.perf.model import StepModel
from blendsim.request import Workload
from blendsim.search import Problem
from paper_repro.claims import Verdict
from paper_repro.fig07 import LARGE, MODELS, SMALL
from paper_repro.lab import Lab
from paper_repro.parts import Part, take_all
from paper_repro.runs import told, traces, trials, with_longest
from paper_repro.systems import ORDERS
from paper_repro.table import Table

#: The paper's Table 1: measured seconds of one layer's GEMMs by tokens of the batch.
PAPERS_GEMMS = {512: 1.087e-3, 768: 1.537e-3, 1_024: 2.005e-3}
KV_BYTES = 60_000_000_000  # the paper's Figure 6
LONGEST = 16_384  # tokens of a video


class Scene(NamedTuple):
    """A model on its GPUs, and one of the workloads."""

    model: str
    tp: int
    trace: str


Change = Callable[[Lab, Scene], Problem]


def parts(lab: Lab) -> list[Part]:
    """A part a scene and change."""
    small = [(SMALL, trace, name) for trace in traces(lab, 1)[:2] for name in ON_8B]
    large = [(LARGE, "trace1", name) for name in ON_70B]
    return [Part("whatif", of) for of in (small[:2] if lab.quick else small + large)]


def part(lab: Lab, model: str, trace: str, name: str) -> Table:
    """A row a policy."""
    scene = Scene(model, MODELS[model], trace)
    done = trials(CHANGES[name](lab, scene), ORDERS)
    dfs = done["dfs"].row.tokens_per_second
    return Table.of(
        [
            {
                **told(one.row, model=model, trace=trace, change=name),
                "over_dfs": one.row.tokens_per_second / dfs,
            }
            for one in done.values()
        ]
    )


def measure(lab: Lab) -> dict[str, Table]:
    """`changes`: a row a model, trace, change and policy."""
    return {"changes": take_all(lab, parts(lab))}


def verdicts(tables: dict[str, Table]) -> list[Verdict]:
    """No claim of the paper: a table in the README shows what each change does."""
    count = len(set(tables["changes"].column("change")))
    return [Verdict("whatif", f"{count} changes", None, "in the table below")]


def _pool(lab: Lab, scene: Scene) -> Workload:
    system = lab.settings(model=scene.model, tp=scene.tp).system
    return lab.pool(scene.trace, system=system)


def _problem(lab: Lab, scene: Scene, pool: Workload, **changes: Any) -> Problem:
    return lab.problem(pool, model=scene.model, tp=scene.tp, **changes)


def _set(**changes: Any) -> Change:
    return lambda lab, scene: _problem(lab, scene, _pool(lab, scene), **changes)


def _model(change: Callable[[StepModel], StepModel], **changes: Any) -> Change:
    def make(lab: Lab, scene: Scene) -> Problem:
        problem = _problem(lab, scene, _pool(lab, scene), **changes)
        return problem._replace(model=change(problem.model))

    return make


def _another_seed(lab: Lab, scene: Scene) -> Problem:
    other = replace(lab, seed=lab.seed + 1)
    return _problem(other, scene, _pool(other, scene))


def _short_videos(lab: Lab, scene: Scene) -> Problem:
    return _problem(lab, scene, with_longest(_pool(lab, scene), LONGEST))


def _requests_of_8b(lab: Lab, scene: Scene) -> Problem:
    return _problem(lab, scene, lab.pool(scene.trace))


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
    system = model.system
    least = 2.0 * system.model.parameters / system.gpu.bandwidth / system.tp
    flat = np.maximum(n * model.best_layer_seconds_per_token, least)
    flat[0] = 0.0
    return _with_layers(model, flat)


def _with_layers(model: StepModel, layers: Floats) -> StepModel:
    network = model.tables.layers_with_network - model.tables.layers
    tables = model.tables._replace(layers=layers, layers_with_network=layers + network)
    best = float((layers[1:] / np.arange(1, len(layers))).min())
    return replace(model, tables=tables, best_layer_seconds_per_token=best)


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
    "the requests of the 8B model": _requests_of_8b,
}
ON_8B = tuple(CHANGES)[:-1]
ON_70B = (
    "as it is",
    "lengths known",
    "videos of at most 16,384 tokens",
    "overlap: perfect (max)",
    "the requests of the 8B model",
)
