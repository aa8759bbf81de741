"""runtime/prebuild.py, but for the compiling itself: what it packages and what it links against."""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "runtime" / "prebuild.py"


@pytest.fixture(scope="module")
def prebuild() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prebuild", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package laid out like FlashInfer's."""
    root = tmp_path / "site" / "flashinfer"
    files = (
        *("__init__.py", "prefill.py", "jit/core.py", "__pycache__/prefill.pyc"),
        *("data/csrc/batch_decode.cu", "data/csrc/batch_decode.jinja", "data/csrc/norm.cu"),
        *("data/cutlass/include/cutlass.h", "data/include/attention.cuh"),
    )
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(root.parent))
    monkeypatch.delitem(sys.modules, "flashinfer", raising=False)
    yield root
    sys.modules.pop("flashinfer", None)


def test_the_package_keeps_code_and_templates_and_gets_the_libraries(prebuild, installed, tmp_path):
    library = tmp_path / "built.so"
    library.write_bytes(b"machine code")
    target = prebuild.package({"batch_decode_bf16": library}, tmp_path / "out")
    found = {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()}
    assert found == {
        *("__init__.py", "prefill.py", "jit/core.py"),
        *("data/csrc/batch_decode.cu", "data/csrc/batch_decode.jinja"),
        "data/aot/batch_decode_bf16/batch_decode_bf16.so",
    }


def test_packaging_again_leaves_nothing_of_before(prebuild, installed, tmp_path):
    library = tmp_path / "built.so"
    library.write_bytes(b"machine code")
    prebuild.package({"old": library}, tmp_path / "out")
    target = prebuild.package({"new": library}, tmp_path / "out")
    assert [path.name for path in (target / "data" / "aot").iterdir()] == ["new"]


class Spec:
    """Builds like FlashInfer: its ninja file names all places, and one that is there stays."""

    name = "decode"

    def __init__(self, work: Path, sources: Path) -> None:
        self._source = sources / "decode.cu"
        self._folder = work / ".cache" / "flashinfer" / "0.6.6" / "90a" / "cached_ops" / self.name
        self.jit_library_path = self._folder / "decode.so"

    def build(self, verbose: bool) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        ninja = self._folder / "build.ninja"
        if not ninja.exists():
            ninja.write_text(f"{self._source}\n{self.jit_library_path}")
        source, library = map(Path, ninja.read_text().split())
        library.write_text(source.read_text())


@pytest.fixture
def toolkit(prebuild: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a build needs, all but compilers; the environment is the test's own."""
    (tmp_path / "cuda" / "bin").mkdir(parents=True)
    (tmp_path / "cuda" / "bin" / "nvcc").touch()
    monkeypatch.setattr(os, "environ", os.environ | {"CUDA_HOME": str(tmp_path / "cuda")})
    monkeypatch.setattr(ctypes.util, "find_library", lambda _: "libcuda.so.1")
    monkeypatch.setattr(prebuild, "curand_headers", lambda _: None)


def test_a_build_goes_on_in_a_folder_that_was_moved(prebuild, toolkit, monkeypatch, tmp_path):
    """The folder and the sources have come from elsewhere; what is left of that build names it."""

    def build(place: Path) -> str:
        spec = Spec(place / "work", place / "sources")
        monkeypatch.setattr(prebuild, "specs", lambda: {"decode": lambda: spec})
        prebuild.prepare(place / "work", "9.0a", 1)
        return prebuild.build(["decode"])["decode"].read_text()

    here, there = tmp_path / "here", tmp_path / "there"
    (here / "sources").mkdir(parents=True)
    (here / "sources" / "decode.cu").write_text("kernel")
    assert build(here) == "kernel"
    shutil.move(here, there)
    (there / "sources" / "decode.cu").write_text("kernel of today")
    assert build(there) == "kernel of today"
    assert not here.exists()


def test_what_was_compiled_before_a_build_broke_off_is_kept(prebuild, tmp_path):
    built = tmp_path / ".cache" / "flashinfer" / "0.6.6" / "90a" / "cached_ops" / "decode"
    built.mkdir(parents=True)
    for name in ("build.ninja", ".ninja_log", ".ninja_deps", "decode.cuda.o", "decode.so"):
        (built / name).touch()
    (tmp_path / "build.ninja").touch()  # of somebody else
    prebuild.forget_places(tmp_path)
    left = {path.name for path in built.iterdir()}
    assert left == {".ninja_log", ".ninja_deps", "decode.cuda.o", "decode.so"}
    assert (tmp_path / "build.ninja").exists()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_stand_in_for_the_driver_loads_under_the_drivers_name(prebuild, tmp_path):
    folder = prebuild.stub_driver(tmp_path)
    assert folder == prebuild.stub_driver(tmp_path)
    ctypes.CDLL(str(folder / "libcuda.so.1"))
    assert b"libcuda.so.1" in (folder / "libcuda.so").read_bytes()


def test_a_toolkit_that_is_not_there_is_named(prebuild, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(SystemExit, match=r"no CUDA toolkit in .*; set CUDA_HOME"):
        prebuild.cuda_home()


def test_an_unknown_kernel_is_named(tmp_path):
    command = [sys.executable, str(SCRIPT), "fa9", "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 2
    assert "unknown kernel 'fa9'; known: decode, fa2, page, cascade, fa3" in done.stderr
