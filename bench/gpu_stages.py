"""The stages of gpu_check.py before any plan is replayed: what each finds out about the runtime on
this machine.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from gpu_kernels import compare, of_profile
from gpu_options import Finding, Options, say
from gpu_small_steps import graphs
from machine import today

ATTENTION_ERROR = 0.01  # worst token against float32; rounding to bfloat16 alone makes 0.003
ROUNDINGS = 1.5  # an executor may err so many times as much as rounding alone


def build(options: Options) -> Iterator[Finding]:
    """The machine, and FlashInfer's kernels: compiled here, if they are not yet."""
    from blendrt.executor.streams import partition_failure
    from blendrt.fused import choose
    from blendrt.machine import describe
    from blendrt.profiler.target import open_device

    device = open_device(options.device)
    yield Finding("date", today())
    for name, value in describe(device).items():
        yield Finding(name, str(value))
    if not options.is_gpu:
        return
    failure = partition_failure(device)
    yield Finding("SMs can be split", failure or "yes", failure is None)
    slow = choose(device).failure
    yield Finding("small operators are our kernels", slow or "yes", slow is None)
    start = time.perf_counter()
    errors = _attention_errors(options, "fa2", worlds=1)
    seconds = time.perf_counter() - start
    yield Finding("first attention, kernels built or loaded", f"{seconds:.1f} s", max(errors) < 1)


def attention(options: Options) -> Iterator[Finding]:
    """Attention kernels against float32 on random batches."""
    from blendsim.errors import Unavailable

    for backend in ("fa2", "fa3") if options.is_gpu else ("reference",):
        try:
            prefill, decode = _attention_errors(options, backend, worlds=8)
        except Unavailable as error:  # fa3 takes ten minutes to build, and fa2 does instead
            if backend == "fa2":
                raise
            yield Finding(f"{backend}", f"left out: {error}")
            continue
        # Decodes run fa2's kernels in any case.
        found = {"prefill": prefill} if backend == "fa3" else {"prefill": prefill, "decode": decode}
        for what, error in found.items():
            yield Finding(f"{backend} {what}, error", f"{error:.2%}", error < ATTENTION_ERROR)


def executors(options: Options) -> Iterator[Finding]:
    """Both executors' logits against float32 on random steps."""
    from blendrt.executor.check import ROUNDING, compare_executors, compare_graphs
    from blendrt.executor.rule import default_sms
    from blendrt.executor.streams import NO_PARTITION, can_partition
    from blendrt.profiler.target import find_target

    config, device, dtype, make, rng, sizes = _small_world(options, "auto")
    sms = default_sms(find_target(device).sm_count)
    shares = [NO_PARTITION, sms] if options.is_gpu and can_partition(device) else [NO_PARTITION]
    found = compare_executors(config, 16, device, dtype, make, shares, rng, 4, sizes)
    for name, error in found.items():
        is_right = None if name == ROUNDING else error < ROUNDINGS * found[ROUNDING]
        yield Finding(f"logits, {name}, error", f"{error:.2%}", is_right)
    error = compare_graphs(config, 16, device, dtype, make, rng, sizes=sizes)
    is_right = error < ROUNDINGS * found[ROUNDING]
    yield Finding("a run by graphs beside kernel by kernel, error", f"{error:.2%}", is_right)


def profile(options: Options) -> Iterator[Finding]:
    """The kernel profile of the model, within its minutes."""
    from blendrt.profiler.measure import Request, measure_profile
    from blendrt.profiler.target import find_decoder, open_device

    config = find_decoder(options.model)
    request = Request(config, 1, open_device(options.device), options.minutes)
    done = measure_profile(request, options.profiles, say)
    gain, ratio = done.fit.best
    yield Finding("profile measured in", f"{done.seconds:.0f} s")
    yield Finding("overlap buys at best", f"{gain:.2f}× at memory/compute {ratio:.2f}")
    if done.fit.held_back:
        yield Finding(
            f"overlap fit, {done.fit.held_back} pairs held back, error",
            f"median {done.fit.median_error:.1%}, P90 {done.fit.p90_error:.1%}",
        )
    for note in done.profile.notes[-2:]:
        yield Finding("what the rules err by", note)
    if options.is_gpu:
        yield from _beside_shipped(done.profile, request)


def _beside_shipped(mine: Any, request: Any) -> Iterator[Finding]:
    """The measured profile beside the shipped one, which is somebody else's measurement."""
    from blendrt.profiler.target import find_target, spec_of
    from blendsim.perf.store import load_profile

    shipped = load_profile(find_target(request.device), spec_of(request.config))
    for kernel in compare(mine, of_profile(shipped)):
        range_of = f"{kernel.low:.2f} to {kernel.high:.2f} at {kernel.points} sizes"
        told = f"median {kernel.median:.3f}, {range_of}"
        yield Finding(f"{kernel.kernel}, measured over shipped", told, kernel.is_near)


STAGES: dict[str, Callable[[Options], Iterator[Finding]]] = {
    stage.__name__: stage for stage in (build, attention, executors, graphs, profile)
}


def _attention_errors(options: Options, backend: str, worlds: int) -> tuple[float, float]:
    """Worst relative errors of prefill and decode."""
    from blendrt.attention.check import compare

    config, device, dtype, make, rng, sizes = _small_world(options, backend)
    found = compare(make(), config, 16, device, dtype, rng, worlds, sizes)
    return max(d.prefill for d in found), max(d.decode for d in found)


def _small_world(options: Options, backend: str) -> tuple[Any, ...]:
    """A decoder small enough for float32 beside it, with the head size kernels are compiled for;
    its device and type, a maker of attentions, random numbers, and sizes of batches.
    """
    import numpy as np

    from blendrt.attention.check import Sizes
    from blendrt.attention.flashinfer import FlashInferAttention
    from blendrt.attention.reference import ReferenceAttention
    from blendrt.attention.support import FlashInferSettings
    from blendrt.config import TINY
    from blendrt.executor.check import HALF
    from blendrt.profiler.target import open_device

    device, rng = open_device(options.device), np.random.default_rng()
    if not options.is_gpu:
        small = Sizes(2, 20, 40, 12, 60, 3)
        return TINY, device, HALF, ReferenceAttention, rng, small
    config = replace(
        TINY,
        name="check",
        layers=4,
        hidden=1024,
        intermediate=2816,
        heads=8,
        kv_heads=2,
        head_dim=128,
        vocab=8192,
    )
    settings = FlashInferSettings(prefill=backend)  # type: ignore[arg-type]

    def make() -> FlashInferAttention:
        return FlashInferAttention(config, 16, device, HALF, settings)

    # Contexts long enough for some of them to be cut.
    return config, device, HALF, make, rng, Sizes(context_tokens=9000)
