"""`blendsim profile import`: measured kernel tables of the installed `aiconfigurator_core` package
(Apache-2.0), written as a GPU's kernels and as the profiles of models that are cut from them.
"""

from collections.abc import Sequence
from pathlib import Path

from blendsim.files import require_directory
from blendsim.perf.atlas import DIRECTORY, read_atlas, write_atlas
from blendsim.perf.atlas import FILES as KERNEL_FILES
from blendsim.perf.derive import derive_profile
from blendsim.perf.package import SYSTEMS, systems_directory
from blendsim.perf.package_atlas import read_package
from blendsim.perf.store import FILES, place_under, write_profile
from blendsim.specs import (
    GPUS,
    MODELS,
    GpuSpec,
    ModelSpec,
    gpu_name,
    model_name,
    unknown_gpu,
    unknown_model,
)
from blendsim.wording import Say

#: Models whose tables ship; those of others are cut from the GPU's kernels when they are asked for.
SHIPPED = (
    "llama-2-7b",
    "llama-3.1-8b",
    "llama-3.1-70b",
    "qwen-2.5-7b",
    "qwen-2.5-72b",
    "qwen3-8b",
    "qwen3-32b",
    "deepseek-67b",
)


def import_profiles(
    out: Path,
    gpus: Sequence[str] = tuple(GPUS),
    models: Sequence[str] = SHIPPED,
    progress: Say = lambda _: None,
) -> list[Path]:
    """Write `out/<gpu>/kernels` and `out/<gpu>/<model>/tp<N>` for every fitting pair; returns the
    directories written.
    """
    gpus, models = [gpu_name(name) for name in gpus], [model_name(name) for name in models]
    for name in models:
        if name not in MODELS:
            raise unknown_model(name)
    for name in gpus:
        if name not in SYSTEMS:
            raise unknown_gpu(name, SYSTEMS)
    _require_directories(out, gpus, models)
    systems = systems_directory()
    written = []
    for name in gpus:
        progress(f"{name}: reading kernel tables of {SYSTEMS[name]}")
        directory = out / name / DIRECTORY
        write_atlas(read_package(systems, GPUS[name]), directory)
        atlas = read_atlas(directory)  # what is cut from it is cut from what is on disk
        written.append(directory)
        for model in (MODELS[m] for m in models):
            for tp in sensible_tp(model, GPUS[name]):
                place = place_under(out, GPUS[name], model, tp)
                write_profile(derive_profile(atlas, GPUS[name], model, tp), place)
                written.append(place)
        progress(f"{name}: wrote {sum(out / name in path.parents for path in written)} tables")
    return written


def _require_directories(out: Path, gpus: Sequence[str], models: Sequence[str]) -> None:
    """InputError unless all the profiles can be written."""
    for name in gpus:
        require_directory(out / name / DIRECTORY, KERNEL_FILES)
        for model in (MODELS[m] for m in models):
            for tp in sensible_tp(model, GPUS[name]):
                require_directory(place_under(out, GPUS[name], model, tp), FILES)


def sensible_tp(model: ModelSpec, gpu: GpuSpec) -> list[int]:
    """Tensor-parallel sizes that divide the heads and leave a tenth of the memory for KV. None with
    experts or gated delta nets: at which sizes those were measured differs from GPU to GPU, and
    their tables are cut from the GPU's kernels when they are asked for.
    """
    if model.experts or model.delta_heads:
        return []
    fits = 0.8 * gpu.memory_bytes
    return [tp for tp in (1, 2, 4, 8) if model.heads % tp == 0 and model.parameters * 2 / tp < fits]
