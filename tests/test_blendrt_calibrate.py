"""From the overlapped executor by its log to a calibration: steps cut in two are no part of it."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from replay_worlds import job_of, planned
from typer.testing import CliRunner

from blendrt.config import TINY
from blendrt.executor.rule import OverlapRule
from blendrt.loading import ModelChoice, Runtime, load_decoder
from blendrt.replay.full import FullReplay
from blendsim.cli.app import app
from blendsim.perf.calibrating import LEAST_STEPS, kernel_seconds
from blendsim.perf.calibration import Calibration
from blendsim.steplog import HALVED, TIMES, StepLog, write_steplog

CUT = 0.02  # that steps take longer for it
RIGHT = Calibration("blendrt", 0.9, 2e-4, 0.05, 5e-4)


@pytest.fixture(scope="module")
def log() -> StepLog:
    """A replay on the CPU of which some steps were cut, with times of a GPU: those of `RIGHT`,
    and longer where a step was cut.
    """
    problem, plan = planned("blend", "nanoflow")
    decoder = load_decoder(ModelChoice(TINY, None), 0, torch.device("cpu"))
    rule = OverlapRule(least_tokens=90, least_decodes=8)
    replay = FullReplay(job_of(problem, plan))
    replay.measure(Runtime(decoder, "overlap", rule=rule))
    ran = replay.log(
        {
            "runtime": "blendrt",
            "executor": "overlap",
            "model": "llama-3.1-8b",
            "machine": {"device": "NVIDIA A100-SXM4-80GB"},
            "settings": asdict(problem.settings),
        }
    )
    work = kernel_seconds(ran.counts, problem.model)
    mixed = work.is_mixed
    times = ran.times.copy()
    seconds = RIGHT.seconds(work) * (1.0 + CUT * ran.is_halved)
    # Without a pause between steps, as a busy CPU has them.
    times[:, TIMES.index("seconds")] = seconds
    times[:, TIMES.index("start")] = np.cumsum(seconds) - seconds
    for kind in (mixed, ~mixed):
        assert (kind & ~ran.is_halved).sum() >= LEAST_STEPS
    assert ran.is_halved.sum() >= LEAST_STEPS / 10
    return replace(ran, times=times)


def calibrate(log: StepLog, folder: Path) -> dict[str, Any]:
    write_steplog(log, folder / "steps.parquet")
    told = CliRunner().invoke(
        app,
        [
            *("profile", "calibrate", str(folder / "steps.parquet")),
            *("-o", str(folder / "profile"), "--json"),
        ],
    )
    assert told.exit_code == 0, told.output
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def of(found: dict[str, Any]) -> tuple[float, ...]:
    return tuple(
        found[name] for name in ("reads", "step_seconds", "mixed_reads", "mixed_step_seconds")
    )


def test_steps_that_the_executor_cut_are_left_out(log: StepLog, tmp_path: Path) -> None:
    found = calibrate(log, tmp_path)
    assert of(found) == pytest.approx(RIGHT.numbers[:4], rel=1e-3)
    assert not any("halves" in note for note in found["notes"])
    whole = (log.count("decode_requests") > 0) & ~log.is_halved
    assert found["logs"][0]["steps"] == whole.sum()


def test_a_log_that_does_not_say_misleads_and_is_noted(log: StepLog, tmp_path: Path) -> None:
    untold = {key: value for key, value in log.meta.items() if key != HALVED}
    found = calibrate(replace(log, meta=untold), tmp_path)
    assert of(found) != pytest.approx(RIGHT.numbers[:4], rel=0.05)
    assert any("cut in halves are taken for whole" in note for note in found["notes"])
