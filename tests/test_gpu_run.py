"""bench/gpu_run.py on the CPU: it answers a batch, and tells wrong answers from right ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "bench" / "gpu_run.py"
REPOSITORY = SCRIPT.parents[1]

pytest.importorskip("transformers")


def test_a_batch_is_answered_and_checked(tmp_path: Path) -> None:
    asked = [str(SCRIPT), "--device", "cpu", "--quick", "--requests", "12", "-o", str(tmp_path)]
    path = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'runtime'}"}
    done = subprocess.run(
        [sys.executable, *asked], env=os.environ | path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "found.json").read_text())
    assert told == json.loads(done.stdout)
    assert told["requests"] == told["answered"] == 12
    assert 0 < told["checked_tokens"] == told["run"]["output_tokens"]
    assert told["most_below_best_deviations"] < 0.25
    assert not (tmp_path / "model").exists()


def test_answers_of_another_model_are_told(tmp_path: Path) -> None:
    import gpu_run

    gpu_run.make_model(tmp_path, gpu_run.SMALL, "cpu")
    (line,) = gpu_run.requests(1, 0.02)
    wrong = {line["custom_id"]: [7, 77, 777, 7_777]}
    below = gpu_run.below_best(tmp_path, [line], wrong, "cpu")
    assert len(below) == 4
    assert max(below) > gpu_run.MOST_BELOW
