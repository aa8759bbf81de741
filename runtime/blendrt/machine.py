"""What a measurement ran on, for its provenance."""

import gc
import importlib.metadata
import os
import platform
import shutil
import subprocess
from typing import Any

import torch

_PACKAGES = ("torch", "flashinfer-python", "triton", "vllm", "cuda-bindings", "numpy", "numba")
#: What nvidia-smi is asked for; clocks in MHz, power in W, temperature in °C.
_QUERY = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"


def describe(device: torch.device) -> dict[str, Any]:
    """Device, driver, clocks where they can be read, and library versions."""
    facts: dict[str, Any] = {"device": device_name(device), "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if device.type == "cuda":
        facts["cuda"] = torch.version.cuda
        told = ask_driver(device, _QUERY, "noheader,nounits")
        values, names = [value.strip() for value in told.split(",")], _QUERY.split(",")
        facts |= dict(zip(names, values, strict=True)) if len(values) == len(names) else {}
    return facts


def device_name(device: torch.device) -> str:
    """The GPU's name, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on the device."""
    if device.type == "cuda":
        # NOTE: torch keeps what was freed, and the driver counts that as used. A KV pool of before
        # would leave no room for the next one.
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:
            sizes = dict(line.split(":", 1) for line in file)
        return int(sizes["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def ask_driver(device: torch.device, query: str, style: str) -> str:
    """What nvidia-smi says of a GPU now, in a CSV of a style of its own; "" of other devices, and
    where there is no such command or it does not answer.
    """
    command = shutil.which("nvidia-smi")
    if command is None or device.type != "cuda":
        return ""
    # NOTE: torch numbers the GPUs that the process may see, nvidia-smi those of the machine.
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    named = f"--id={device.index or 0}" if uuid is None else f"--id=GPU-{uuid}"
    asked = [command, named, f"--query-gpu={query}", f"--format=csv,{style}"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout if told.returncode == 0 else ""
