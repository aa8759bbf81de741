"""bench/gpu_kit_run.sh: what was carried comes together on the machine, and the checks get it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gpu_options import Options
from gpu_small_plan import make_small_plans
from kit_packages import archive, split

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPT = REPOSITORY / "bench" / "gpu_kit_run.sh"

#: Stands in for Python: notes what it was asked for, and leaves results of a size.
STAND_IN = """#!{python}
import json, os, sys
from pathlib import Path
asked = sys.argv[1:]
if asked[0] == "-c":
    os.execv(sys.executable, [sys.executable, *asked])
known = ("PYTHONPATH", "FLASHINFER_DISABLE_JIT", "HF_HUB_OFFLINE")
with open({calls!r}, "a") as calls:
    print(json.dumps([asked, {{name: os.environ.get(name) for name in known}}]), file=calls)
if "--prepare" not in asked:
    out = Path(asked[asked.index("-o") + 1])
    out.mkdir(exist_ok=True)
    (out / "summary.md").write_text("| a table |")
    if "--pack" in asked:
        Path(asked[asked.index("--pack") + 1]).write_bytes(b"x" * int(os.environ.get("SIZE", "9")))
    sys.exit(int(os.environ.get("ENDS", "0")))
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def machine(tmp_path: Path) -> Run:
    """The script on a machine of its own, with a stand-in for Python unless told otherwise."""
    python = tmp_path / "python"
    python.write_text(STAND_IN.format(python=sys.executable, calls=str(tmp_path / "calls")))
    python.chmod(0o755)
    places = {"GPU_KIT": "kit", "GPU_KIT_LOCAL": "local", "OUT": "out", "PYTHON": "python"}
    told = {name: str(tmp_path / place) for name, place in places.items()}

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(SCRIPT), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | told | environment,
        )

    return run


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """A kit with nothing but a base."""
    place = tmp_path / "kit"
    (place / "base" / "packages" / "flashinfer").mkdir(parents=True)
    (place / "base" / "plans").mkdir()
    return place


def parts_of(kit: Path, content: str, number: int = 3) -> None:
    """vLLM, in parts."""
    tree, packed = kit.parent / "tree", kit.parent / "vllm.tar.xz"
    tree.mkdir(exist_ok=True)
    (tree / "vllm.py").write_text(content)
    archive(tree, (), packed)
    whole = packed.stat().st_size
    sizes = [whole // number] * (number - 1) + [whole - whole // number * (number - 1)]
    for n in range(1, number + 1):
        part = kit / f"part-{n}"
        part.mkdir(parents=True, exist_ok=True)
        split(packed, n, sizes, part)


def asked(tmp_path: Path) -> list[tuple[list[str], dict[str, str]]]:
    """What the stand-in was called with."""
    return [tuple(json.loads(line)) for line in (tmp_path / "calls").read_text().splitlines()]


def preparing(tmp_path: Path) -> list[tuple[list[str], dict[str, str]]]:
    """Calls that compile only."""
    return [call for call in asked(tmp_path) if "--prepare" in call[0]]


def running(tmp_path: Path) -> list[tuple[list[str], dict[str, str]]]:
    """Calls that measure."""
    return [call for call in asked(tmp_path) if "--prepare" not in call[0]]


def value(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]


def test_ours_checks_with_the_kits_packages_and_plans_in_the_time_given(
    machine: Run, kit: Path, tmp_path: Path
) -> None:
    done = machine("ours", "400", "--quick")
    assert done.returncode == 0, done.stderr
    [(arguments, environment)] = asked(tmp_path)
    local = tmp_path / "local"
    assert arguments[0] == str(REPOSITORY / "bench" / "gpu_check.py")
    assert value(arguments, "--plans") == str(local / "base" / "plans")
    assert arguments[-1] == "--quick"
    assert 300 < int(value(arguments, "--within")) <= 400
    places = [REPOSITORY, REPOSITORY / "runtime", local / "base" / "packages"]
    assert environment["PYTHONPATH"] == ":".join(map(str, places))
    assert environment["FLASHINFER_DISABLE_JIT"] == "1"
    found = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert found == {"gpu-check.tar.gz": "x" * 9, "gpu-check.md": "| a table |"}


def test_results_of_a_check_that_fails_are_handed_over_too(
    machine: Run, kit: Path, tmp_path: Path
) -> None:
    assert machine("ours", ENDS="1").returncode == 1
    assert (tmp_path / "out" / "gpu-check.md").exists()


def test_an_archive_too_large_for_one_file_is_handed_over_in_pieces(
    machine: Run, kit: Path, tmp_path: Path
) -> None:
    assert machine("ours", SIZE=str(2**24)).returncode == 0
    pieces = sorted((tmp_path / "out").glob("gpu-check.tar.gz*"))
    assert [path.name for path in pieces] == ["gpu-check.tar.gz.00", "gpu-check.tar.gz.01"]
    assert [path.stat().st_size for path in pieces] == [2**24 - 1, 1]


def test_parts_carried_in_one_by_one_come_together(machine: Run, kit: Path, tmp_path: Path) -> None:
    parts_of(tmp_path / "all", "told = 1")
    for number in (1, 2):
        shutil.move(tmp_path / "all" / f"part-{number}", kit)
        told = machine("gather", str(number))
        assert (told.returncode, told.stderr) == (0, "")
        here = " ".join(f"part-{n}" for n in range(1, number + 1))
        assert told.stdout == f"in {tmp_path / 'local'}: base {here}\n"
        for carried in kit.iterdir():
            shutil.rmtree(carried)
    early = machine("vllm")
    assert early.returncode == 2
    assert early.stderr.endswith("carry them in and gather them\n")
    assert "of vLLM's 3 parts, 3 are not in" in early.stderr
    shutil.move(tmp_path / "all" / "part-3", kit)
    done = machine("vllm", "200")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "local" / "vllm" / "vllm.py").read_text() == "told = 1"
    [(runs, environment)] = running(tmp_path)
    # Compiling began with the first part, beside the GPU's calls.
    assert all(call[0] == [*runs[:-2], "--prepare"] for call in preparing(tmp_path))
    assert 100 < int(value(runs, "--within")) <= 200
    assert value(runs, "--pool") == "trace1-filled"
    assert "flashinfer" not in os.listdir(tmp_path / "local" / "vllm")
    assert environment["PYTHONPATH"].endswith(str(tmp_path / "local" / "vllm"))
    assert environment["FLASHINFER_DISABLE_JIT"] is None
    out = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert out == ["gpu-vllm.md", "gpu-vllm.tar.gz"]


def test_one_part_alone_is_enough_where_the_base_was_carried_before(
    machine: Run, kit: Path, tmp_path: Path
) -> None:
    told = machine("gather")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout == f"in {tmp_path / 'local'}: base\n"
    shutil.rmtree(kit / "base")
    parts_of(kit, "told = 1", number=1)
    done = machine("vllm")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "local" / "vllm" / "vllm.py").read_text() == "told = 1"
    assert len(running(tmp_path)) == 1


def test_vllm_is_unpacked_once(machine: Run, kit: Path, tmp_path: Path) -> None:
    parts_of(kit, "told = 1")
    assert machine("vllm").returncode == 0
    (tmp_path / "local" / "vllm" / "vllm.py").write_text("told = 2")
    assert machine("vllm").returncode == 0
    assert (tmp_path / "local" / "vllm" / "vllm.py").read_text() == "told = 2"
    assert (len(preparing(tmp_path)), len(running(tmp_path))) == (1, 2)


def test_parts_of_two_kits_are_not_put_together(machine: Run, kit: Path, tmp_path: Path) -> None:
    parts_of(kit, "told = 1")
    parts_of(tmp_path / "other", "told = 2")
    shutil.rmtree(kit / "part-2")
    shutil.move(tmp_path / "other" / "part-2", kit)
    done = machine("vllm")
    assert done.returncode == 2
    assert "are not of one kit" in done.stderr
    assert not (tmp_path / "local" / "vllm").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ours"], "the base is not in"),
        (["vllm"], "the base is not in"),
        (["gather", "2"], "part 2 of vLLM is neither in"),
        ([], "expected ours"),
        (["gather"], "the base is not in"),
        (["gather", "first"], "expected ours"),
        (["ours", "--quick"], "not: ours --quick"),
        (["theirs", "5"], "not: theirs 5"),
    ],
)
def test_what_is_missing_is_named_in_one_line(
    machine: Run, arguments: list[str], told: str, tmp_path: Path
) -> None:
    done = machine(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "calls").exists()


def test_vllm_without_parts_is_told_so(machine: Run, kit: Path) -> None:
    done = machine("vllm")
    assert done.returncode == 2
    assert "no part of vLLM is in" in done.stderr


def test_the_check_itself_goes_through_on_a_cpu(machine: Run, kit: Path, tmp_path: Path) -> None:
    options = Options("cpu", "tiny", 0.02, 24, 24, kit / "base" / "plans", tmp_path)
    make_small_plans(options, options.plans)
    quick = ("--device", "cpu", "--quick", "--minutes", "0.02", "--only", "replay-small")
    done = machine("ours", "300", *quick, PYTHON=sys.executable, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    table = (tmp_path / "out" / "gpu-check.md").read_text()
    assert table == done.stdout
    ran = [line for line in table.splitlines() if "computed tokens/s" in line]
    ran = [line.split(" | ")[1] for line in ran]
    assert ran == ["dfs, overlap", "paced, overlap"]  # small plans: blend, too; none is searched
