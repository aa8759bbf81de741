"""bench/gpu_check.py goes through every stage on a CPU; one that fails takes no other along, and
what is done is not done again.
"""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blendsim.cli.app import app
from blendsim.steplog import read_steplog

SCRIPT = Path(__file__).resolve().parents[1] / "bench" / "gpu_check.py"
REPLAYS = ("replay-small", "replay-small-full")
STAGES = ("build", "attention", "executors", "graphs", "profile", *REPLAYS)


def check(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--quick", "-o", str(out)]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, env=quiet
    )


def findings(out: Path, stage: str) -> list[dict[str, object]]:
    told = json.loads((out / f"{stage}.json").read_text())
    found: list[dict[str, object]] = told["findings"]
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a whole check, and its table."""
    out = tmp_path_factory.mktemp("gpu") / "check"
    ran = check(out)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return out, ran.stdout


def test_every_stage_runs_on_a_cpu_and_leaves_its_results(done: tuple[Path, str]) -> None:
    out, printed = done
    table = [line for line in printed.splitlines() if line.startswith("| ")]
    assert {line.split(" | ")[0].strip("| ") for line in table[2:]} == set(STAGES)
    assert (out / "summary.md").read_text() == printed
    judged = [finding for stage in STAGES for finding in findings(out, stage)]
    assert sum(finding["ok"] is True for finding in judged) >= 6
    assert not any(finding["ok"] is False for finding in judged)
    assert (out / "profiles" / "cpu" / "tiny" / "tp1" / "overlap.csv").exists()
    runs = ("dfs-overlap", "dfs-sequential", "blend-overlap", "paced-overlap")
    pools = ("small", "small-full")
    measured = {f"{pool}-{run}" for pool in pools for run in runs}
    priced = {f"{name}-priced" for name in measured}
    assert {path.stem for path in out.glob("*.parquet")} == measured | priced


def test_replays_say_how_much_faster_each_is_than_the_first(done: tuple[Path, str]) -> None:
    for stage in REPLAYS:
        told = {str(finding["what"]): str(finding["value"]) for finding in findings(done[0], stage)}
        assert "measured" in told["blend, overlap over dfs, overlap"]
        assert "the shipped profile" in told["dfs, overlap over dfs, sequential"]
        assert "dfs, sequential over dfs, overlap" not in told


def test_logs_are_of_their_plans_and_full_pools_are_sampled(done: tuple[Path, str]) -> None:
    out, _ = done
    whole, some = (
        read_steplog(out / f"{p}-blend-overlap.parquet") for p in ("small", "small-full")
    )
    assert whole.counts.tolist() == some.counts.tolist()
    assert whole.is_timed.all()
    assert 0 < some.is_timed.sum() < len(some)
    assert whole.meta["policy"] == some.meta["policy"] == "blend"
    assert len(whole.meta["plan_sha256"]) == 64


@pytest.mark.parametrize("pool", ["small", "small-full"])
def test_logs_are_validated_by_the_command_a_user_has(
    done: tuple[Path, str], pool: str, tmp_path: Path
) -> None:
    blend, dfs = (
        [str(done[0] / f"{pool}-{policy}-overlap{end}.parquet") for end in ("-priced", "")]
        for policy in ("blend", "dfs")
    )
    arguments = ["validate", *blend, "--against", *dfs, "-o", str(tmp_path / "check"), "--json"]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.output
    result = json.loads(told.stdout)
    assert result["policy"] == "blend"
    assert result["steps"]["steps"] > 0
    assert result["speedup"]["measured"] > 0
    assert (tmp_path / "check" / "validation.png").exists()


def test_everything_is_packed_into_one_file(done: tuple[Path, str]) -> None:
    out, _ = done
    with tarfile.open(out.with_name("check.tar.gz")) as archive:
        names = set(archive.getnames())
    assert {"check/summary.md", "check/small-dfs-overlap.parquet"} <= names
    assert "check/profiles/cpu/tiny/tp1/gemm.csv" in names


def test_what_is_done_is_not_done_again(done: tuple[Path, str]) -> None:
    out, printed = done
    log = out / "small-dfs-overlap.parquet"
    before = log.read_bytes()
    again = check(out)
    assert again.stdout == printed
    assert all(f"{stage}: done before" in again.stderr for stage in STAGES)
    # A replay that was cut short goes on behind the logs that are complete.
    (out / "small-blend-overlap.parquet").unlink()
    (out / "replay-small.json").unlink()
    assert check(out, "--only", "replay-small").returncode == 0
    assert log.read_bytes() == before
    assert read_steplog(out / "small-blend-overlap.parquet").meta["complete"]


def test_a_stage_that_fails_is_reported_and_the_next_one_runs(tmp_path: Path) -> None:
    done = check(tmp_path, "--model", "nope", "--only", "profile", "--only", "attention")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    failed = [line for line in lines if "FAILED, exit 1" in line]
    assert len(failed) == 1
    assert "unknown model 'nope'" in failed[0]
    assert "WRONG" in failed[0]
    assert sum(line.endswith("| ok |") and "attention" in line for line in lines) == 2


def test_a_stage_without_time_is_left_out_and_said_so(tmp_path: Path) -> None:
    done = check(tmp_path, "--only", "attention", "--within", "40")
    assert done.returncode == 1
    assert "LEFT OUT | no time; call again with the same -o" in done.stdout
    assert not (tmp_path / "attention.json").exists()


def test_an_unknown_stage_is_named(tmp_path: Path) -> None:
    done = check(tmp_path, "--only", "nope")
    assert done.returncode == 2
    assert "unknown stage 'nope'; known: build, attention" in done.stderr
