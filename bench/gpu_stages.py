"""The stages of gpu_check.py: what each finds out about the runtime on this machine."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

ATTENTION_ERROR = 0.01  # worst token against float32; rounding to bfloat16 alone makes 0.003
ROUNDINGS = 1.5  # an executor may err so many times as much as rounding alone


@dataclass(frozen=True, slots=True)
class Options:
    """What the check is asked for."""

    device: str
    model: str
    minutes: float
    requests: int
    out: Path

    @property
    def is_gpu(self) -> bool:
        """Or a CPU that goes the same way."""
        return self.device == "cuda"


class Finding(NamedTuple):
    """One line of the table. `ok` is None for what has no right or wrong."""

    what: str
    value: str
    ok: bool | None = None


def build(options: Options) -> Iterator[Finding]:
    """The machine, and FlashInfer's kernels: compiled here, if they are not yet."""
    from blendrt.executor.streams import can_partition, can_steer_cublas
    from blendrt.machine import describe
    from blendrt.profiler.target import open_device

    device = open_device(options.device)
    for name, value in describe(device).items():
        yield Finding(name, str(value))
    if not options.is_gpu:
        return
    yield Finding("SMs can be split", str(can_partition()), can_partition())
    yield Finding("cuBLAS can be told its SMs", str(can_steer_cublas()), can_steer_cublas())
    start = time.perf_counter()
    errors = _attention_errors(options, "fa2", worlds=1)
    seconds = time.perf_counter() - start
    yield Finding("first attention, kernels built or loaded", f"{seconds:.1f} s", max(errors) < 1)


def attention(options: Options) -> Iterator[Finding]:
    """Attention kernels against float32 on random batches."""
    for backend in ("fa2", "fa3") if options.is_gpu else ("reference",):
        prefill, decode = _attention_errors(options, backend, worlds=8)
        for what, error in (("prefill", prefill), ("decode", decode)):
            yield Finding(f"{backend} {what}, error", f"{error:.2%}", error < ATTENTION_ERROR)


def executors(options: Options) -> Iterator[Finding]:
    """Both executors' logits against float32 on random steps."""
    from blendrt.executor.check import ROUNDING, compare_executors
    from blendrt.executor.rule import default_sms
    from blendrt.executor.streams import NO_PARTITION, can_partition
    from blendrt.profiler.target import find_target

    config, device, dtype, make, rng, sizes = _small_world(options, "fa2")
    sms = default_sms(find_target(device).sm_count)
    shares = [NO_PARTITION, sms] if options.is_gpu and can_partition() else [NO_PARTITION]
    found = compare_executors(config, 16, device, dtype, make, shares, rng, 4, sizes)
    for name, error in found.items():
        is_right = None if name == ROUNDING else error < ROUNDINGS * found[ROUNDING]
        yield Finding(f"logits, {name}, error", f"{error:.2%}", is_right)


def profile(options: Options) -> Iterator[Finding]:
    """The kernel profile of the model, within its minutes."""
    from blendrt.profiler.measure import Request, measure_profile
    from blendrt.profiler.target import find_decoder, open_device

    config = find_decoder(options.model)
    request = Request(config, 1, open_device(options.device), options.minutes)
    done = measure_profile(request, options.out / "profiles", say)
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


def replay(options: Options) -> Iterator[Finding]:
    """A small plan on both executors, whole and sampled, beside what the step model says."""
    from blendrt import loading
    from blendrt.profiler.target import find_decoder, open_device
    from blendrt.replay.full import FullReplay
    from blendrt.replay.sampled import SampledReplay
    from blendsim.steplog import write_steplog

    device = open_device(options.device)
    job = _small_plan(options)
    weights = loading.ModelChoice(find_decoder(options.model), None)
    decoder = loading.load_decoder(weights, 0, device)
    rule = loading.overlap_rule(job.system, "auto", device)
    seconds: dict[str, float] = {}
    for name in loading.EXECUTORS:
        runtime = loading.Runtime(decoder, name, 0, rule)
        whole = FullReplay(job)
        whole.measure(runtime)
        log = whole.log({"executor": name, "model": decoder.config.name})
        write_steplog(log, options.out / f"full-{name}.parquet")
        seconds[name] = float(log.times[:, 1].sum())
        is_complete = bool(log.meta["complete"])
        yield Finding(f"full, {name}", f"{len(log)} steps in {seconds[name]:.2f} s", is_complete)
        if options.is_gpu:
            yield from _modelled(options, job, log, name == loading.OVERLAP)
    if options.is_gpu:
        speedup = seconds[loading.SEQUENTIAL] / seconds[loading.OVERLAP]
        yield Finding("overlapped against sequential", f"{speedup:.3f}×")
    some = SampledReplay(job, max(2, len(log) // 4))
    some.measure(loading.Runtime(decoder, loading.OVERLAP, 0, rule))
    write_steplog(some.log({"model": decoder.config.name}), options.out / "sampled-overlap.parquet")
    told = some.estimate()
    interval = f"{told['low']:.2f}–{told['high']:.2f} s at {told['level']:.0%}"
    yield Finding(
        f"sampled, overlap, {told['measured']} steps", f"{told['seconds']:.2f} s, {interval}"
    )


STAGES: dict[str, Callable[[Options], Iterator[Finding]]] = {
    stage.__name__: stage for stage in (build, attention, executors, profile, replay)
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


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
    from blendrt.attention.flashinfer import FlashInferAttention, FlashInferSettings
    from blendrt.attention.reference import ReferenceAttention
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

    return config, device, HALF, make, rng, Sizes()


def _small_plan(options: Options) -> Any:
    """A blended plan of a small pool for this GPU, as `blendsim plan` makes it; no simulator."""
    from blendrt.profiler.target import find_target, open_device
    from blendrt.replay.job import Job
    from blendsim.perf.density import closed_form
    from blendsim.planner.blend import BlendSettings
    from blendsim.planner.make import make_plan
    from blendsim.planner.outlook import look_ahead, reported_lengths
    from blendsim.prefix import sort_prompts
    from blendsim.serving.flavour import find_flavour
    from blendsim.specs import System, find_gpu, find_model

    if options.is_gpu:
        gpu = find_target(open_device(options.device))
        system, budget, longest = System(find_model(options.model), gpu), None, 1000
    else:  # the schedule of a large model in little memory; the tiny one runs it
        system = System(find_model("llama-3.1-8b"), find_gpu("h200"), kv_bytes=1 << 31)
        budget, longest = 256, 60
    pool = _small_pool(options.requests, longest)
    prompts = sort_prompts(pool)
    lengths, drawn = look_ahead(pool, prompts, system.longest_request, 0.05, 0)
    costs = closed_form(system, pool.prompt_len, lengths.expected)
    plan = make_plan("blend", pool, prompts, lengths, costs, BlendSettings(), 0, {})
    outputs = reported_lengths(pool, drawn)
    return Job(plan, pool, outputs, prompts, system, find_flavour("nanoflow", budget))


def _small_pool(requests: int, longest: int) -> Any:
    """Half questions behind one of eight long common heads, answered in a word; half stories, told
    at up to `longest` tokens.
    """
    import numpy as np

    from blendsim.request import Prompts, from_lengths

    rng = np.random.default_rng(0)
    heads = rng.integers(0, 30_000, (8, longest // 2))
    prompts, outputs = [], []
    for i in range(requests):
        own = rng.integers(0, 30_000, rng.integers(longest // 20, longest // 8))
        prompts.append(np.concatenate((heads[rng.integers(8)], own)) if i % 2 else own)
        outputs.append(rng.integers(1, 5) if i % 2 else rng.integers(longest // 4, longest))
    content = Prompts(
        offsets=np.cumsum([0, *map(len, prompts)]),
        units=np.concatenate(prompts).astype(np.int32),
        space=np.zeros(requests, np.int32),
        unit_tokens=np.ones(1, np.int32),
        space_names=("tokens",),
    )
    return from_lengths([len(p) for p in prompts], outputs, prompts=content)


def _modelled(options: Options, job: Any, log: Any, overlaps: bool) -> Iterator[Finding]:
    """The step model's time for the very steps that ran, by the shipped and the new profile."""
    import numpy as np

    from blendsim.perf.model import step_model
    from blendsim.perf.overlap import FILE, hull
    from blendsim.perf.pricing import price_steps
    from blendsim.perf.records import column, read_rows
    from blendsim.perf.store import load_profile

    system, measured = job.system, log.times[:, 1]
    models = {"shipped profile": step_model(system)}
    place = options.out / "profiles" / system.gpu.name / system.model.name / "tp1"
    if (place / FILE).exists():
        mine = load_profile(system.gpu, system.model, 1, options.out / "profiles")
        _, rows = read_rows(place / FILE, ["memory_over_compute", "time_over_compute"])
        lines = hull(column(place / FILE, rows, 0), column(place / FILE, rows, 1))
        models["this profile"] = replace(step_model(system, "sum", mine), lines=lines)
    for name, model in models.items():
        told = price_steps(model, log.counts, overlaps)
        step = float(np.median(np.abs(told / measured - 1)))
        total = float(told.sum() / measured.sum() - 1)
        yield Finding(f"  {name}, error", f"total {total:+.1%}, median step {step:.1%}")
