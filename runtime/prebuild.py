"""Build FlashInfer's kernels ahead, for a GPU machine that has no compiler or no time.

    python runtime/prebuild.py decode fa2 page -o build/flashinfer

Needs `flashinfer-python`, `ninja`, a CUDA toolkit and a C compiler, but no GPU and no driver. What
it writes is the installed package without its sources and with compiled kernels beside it; there:

    PYTHONPATH=build/flashinfer FLASHINFER_DISABLE_JIT=1 blendsim replay … --gpu

and `pip install apache-tvm-ffi`. The libraries are tied to FlashInfer's version and the GPU's
architecture, not to Python's or torch's.
"""

import argparse
import ctypes.util
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: What a module is for. On two cores fa2 takes a minute or two, fa3 ten, the others seconds.
KERNELS = {
    "decode": "decode attention where up to 3 heads share a KV head",
    "fa2": "prefill attention; decode attention where 4 heads or more share a KV head",
    "page": "what fa3 needs for its page tables",
    "cascade": "merging a shared prefix's attention with each request's own",
    "fa3": "prefill attention for Hopper",
}
_BY_ITSELF = ("decode", "fa2", "page", "cascade")
#: What generators read of a package whose kernels are built.
_KEPT_SOURCES = ("*.jinja", "batch_*.cu", "single_*.cu", "page*.cu", "cascade*.cu", "pod*.cu")
_CUDA_PLACES = ("/usr/local/cuda", "/usr/local/cuda-13.0", "/opt/cuda")


def cuda_home() -> Path:
    """The toolkit's own directory: an nvcc on the PATH may be a wrapper that lies elsewhere."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    for place in [named] if named else _CUDA_PLACES:
        if (Path(place) / "bin" / "nvcc").exists():
            return Path(place).resolve()
    sys.exit(f"error: no CUDA toolkit in {named or ', '.join(_CUDA_PLACES)}; set CUDA_HOME")


def prepare(work: Path, arch: str, jobs: int) -> None:
    """The environment FlashInfer reads when it is imported and when it compiles."""
    work.mkdir(parents=True, exist_ok=True)
    forget_places(work)
    os.environ["CUDA_HOME"] = str(cuda_home())
    os.environ["FLASHINFER_CUDA_ARCH_LIST"] = arch
    os.environ["FLASHINFER_WORKSPACE_BASE"] = str(work)
    os.environ["MAX_JOBS"] = str(jobs)
    os.environ["PATH"] += os.pathsep + str(Path(sys.executable).parent)  # ninja, if pip brought it
    os.environ.pop("FLASHINFER_DISABLE_JIT", None)
    if ctypes.util.find_library("cuda") is None:
        os.environ["FLASHINFER_EXTRA_LDFLAGS"] = f"-L{stub_driver(work)}"
    headers = curand_headers(work)
    if headers is not None:
        os.environ["FLASHINFER_EXTRA_CUDAFLAGS"] = f"-I{headers}"


def forget_places(work: Path) -> None:
    """Remove the ninja files of a build before. They name all places in full, and FlashInfer writes
    none where there is one: once a folder has been moved they name what is no more. Ninja itself
    tells what was compiled at this very place, and that is not compiled again.
    """
    for path in (work / ".cache" / "flashinfer").rglob("build.ninja"):
        path.unlink()


def stub_driver(work: Path) -> Path:
    """A folder with an empty libcuda, to link against where no driver is installed."""
    stub = work / "libcuda.so"
    if not stub.exists():
        source = work / "empty.c"
        source.write_text("")
        soname = "-Wl,-soname,libcuda.so.1"
        subprocess.run(["cc", "-shared", "-fPIC", soname, "-o", stub, source], check=True)
        (work / "libcuda.so.1").symlink_to(stub.name)
    return work


def curand_headers(work: Path) -> Path | None:
    """A folder with curand's headers, which fa3's sources include: a slim toolkit lacks them, the
    nvidia-curand package brings them. Only these are taken: another toolkit's may lie beside them.
    """
    found = importlib.util.find_spec("nvidia")
    for place in found.submodule_search_locations or () if found else ():
        headers = list(Path(place).glob("*/include/curand*.h"))
        if headers:
            target = work / "curand"
            target.mkdir(exist_ok=True)
            for header in headers:
                shutil.copy(header, target)
            return target
    return None


def specs() -> dict[str, Callable[[], Any]]:
    """FlashInfer's description of each module: bfloat16, heads of 128, page numbers in int32."""
    import torch

    attention = importlib.import_module("flashinfer.jit.attention")
    types = {
        **dict.fromkeys(("dtype_q", "dtype_kv", "dtype_o"), torch.bfloat16),
        "dtype_idx": torch.int32,
        "head_dim_qk": 128,
        "head_dim_vo": 128,
        "pos_encoding_mode": 0,
        "use_sliding_window": False,
        "use_logits_soft_cap": False,
    }

    def prefill(backend: str) -> Any:
        return attention.gen_batch_prefill_module(
            backend=backend, use_fp16_qk_reduction=False, **types
        )

    return {
        "decode": lambda: attention.gen_batch_decode_module(**types),
        "fa2": lambda: prefill("fa2"),
        "fa3": lambda: prefill("fa3"),
        "page": lambda: importlib.import_module("flashinfer.jit.page").gen_page_module(),
        "cascade": lambda: importlib.import_module("flashinfer.jit.cascade").gen_cascade_module(),
    }


def build(kernels: list[str]) -> dict[str, Path]:
    """Compile; the library of each module, by the module's name."""
    made = {}
    for name in kernels:
        spec, start = specs()[name](), time.perf_counter()
        spec.build(verbose=False)
        library = Path(spec.jit_library_path)
        seconds, size = time.perf_counter() - start, library.stat().st_size / 1e6
        print(f"{name}: {spec.name}, {size:.1f} MB in {seconds:.0f} s", flush=True)
        made[spec.name] = library
    return made


def package(libraries: dict[str, Path], out: Path) -> Path:
    """The installed package without what only compiling needs, and with the libraries."""
    installed = Path(importlib.import_module("flashinfer").__file__ or "").parent
    target = out / "flashinfer"
    shutil.rmtree(target, ignore_errors=True)
    left = shutil.ignore_patterns("__pycache__", "b12x", "data")
    shutil.copytree(installed, target, ignore=left)
    sources = target / "data" / "csrc"
    sources.mkdir(parents=True)
    for pattern in _KEPT_SOURCES:
        for path in (installed / "data" / "csrc").glob(pattern):
            shutil.copy(path, sources)
    for name, library in libraries.items():
        place = target / "data" / "aot" / name
        place.mkdir(parents=True)
        shutil.copy(library, place / f"{name}.so")
    return target


def load(kernels: list[str]) -> None:
    """Load every module from the libraries at hand; an error if one would have to be compiled."""
    for name in kernels:
        spec = specs()[name]()
        assert spec.is_aot, f"{name}: {spec.aot_path} is missing"
        spec.build_and_load()
        print(f"{name}: loads", flush=True)


def main() -> None:
    """Build, package, and load what was packaged in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kernels", nargs="*", help=f"of {', '.join(KERNELS)}")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/flashinfer"))
    parser.add_argument("--arch", default="9.0a", help="the GPU's, by itself Hopper's")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at once")
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    kernels = given.kernels or list(_BY_ITSELF)
    for name in kernels:
        if name not in KERNELS:
            parser.error(f"unknown kernel {name!r}; known: {', '.join(KERNELS)}")
    if given.load:
        load(kernels)
        return
    out = given.output.resolve()
    work = out.with_name(out.name + "-work")
    prepare(work, given.arch, given.jobs)
    if importlib.util.find_spec("flashinfer") is None:
        sys.exit("error: FlashInfer is not installed; run pip install 'blendsim[gpu]'")
    target = package(build(kernels), out)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(out), os.environ.get("PYTHONPATH", "")]),
        "LD_LIBRARY_PATH": os.pathsep.join([str(work), os.environ.get("LD_LIBRARY_PATH", "")]),
        "FLASHINFER_DISABLE_JIT": "1",
    }
    subprocess.run([sys.executable, __file__, "--load", *kernels], env=environment, check=True)
    print(
        f"{target}: {size / 1e6:.1f} MB; put {given.output} on PYTHONPATH and set "
        "FLASHINFER_DISABLE_JIT=1"
    )


if __name__ == "__main__":
    main()
