"""Tables of a batch that `blendsim run` answered on a GPU (gpu_run.py): whether the answers are the
model's, and what its steps took beside the price of their kernels.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from evidence_runs import Run
from machine import row
from numpy.typing import NDArray

from blendsim.arrays import Floats
from blendsim.perf.calibrating import fit_steps, priced_run
from blendsim.perf.measured import chosen_model
from blendsim.perf.model import StepModel
from blendsim.perf.pricing import price_steps
from blendsim.perf.step import step_costs
from blendsim.serving.flavour import BLENDRT
from blendsim.specs import ModelSpec, find_gpu
from blendsim.steplog import StepLog, read_steplog, write_steplog
from blendsim.system import System

ANSWERS = "answers"  # the folder in a run's
FOUND, STEPS = "found.json", "steps.parquet"  # as gpu_run.py calls them
FULL = 2_000  # tokens of a step, prompts' and decodes'
_EDGES = (1, 33, 65, 129, 257, 1 << 20)  # decodes of a step


def answer_tables(runs: list[Run]) -> dict[str, list[str]]:
    """The tables of the last run that has them, by name; none where no run has."""
    for run in reversed(runs):
        if (place := run.place / ANSWERS).is_dir():
            found = json.loads((place / FOUND).read_text())
            log = read_steplog(place / STEPS)
            return {"answers": list(_answers(found)), "answer-steps": list(_steps(log))}
    return {}


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Of what gpu_run.py wrote: all but where files lay on that machine."""
    told = {key: value for key, value in found["run"].items() if key not in ("results", "model")}
    return {**found, "run": told}


def _answers(found: dict[str, Any]) -> Iterator[str]:
    head = ("requests", "answered", "as long as asked", "tokens held against float32")
    head += ("of them its best", "at most below its best, deviations of the logits")
    ran = found["run"]
    more = ("planned part, s", "by prediction, s")
    yield row(*head, *more)
    yield row(*["---"] * (len(head) + len(more)))
    yield row(
        *(f"{found[key]:,}" for key in ("requests", "answered", "as_long_as_asked")),
        f"{found['checked_tokens']:,}",
        f"{found['best']:.1%}",
        f"{found['most_below_best_deviations']:.2f}",
        f"{ran['rest_seconds']:.2f}",
        f"{ran['predicted_seconds']:.2f}",
    )


def priced(log: StepLog) -> Floats:
    """Seconds of every step by the kernels that its plan was made by. The model's directory is
    gone; what it was stands in the log.
    """
    return price_steps(step_costs(_model(log), False, False, 1), log.counts)


def _model(log: StepLog) -> StepModel:
    settings = log.meta["settings"]
    system = System(ModelSpec(**log.meta["model_spec"]), find_gpu(settings["gpu"]))
    return chosen_model(system, settings["overlap"], settings["profile"])


def calibrated(log: StepLog) -> Floats:
    """Seconds of every step, calibrated by this very run."""
    model = _model(log)
    own = fit_steps(BLENDRT, [priced_run(log, model)])
    return price_steps(step_costs(replace(model, calibration=own), False, False, 1), log.counts)


def _steps(log: StepLog) -> Iterator[str]:
    """By what is in them: medians, and all of their seconds."""
    what = ("on the device", "start to start", "by kernels", "calibrated by them")
    head = ("steps", "how many", *(f"{one}, ms" for one in what), *(f"{one}, s" for one in what))
    yield row(*head)
    yield row(*["---"] * len(head))
    found = (log.time("seconds"), log.paces, priced(log), calibrated(log))
    for name, here in _kinds(log):
        each = [times[here] for times in found]
        middles = (f"{1e3 * np.median(times):.1f}" for times in each)
        sums = (f"{times.sum():.2f}" for times in each)
        yield row(name, f"{here.sum():,}", *middles, *sums)


def _kinds(log: StepLog) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    prompts, decodes = log.count("prefill_tokens"), log.count("decode_requests")
    yield "all", np.ones(len(log), np.bool_)
    yield f"{FULL:,} tokens and more", prompts + decodes >= FULL
    for low, behind in pairwise(_EDGES):
        here = (prompts == 0) & (decodes >= low) & (decodes < behind)
        name = f"{low} to {behind - 1}" if behind < _EDGES[-1] else f"{low} and more"
        if here.any():
            yield f"{name} decodes alone", here


def keep_answers(source: Path, target: Path) -> None:
    """Put what gpu_run.py found and its step log into a folder of the run's."""
    place = target / ANSWERS
    place.mkdir()
    found = json.loads((source / FOUND).read_text())
    (place / FOUND).write_text(json.dumps(summary(found), indent=1) + "\n")
    write_steplog(without_folders(read_steplog(source / STEPS)), place / STEPS)


def without_folders(log: StepLog) -> StepLog:
    """The log with the names alone of the files that its meta tells of: pools, a batch, a model."""
    meta = dict(log.meta)
    if "batch" in meta:
        meta["batch"] = Path(meta["batch"]).name
        meta["settings"] = {**meta["settings"], "model": Path(meta["settings"]["model"]).name}
    if meta.get("source"):
        traces = [Path(trace).name for trace in meta["source"]["traces"]]
        meta["source"] = {**meta["source"], "traces": traces}
    return replace(log, meta=meta)
