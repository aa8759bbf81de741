"""What a profile is about: which model of our tables' kind, on which GPU of our tables."""

import dataclasses
from pathlib import Path

import torch

from blendrt.config import TINY, DecoderConfig
from blendrt.machine import ask_driver, device_name
from blendsim.errors import Unavailable, UnknownName
from blendsim.specs import GPUS, LINKS, GpuSpec, ModelSpec, find_model, gpu_name

CPU, CUDA = "cpu", "cuda"
DEVICES = (CUDA, CPU)

#: Where the path is tried without a GPU. Its peaks are so high that they limit nothing measured.
CPU_SPEC = GpuSpec(
    CPU, flops=1e15, bandwidth=1e15, memory_bytes=1 << 34, sm_count=1, link=LINKS["pcie4"]
)
_NEAR = 0.1  # of the memory a driver reports and the one in our table
_QUERY = "clocks.sm,power.draw,temperature.gpu"


def find_target(device: torch.device) -> GpuSpec:
    """The GPU of our tables that a device is: by name and memory, since names are shared."""
    if device.type != CUDA:
        return CPU_SPEC
    told = device_name(device)
    memory = torch.cuda.get_device_properties(device).total_memory
    found = match_gpu(told, memory)
    if found is None:
        raise Unavailable(
            f"{told} with {memory / 1e9:.0f} GB is none of the GPUs in the table "
            f"({', '.join(GPUS)}); add it to blendsim/specs.py"
        )
    return found


def match_gpu(told: str, memory_bytes: int) -> GpuSpec | None:
    """The GPU that a driver means by a name like "NVIDIA A100-SXM4-80GB"."""
    gpu = GPUS.get(gpu_name(told))
    is_it = gpu is not None and abs(memory_bytes / gpu.memory_bytes - 1.0) < _NEAR
    return gpu if is_it else None


def open_device(name: str) -> torch.device:
    """The device asked for; Unavailable if torch has none of the kind."""
    if name not in DEVICES:
        raise UnknownName("device", name, DEVICES)
    if name == CUDA and not torch.cuda.is_available():
        raise Unavailable(
            f"--device cuda: torch {torch.__version__} finds no GPU on this machine; "
            "--device cpu --model tiny tries the path without one"
        )
    return torch.device(name, torch.cuda.current_device()) if name == CUDA else torch.device(CPU)


def find_decoder(model: str) -> DecoderConfig:
    """The decoder to measure: `tiny`, a name of our tables, or a model directory."""
    if model == TINY.name:
        return TINY
    if Path(model).is_dir():
        return DecoderConfig.from_directory(Path(model))
    return DecoderConfig.from_spec(find_model(model))


def spec_of(config: DecoderConfig) -> ModelSpec:
    """The table's view of a decoder, which has no towers beside it."""
    shape = {field.name for field in dataclasses.fields(config)}
    known = (field.name for field in dataclasses.fields(ModelSpec))
    return ModelSpec(**{name: getattr(config, name) for name in known if name in shape})


def conditions(device: torch.device) -> str:
    """Clock, power and temperature now, as the driver tells them; "" where nobody does."""
    return " ".join(ask_driver(device, _QUERY, "noheader").split())
