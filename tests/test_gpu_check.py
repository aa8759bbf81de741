"""bench/gpu_check.py goes through every stage on a CPU; one that fails takes no other along."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "bench" / "gpu_check.py"
STAGES = ("build", "attention", "executors", "profile", "replay")


def check(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--quick", "-o", str(out)]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, env=quiet
    )


def test_every_stage_runs_on_a_cpu_and_leaves_its_results(tmp_path):
    done = check(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert {line.split(" | ")[0].strip("| ") for line in table[2:]} == set(STAGES)
    assert (tmp_path / "summary.md").read_text() == done.stdout
    judged = [
        finding for s in STAGES for finding in json.loads((tmp_path / f"{s}.json").read_text())
    ]
    assert sum(finding["ok"] is True for finding in judged) >= 6
    assert not any(finding["ok"] is False for finding in judged)
    assert (tmp_path / "profiles" / "cpu" / "tiny" / "tp1" / "overlap.csv").exists()
    logs = {path.name for path in tmp_path.glob("*.parquet")}
    assert logs == {"full-sequential.parquet", "full-overlap.parquet", "sampled-overlap.parquet"}


def test_a_stage_that_fails_is_reported_and_the_next_one_runs(tmp_path):
    done = check(tmp_path, "--model", "nope", "--only", "profile", "--only", "attention")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    failed = [line for line in lines if "FAILED, exit 1" in line]
    assert len(failed) == 1
    assert "unknown model 'nope'" in failed[0]
    assert "WRONG" in failed[0]
    assert sum(line.endswith("| ok |") and "attention" in line for line in lines) == 2
