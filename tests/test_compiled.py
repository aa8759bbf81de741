"""Compiled kernels, their plain twins and the cache that outlives the process."""

import subprocess
import sys
from pathlib import Path

import pytest

from blendsim import compiled

SUM = """
from blendsim.compiled import kernel

@kernel
def triangle(n: int) -> int:
    total = 0
    for i in range(n):
        total += i
    return total
"""


def run(code: str, cache: Path, *path: Path) -> str:
    """Standard output of `code` in a new process whose kernels are cached under `cache`."""
    environment = {
        "BLENDSIM_CACHE": str(cache),
        "PYTHONPATH": ":".join(str(p) for p in path),
        "PATH": "",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_kernel_and_its_plain_twin_agree(tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text(SUM)
    code = "from sums import triangle; print(triangle(5), triangle.py_func(5))"
    assert run(code, tmp_path / "cache", tmp_path) == "10 10"


def test_second_process_compiles_nothing(tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text(SUM)
    code = "from sums import triangle; triangle(5); print(dict(triangle.stats.cache_hits) != {})"
    assert run(code, tmp_path / "cache", tmp_path) == "False"
    assert run(code, tmp_path / "cache", tmp_path) == "True"


def test_cache_is_warm_after_a_whole_run_said_so(tmp_path: Path) -> None:
    code = (
        "from blendsim import compiled as c; a = c.is_warm(); c.mark_warm(); print(a, c.is_warm())"
    )
    assert run(code, tmp_path) == "False True"
    assert run(code, tmp_path) == "True True"


def test_cache_that_cannot_be_written_lasts_as_long_as_the_process(tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text(SUM)
    (tmp_path / "file").write_text("not a directory")
    code = (
        "from sums import triangle; from blendsim import compiled as c; from pathlib import Path\n"
        "triangle(5); c.mark_warm(); print(Path(c._CACHE).is_dir(), c._CACHE)"
    )
    exists, place = run(code, tmp_path / "file", tmp_path).split()
    assert exists == "True"
    assert not Path(place).exists()
    assert list(tmp_path.rglob("*.nbi")) == []


def test_cache_is_named_after_the_kernels_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLENDSIM_CACHE", str(tmp_path))
    (tmp_path / "one.py").write_text("@kernel\ndef f(): ...")
    (tmp_path / "two.py").write_text("no compiled code")
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "compiled.py"))
    before = compiled.cache_directory()
    (tmp_path / "two.py").write_text("still none")
    assert compiled.cache_directory() == before
    (tmp_path / "one.py").write_text("@kernel\ndef f(): return 1")
    assert compiled.cache_directory() != before
