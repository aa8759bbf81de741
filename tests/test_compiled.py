"""Compiled kernels, their plain twins and the cache that outlives the process."""

import ast
import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core.errors import NumbaError

from blendsim import compiled
from blendsim.compiled import allocating_kernel, kernel, rare_kernel
from blendsim.perf.step import StepTimes

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


@kernel
def total(values: Any) -> float:
    """Their sum."""
    found = 0.0
    for value in values:
        found += value
    return found


@allocating_kernel
def sums(values: Any) -> Any:
    """Their sum, twice, by a kernel that counts no references."""
    found = np.empty(2)
    found[0], found[1] = total(values), total(values)
    return found


def test_a_kernel_takes_no_reference_to_its_arrays_and_gives_none_back() -> None:
    values = np.arange(1_000.0)
    before = sys.getrefcount(values)
    for _ in range(10):
        assert total(values) == 499_500.0
        assert sums(values).tolist() == [499_500.0, 499_500.0]
    gc.collect()
    assert sys.getrefcount(values) == before
    assert values.sum() == 499_500.0, "nothing was freed"


@pytest.mark.parametrize("decorate", [kernel, rare_kernel])
def test_a_kernel_that_makes_an_array_is_not_compiled(decorate: Any) -> None:
    def zeros(n: int) -> float:
        return float(np.zeros(n)[0])

    with pytest.raises(NumbaError, match=r"NRT required|returning of array"):
        decorate(zeros)(3)


def test_kernels_that_count_no_references_return_no_arrays() -> None:
    # An array would be freed by a caller that does count them, once for every time it got it.
    plain = {"int", "float", "bool", "None", StepTimes.__name__}
    assert set(StepTimes.__annotations__.values()) == {float}
    returned = list(kernel_returns())
    assert len(returned) > 100, "or they were not found"
    assert [name for name, what in returned if what not in plain] == []


def kernel_returns() -> Any:
    """Every kernel that counts no references, and what it says that it returns."""
    for path in sorted(Path(compiled.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef) or node.returns is None:
                continue
            used = {ast.unparse(one).partition("(")[0] for one in node.decorator_list}
            if used & {"kernel", "rare_kernel", "kernel_where"}:
                yield f"{path.name}: {node.name}", ast.unparse(node.returns)
