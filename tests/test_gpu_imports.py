"""What runs on a GPU machine needs neither the simulator's libraries nor the profiles' importer:
such a machine has torch and little else.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
MISSING = ("simpy", "scipy", "matplotlib", "aiconfigurator_core", "transformers", "flashinfer")

#: Every import of these, at any depth, fails as it does where they are not installed.
BLOCKED = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None

sys.meta_path.insert(0, Missing())
sys.argv = {argv!r}
"""


def run(argv: list[str], code: str) -> subprocess.CompletedProcess[str]:
    """Python with the blocked imports and the checkout's code."""
    places = [str(REPOSITORY), str(REPOSITORY / "runtime"), str(REPOSITORY / "bench")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    script = BLOCKED.format(missing=MISSING, argv=argv) + code
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_block_blocks() -> None:
    done = run(["x"], "import scipy.special")
    assert done.returncode == 1
    assert "No module named 'scipy" in done.stderr


@pytest.mark.parametrize("stage", ["profile", "replay-small-full"])
def test_a_stage_of_the_check_runs_without_them(stage: str, tmp_path: Path) -> None:
    argv = ["gpu_check.py", "--device", "cpu", "--quick", "-o", str(tmp_path), "--stage", stage]
    done = run(argv, "import gpu_check; gpu_check.main()")
    assert done.returncode == 0, done.stderr
    assert '"done": true' in (tmp_path / f"{stage}.json").read_text()


def test_replay_and_profile_measure_run_without_them(tmp_path: Path) -> None:
    """The commands themselves, on a plan that was made elsewhere."""
    argv = ["gpu_check.py", "--device", "cpu", "--quick", "-o", str(tmp_path)]
    made = run(argv, "import gpu_check; gpu_check.stages(gpu_check.parse()[1])")
    assert made.returncode == 0, made.stderr
    plans = tmp_path / "plans"
    commands = {
        "replay": [
            *("replay", str(plans / "small-blend.parquet"), "--workload"),
            *(str(plans / "small.parquet"), "--model", "tiny", "-o", str(tmp_path / "log.parquet")),
        ],
        "profile": [
            "profile",
            "measure",
            "--model",
            "tiny",
            "--device",
            "cpu",
            "-o",
            str(tmp_path),
        ],
    }
    for command in commands.values():
        done = run(["blendsim", *command], "from blendsim.cli import main; main()")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "log.parquet").exists()
    assert (tmp_path / "cpu" / "tiny" / "tp1" / "overlap.csv").exists()


def test_what_vllm_follows_by_is_imported_without_them() -> None:
    done = run(["x"], "import blendrt.vllm.alone, blendrt.vllm.generate")
    assert done.returncode == 0, done.stderr
