"""Measure a model's profile: table after table, the most needed first, each on disk when done.

A GPU is warmed up first, and kept at work from then on. The minutes left are shared out; what a
table leaves over the next ones have. If the run is cut short, what was measured stays; a profile
loads once it has GEMMs and both attentions.
"""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

import blendsim
from blendrt.config import DecoderConfig
from blendrt.executor.streams import partition_failure
from blendrt.fused import choose
from blendrt.machine import describe
from blendrt.profiler import clocks
from blendrt.profiler.filler import StepFiller
from blendrt.profiler.findings import find_rules, overlap_figures
from blendrt.profiler.rig import Rig, build_rig
from blendrt.profiler.sizes import CPU_SIZES, GPU_SIZES, Sizes
from blendrt.profiler.tables import PAIRS, TABLE_FILES, TABLES
from blendrt.profiler.target import CPU_SPEC, conditions, find_target, spec_of
from blendrt.profiler.timer import EventTimer, WallTimer
from blendrt.profiler.warming import MOST, gemm_stretch, warm_up
from blendsim.errors import InputError
from blendsim.files import make_directory, require_directory
from blendsim.perf.fit import OverlapFit, fit_overlap
from blendsim.perf.grids import AttentionGrid
from blendsim.perf.model_shapes import gemm_shapes, head_shape, shape_of
from blendsim.perf.profile import Profile
from blendsim.perf.store import (
    FILES,
    load_profile,
    place_under,
    read_profile,
    write_meta,
    write_reduce,
)
from blendsim.perf.waves import Waves, fit_waves
from blendsim.specs import GpuSpec
from blendsim.system import System
from blendsim.wording import Say

_BANDWIDTH_SHARE, _LAUNCH_SECONDS = 0.8, 3e-6  # where small operators were not measured
_WARM_SHARE = 0.25  # of the minutes, at most
#: Of the parts of the tables so far, in seconds of filler at most: in a short profile sizes count
#: for more. By the times of an H200's profile of 46 s filler for all of it is some 23 s.
_FILLER_SHARE = 1 / 3
_LEAST_WAVE_BATCHES = 4  # a cliff is found by leaving a batch out between two others


@dataclass(frozen=True, slots=True)
class Request:
    """What to measure: one of `tp` GPUs' part of a model, in so many minutes."""

    config: DecoderConfig
    tp: int
    device: torch.device
    minutes: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.minutes < math.inf:
            raise InputError(f"--minutes {self.minutes:g} must be above 0; 4 is enough for a model")

    @property
    def sizes(self) -> Sizes:
        """What is measured on this kind of device."""
        return GPU_SIZES if self.device.type == "cuda" else CPU_SIZES


class Measured(NamedTuple):
    """What came of it."""

    directory: Path
    profile: Profile
    fit: OverlapFit
    seconds: float


def measure_profile(request: Request, out: Path, say: Say = lambda _: None) -> Measured:
    """Measure into `out/<gpu>/<model>/tp<N>`; InputError for a split that no GPU can have."""
    begun = time.perf_counter()
    gpu = find_target(request.device)
    # This checks the split. Any KV memory will do: the rig has a pool of its own.
    system = System(spec_of(request.config), gpu, request.tp, kv_bytes=1 << 40)
    directory = place_under(out, gpu, system.model, request.tp)
    require_directory(directory, {*FILES, *TABLE_FILES})
    make_directory(directory)
    meta = _provenance(request, system)
    if request.tp > 1:
        write_reduce(directory / "all_reduce.csv", _all_reduce(system, meta))
    say("making weights and KV pages")
    with (
        torch.inference_mode(),
        build_rig(request.config, request.tp, request.device, request.seed) as rig,
    ):
        meta["backend"] = rig.backend
        fit = _measure_tables(rig, request, directory, meta, gpu, say)
    profile = read_profile(directory)
    meta["notes"] += find_rules(profile, system, directory)
    write_meta(directory, meta)
    return Measured(directory, read_profile(directory), fit, time.perf_counter() - begun)


class _Busy:
    """What keeps a GPU at work while tables are measured: filler, and the timer that has it."""

    def __init__(self, filler: StepFiller, device: torch.device) -> None:
        self.filler = filler
        self.timer = EventTimer(device, filler=filler)
        self._filled = 0.0

    def begin(self, most: float) -> None:
        """A table begins, at the end of which there may have been so many seconds of filler."""
        self.filler.most, self._filled = most, self.filler.queued
        self.timer.clocks.clear()

    @property
    def told(self) -> list[str]:
        """Of the table's time, as provenance has it: its filler, and the GPU's clock."""
        spent = " (all of its part)" if self.filler.is_spent else ""
        told = [f"{self.filler.queued - self._filled:.1f} s of filler{spent}"]
        if self.timer.clocks:
            told.append(f"clock while timing {clocks.summary(self.timer.clocks)}")
        return told


def _measure_tables(
    rig: Rig,
    request: Request,
    directory: Path,
    meta: dict[str, Any],
    gpu: GpuSpec,
    say: Say,
) -> OverlapFit:
    """All tables, each written with its provenance before the next begins."""
    end, busy = time.perf_counter() + 60.0 * request.minutes, None
    if request.device.type == "cuda":
        _warm(rig, request, meta, say)
        busy = _Busy(StepFiller(rig, request.sizes.beside), request.device)
        rig = replace(rig, timer=busy.timer)
        meta["timing"] += f"; {busy.filler.told}"
    start, share, fit = time.perf_counter(), 0.0, None
    left = end - start
    before = _state(request.device, busy)
    for table in TABLES:
        share += table.part
        deadline = start + left * share
        if busy is not None:
            busy.begin(_FILLER_SHARE * left * share)
        say(f"measuring {table.name}")
        began = time.perf_counter()
        found = table.measure(rig, request.sizes, partial(_is_past, deadline))
        took = time.perf_counter() - began
        after = _state(request.device, busy)  # at once, while the GPU is as it was
        told = [f"{table.save(directory, found)} in {took:.1f} s", *(busy.told if busy else [])]
        told += [f"from {before} to {after}"] if before else []
        meta["tables"][table.name], before = ", ".join(told), after
        if table.name == "decode_attention":
            meta["waves"] = _waves(found, rig, gpu)._asdict()
        if table.name == PAIRS:
            fit = fit_overlap(found)
            meta["overlap"] = overlap_figures(fit)
        write_meta(directory, meta)
    assert fit is not None, "pairs are a table"
    return fit


def _warm(rig: Rig, request: Request, meta: dict[str, Any], say: Say) -> None:
    """Warm the GPU up, and note what that came to."""
    say("warming the GPU up")
    before = conditions(request.device)
    done = warm_up(gemm_stretch(rig), min(MOST, _WARM_SHARE * 60.0 * request.minutes))
    told = [done.told, *([f"from {before} to {conditions(request.device)}"] if before else [])]
    meta["warm_up"] = ", ".join(told)


def _state(device: torch.device, busy: _Busy | None) -> str:
    """Clock, power and temperature of a device. A GPU that is kept busy is so meanwhile, however
    long the driver takes.
    """
    if busy is None:
        return conditions(device)
    with ThreadPoolExecutor(1) as thread:
        told = thread.submit(conditions, device)
        busy.filler.fill_until(told.done)
    return told.result()


def _is_past(deadline: float) -> bool:
    return time.perf_counter() > deadline


def _provenance(request: Request, system: System) -> dict[str, Any]:
    """meta.toml before anything is measured."""
    machine = {key.replace(".", "_"): str(value) for key, value in describe(request.device).items()}
    model, tp = system.model, system.tp
    shape = head_shape(model, tp)
    notes = [f"gemm {name} {n}×{k}: measured" for name, (n, k) in gemm_shapes(model, tp).items()]
    notes += [f"attention {shape.heads}/{shape.kv_heads}/{shape.head_dim}: measured"]
    return {
        "gpu": system.gpu.name,
        "model": model.name,
        "tp": tp,
        "notes": notes,
        "source": f"measured by blendsim {blendsim.__version__} on random weights and KV",
        "backend": "",
        "device": machine["device"],
        "dates": datetime.now(UTC).date().isoformat(),
        "timing": _timing(request.device),
        "shape": shape_of(model),
        "gemm_tile": request.sizes.gemm_tile,
        "warm_up": "none",
        "tables": {},
        "small_operators": {
            "kernels": _kernels(request.device),
            "model": "small.csv where there is one, else launch + bytes / (share × peak bandwidth)",
            "bandwidth_share": _BANDWIDTH_SHARE,
            "launch_seconds": _LAUNCH_SECONDS,
        },
        "waves": Waves(1, 0.0, 0.0, 0.0)._asdict(),
        "machine": machine,
    }


def _kernels(device: torch.device) -> str:
    failure = choose(device).failure
    return "Triton's, one an operator" if failure is None else f"torch's own ({failure})"


def _timing(device: torch.device) -> str:
    if device.type != "cuda":
        return f"wall clock, median of {WallTimer.REPEATS} calls; pairs run one after the other"
    failure = partition_failure(device)
    parts = "SMs split by green contexts" if failure is None else f"plain streams only ({failure})"
    return (
        f"CUDA events, median of {EventTimer.REPEATS} queued stretches; a layer's GEMMs from "
        f"{GPU_SIZES.settled_tokens} tokens in a stream of {EventTimer.SETTLED:g} s, "
        f"its second half; pairs: {parts}"
    )


def _all_reduce(system: System, meta: dict[str, Any]) -> Any:
    """What one GPU cannot measure, from the profile that is there."""
    if system.gpu == CPU_SPEC:
        raise InputError(f"--tp {system.tp} needs a GPU whose all-reduce is known; use --tp 1")
    imported = load_profile(system.gpu, system.model, system.tp)
    assert imported.reduce is not None, "a profile of several GPUs has an all-reduce"
    meta["notes"].append(f"all-reduce on {system.tp} GPUs: not measured, {imported.meta['source']}")
    return imported.reduce


def _waves(grid: AttentionGrid, rig: Rig, gpu: GpuSpec) -> Waves:
    """The decode kernel's cliff between the batches measured, if it has one."""
    config = rig.config
    shape = head_shape(spec_of(config), 1)
    if config.head_dim != 128 or len(grid.batches) < _LEAST_WAVE_BATCHES:
        return Waves(1, 0.0, 0.0, 0.0)
    return fit_waves({shape: grid}, gpu.sm_count)
