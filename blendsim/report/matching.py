"""Matching: which rows of two step logs are the same step of the same schedule."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from blendsim.arrays import Ints
from blendsim.errors import InputError, PlanMismatch
from blendsim.specs import gpu_name
from blendsim.steplog import COUNTS, MEASURED_ROWS, NOT_COUNTED, StepLog

_NOT_THE_SAME = (
    "not the same schedule; simulate and replay one plan with one engine and token budget"
)


def require_same_plan(
    simulated: Mapping[str, Any], measured: Mapping[str, Any], names: tuple[str, str]
) -> list[str]:
    """PlanMismatch if the two name different plans; a note if one names none."""
    plans = [str(meta.get("plan_sha256", "")) for meta in (simulated, measured)]
    if "" in plans:
        name = names[plans.index("")]
        return [f"{name} does not name its plan; the counts say that the schedule is the same"]
    if plans[0] != plans[1]:
        raise PlanMismatch(
            f"{names[0]} is of plan {plans[0][:12]}, {names[1]} of plan {plans[1][:12]}; "
            "simulate and replay the same plan file"
        )
    return []


def differing_machines(simulated: Mapping[str, Any], measured: Mapping[str, Any]) -> list[str]:
    """Notes where another model or GPU was measured than simulated: the steps are the same, their
    times answer another question.
    """
    settings = simulated.get("settings") or {}
    model, gpu = str(settings.get("model", "")), str(settings.get("gpu", ""))
    ran, device = str(measured.get("model", "")), (measured.get("machine") or {}).get("device", "")
    notes = []
    if model and ran and ran != Path(model).name:  # a directory's model is called by its last part
        notes.append(f"the model simulated is {model}, {ran} was measured")
    is_described = bool(settings.get("gpu_spec"))  # by a file: no device is that GPU
    if gpu and device and (is_described or gpu_name(device) != gpu):
        notes.append(f"the GPU simulated is {gpu}, {device} was measured")
    return notes


def differing_replays(
    first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, str]
) -> list[str]:
    """Notes where both logs are measured, the first in place of a simulated one: that it is, and
    what else they ran.
    """
    notes = [f"{names[0]} was measured, too: seconds called simulated are what it took"]
    models = [str(meta.get("model", "")) for meta in (first, second)]
    devices = [str((meta.get("machine") or {}).get("device", "")) for meta in (first, second)]
    for one, other in (models, devices):
        if one and other and one != other:
            notes.append(f"{names[0]} ran {one}, {names[1]} {other}")
    if MEASURED_ROWS in first:
        notes.append(
            f"{names[0]} is a sampled replay, whose other steps are estimates; name it second"
        )
    return notes


def matching_rows(simulated: StepLog, measured: StepLog, names: tuple[str, str]) -> Ints:
    """(steps, 3): the row in either log, and which step of its replica it is. Every measured row
    has its simulated one, with the same counts.
    """
    for log, name in zip((simulated, measured), names, strict=True):
        if len(log) == 0:
            raise InputError(f"{name}: holds no steps; run it again")
    parts = []
    for replica in np.unique(measured.replica).tolist():
        rows = np.flatnonzero(simulated.replica == replica)
        found = np.flatnonzero(measured.replica == replica)
        both = min(len(rows), len(found))
        parts.append(np.column_stack([rows[:both], found[:both], np.arange(both)]))
        _require_same_counts(simulated, measured, parts[-1], names)
        if len(found) > len(rows):
            raise InputError(
                f"{names[1]}: replica {replica} has {len(found):,} steps, {len(rows):,} in "
                f"{names[0]}: {_NOT_THE_SAME}"
            )
    return np.concatenate(parts)


def _require_same_counts(
    simulated: StepLog, measured: StepLog, pairs: Ints, names: tuple[str, str]
) -> None:
    left, right = simulated.counts[pairs[:, 0]], measured.counts[pairs[:, 1]]
    differs = left != right
    differs[:, np.isin(COUNTS, measured.meta.get(NOT_COUNTED, []))] = False
    if differs.any():
        row = int(np.argmax(differs.any(axis=1)))
        column = int(np.argmax(differs[row]))
        raise InputError(
            f"{names[1]}: step {pairs[row, 2]:,} has {COUNTS[column]} = {right[row, column]:,}, "
            f"{left[row, column]:,} in {names[0]}: {_NOT_THE_SAME}"
        )
