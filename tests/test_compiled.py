"""Compiled kernels, their plain twins and the cache that outlives the process."""

import ast
import gc
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
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


USED = "from sums import triangle; print(triangle(5), dict(triangle.stats.cache_hits) != {})"


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("left", [0, 30])
def test_a_damaged_kernel_is_compiled_anew_and_kept(tmp_path: Path, ending: str, left: int) -> None:
    """As a machine that lost its power leaves it: empty, or cut off."""
    (tmp_path / "sums.py").write_text(SUM)
    run(USED, tmp_path / "cache", tmp_path)
    (file,) = (tmp_path / "cache").rglob(f"*.{ending}")
    file.write_bytes(file.read_bytes()[:left])
    assert run(USED, tmp_path / "cache", tmp_path) == "10 False"
    assert run(USED, tmp_path / "cache", tmp_path) == "10 True"


def test_a_kernel_that_finds_no_room_is_used_and_not_kept(tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text(SUM)
    full = "import resource as r, signal as s; s.signal(s.SIGXFSZ, s.SIG_IGN)\n"
    full += "r.setrlimit(r.RLIMIT_FSIZE, (0, r.RLIM_INFINITY))\n"
    mark = "; from blendsim import compiled as c; c.mark_warm()"
    code = "import sys; sys.dont_write_bytecode = True\n" + full + USED + mark
    # NOTE: to a pipe, whose size nothing limits.
    assert run(code, tmp_path / "cache", tmp_path) == "10 False"
    assert [file for file in tmp_path.rglob("*.nb?") if file.stat().st_size] == []


def test_kernels_that_may_only_be_read_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of a container's image: they are there, and nothing can be written beside them."""
    (kept := tmp_path / "kept" / "room").mkdir(parents=True)
    (kept / "f.nbi").write_bytes(b"kernels")
    monkeypatch.setattr(compiled.tempfile, "TemporaryFile", _refused)
    passing = Path(str(compiled._usable(tmp_path / "kept")))
    assert passing != tmp_path / "kept"
    assert (passing / "room" / "f.nbi").read_bytes() == b"kernels"
    (tmp_path / "new").write_bytes(b"newer")
    (tmp_path / "new").replace(passing / "room" / "f.nbi")  # as numba writes
    assert (kept / "f.nbi").read_bytes() == b"kernels"
    shutil.rmtree(passing)
    assert kept.is_dir()


def test_where_nothing_can_be_written_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled.tempfile, "TemporaryFile", _refused)
    monkeypatch.setattr(compiled.tempfile, "mkdtemp", _refused)
    assert compiled._usable(tmp_path) is None
    monkeypatch.setattr(compiled, "_CACHE", None)
    compiled.mark_warm()
    assert not compiled.is_warm()
    assert kernel(lambda n: n + 1)(4) == 5


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BLENDSIM_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)  # in no list of users
    assert compiled.cache_directory() is None


def _refused(**_: object) -> None:
    raise PermissionError(30, "Read-only file system")


def directory_after(monkeypatch: pytest.MonkeyPatch, package: Path, changed: str) -> bool:
    """Whether another cache is used once a file of the package has more text."""
    monkeypatch.setattr(compiled, "__file__", str(package / "compiled.py"))
    before = compiled.cache_directory()
    (package / changed).write_text((package / changed).read_text() + "\n# changed\n")
    return compiled.cache_directory() != before


def test_cache_is_named_after_all_that_kernels_may_have_something_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "some"
    (package / "room").mkdir(parents=True)
    for name, text in {
        "compiled.py": "",
        "one.py": "from some.two import (\n    A,  # first\n    B,\n)\n@kernel\ndef f(): ...",
        "two.py": "from some import room\nimport some.four, some.five as other\nA = B = 1",
        "room/__init__.py": "from some.room.inner import C",
        "room/inner.py": "C = 2",
        "four.py": "D = 3",
        "five.py": "E = 4",
        "apart.py": "from some.one import f",
    }.items():
        (package / name).write_text(text)
    for name in ("one", "two", "room/__init__", "room/inner", "four", "five", "compiled"):
        assert directory_after(monkeypatch, package, f"{name}.py"), name
    assert not directory_after(monkeypatch, package, "apart.py")


def test_a_changed_rule_is_another_cache_and_a_changed_table_on_screen_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "blendsim"
    shutil.copytree(Path(compiled.__file__).parent, package)
    for name in ("serving/round_state.py", "steplog.py", "serving/kv.py", "perf/grids.py"):
        assert directory_after(monkeypatch, package, name), name
    for name in ("cli/app.py", "traces/chat.py", "report/tables.py", "search/race.py"):
        assert not directory_after(monkeypatch, package, name), name


def test_a_constant_of_another_file_is_never_an_old_one(tmp_path: Path) -> None:
    package = tmp_path / "small"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(compiled.__file__, package / "compiled.py")
    (package / "loops.py").write_text(
        "from small.compiled import kernel\nfrom small.rules import LIMIT\n\n"
        "@kernel\ndef limit() -> int:\n    return LIMIT\n"
    )
    for limit in (4_096, 1_000):
        (package / "rules.py").write_text(f"LIMIT = {limit}")
        code = "import sys; sys.dont_write_bytecode = True; from small.loops import limit"
        assert run(f"{code}; print(limit())", tmp_path / "cache", tmp_path) == str(limit)


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


def test_what_is_compiled_for_long_is_told_once_and_what_is_there_is_not() -> None:
    def slow(n: int) -> int:
        return n + 1

    for patience, times in ((0.0, 1), (60.0, 0)):
        told: list[None] = []
        with compiled.compiling_told(lambda told=told: told.append(None), patience):
            first, other = (numba.njit(slow) for _ in range(2))
            assert first(1) == other(1) == 2
            first(1)
        assert len(told) == times
