"""What kernels do in a run, summed up from a trace: by stream and kind, and which run at once."""

import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

from blendsim.errors import Unavailable
from blendsim.perf.derive import OPERATORS

GEMM, DECODE, PREFILL, SMALL = "gemm", "decode attention", "prefill attention", "small"
_SPIN = "spin_kernel"  # torch's sleep
_REDUCE = "splitkreduce"  # adds up what a GEMM left in parts
#: Parts of kernels' names, the first that is found counts. FlashInfer's fa2 runs decodes, on tensor
#: cores by its kernel for prefills of a batch, and with a causal mask prefills; fa3's runs prefills
#: only. Operators' names are a CPU's.
_KINDS = (
    (PREFILL, ("MaskMode)1",)),
    (DECODE, ("BatchPrefillWithPagedKV", "BatchDecodeWithPagedKV", "MergeStates")),
    (PREFILL, ("PrefillWithKVCache", "PrefillWithPagedKV")),
    (
        GEMM,
        ("nvjet", "gemm", "splitK", "cutlass", "xmma", "aten::mm", "aten::addmm", "aten::linear"),
    ),
)
#: NOTE: an operator of a CPU holds those it calls, which is why busy time is a union everywhere.
_CATEGORIES = {"cuda": ("kernel",), "cpu": ("cpu_op",)}


class Kernel(NamedTuple):
    """One kernel's run."""

    stream: int
    name: str
    start: float  # seconds
    seconds: float


class Span(NamedTuple):
    """From when until when."""

    start: float
    end: float


def trace(device: torch.device, run: Callable[[], object]) -> list[Kernel]:
    """The kernels of a run, which waits for the device itself; Unavailable where none are seen."""
    kinds = torch.profiler.ProfilerActivity
    activity = kinds.CUDA if device.type == "cuda" else kinds.CPU
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        try:
            with torch.profiler.profile(activities=[activity]) as profiler:
                run()
            profiler.export_chrome_trace(str(path))
            told = json.loads(path.read_text())
        except (RuntimeError, AssertionError, OSError, ValueError) as error:
            raise Unavailable(f"no trace, {type(error).__name__}: {error}") from error
    kernels = list(_kernels(told["traceEvents"], _CATEGORIES[device.type]))
    if not kernels:
        raise Unavailable("torch's profiler saw no kernel")
    return kernels


def _kernels(events: Iterable[dict[str, Any]], categories: Sequence[str]) -> Iterable[Kernel]:
    for event in events:
        if event.get("ph") == "X" and event.get("cat") in categories:
            if _SPIN in event["name"]:
                continue
            stream = event.get("args", {}).get("stream", event["tid"])
            yield Kernel(int(stream), event["name"], event["ts"] * 1e-6, event["dur"] * 1e-6)


def kind_of(name: str) -> str:
    """The kind of a kernel."""
    for kind, parts in _KINDS:
        if any(part in name for part in parts):
            return kind
    return SMALL


def summed_up(kernels: Sequence[Kernel], runs: int) -> dict[str, Any]:
    """Seconds a run: of all, of each kind of kernel, of each stream and its gaps, and of the time
    that one stream alone, two, or none is busy.
    """
    streams = sorted({kernel.stream for kernel in kernels})
    of = {s: [k for k in kernels if k.stream == s] for s in streams}
    spans = {s: _union(of[s]) for s in streams}
    first = min(kernel.start for kernel in kernels)
    span = max(kernel.start + kernel.seconds for kernel in kernels) - first
    names = _roles(of)
    alone, together = _alone(spans)
    busy = sum(alone.values()) + together
    return {
        "seconds": span / runs,
        "kernels": len(kernels) / runs,
        "kinds": {kind: seconds / runs for kind, seconds in _by_kind(kernels).items()},
        "streams": {names[s]: _stream(of[s], spans[s], runs) for s in streams},
        "alone": {names[s]: alone[s] / runs for s in streams},
        "together": together / runs,
        "idle": (span - busy) / runs,
        "decode_tenths": _tenths([k.seconds for k in kernels if kind_of(k.name) == DECODE]),
    }


def by_operator(kernels: Iterable[Kernel], layers: int, runs: int) -> dict[str, float]:
    """Seconds a run of each of a decoder's GEMMs, all layers together, by the order in which they
    run; empty where there are more or fewer of them than a decoder has.
    """
    took: list[float] = []
    for kernel in sorted(kernels, key=lambda kernel: kernel.start):
        if kind_of(kernel.name) != GEMM:
            continue
        if took and _REDUCE in kernel.name.lower():
            took[-1] += kernel.seconds
        else:
            took.append(kernel.seconds)
    *in_a_layer, head = OPERATORS
    names = [*in_a_layer * layers, head] * runs
    if len(took) != len(names):
        return {}
    told = dict.fromkeys(OPERATORS, 0.0)
    for name, seconds in zip(names, took, strict=True):
        told[name] += seconds / runs
    return told


def last_runs(kernels: Sequence[Kernel], runs: int) -> tuple[list[Kernel], int]:
    """The kernels of the second half of some like runs in a row, and how many runs that are; all of
    them where a run's share of the kernels is no whole number.
    """
    ordered = sorted(kernels, key=lambda kernel: kernel.start)
    kept = max(1, runs // 2)
    if len(ordered) % runs:
        return ordered, runs
    return ordered[len(ordered) // runs * (runs - kept) :], kept


def _tenths(values: Sequence[float]) -> list[float]:
    """The least, the first, the fifth and the ninth tenth, and the most; none of no values. Unlike
    kernels make the other lane wait where alike ones would not.
    """
    ranked = sorted(values)
    return [ranked[round(q * (len(ranked) - 1))] for q in (0.0, 0.1, 0.5, 0.9, 1.0) if ranked]


def _stream(kernels: Sequence[Kernel], spans: Sequence[Span], runs: int) -> dict[str, Any]:
    gaps = [b.start - a.end for a, b in pairwise(spans)]
    return {
        "kernels": len(kernels) / runs,
        "busy": sum(span.end - span.start for span in spans) / runs,
        "gaps": len(gaps) / runs,
        "gap_seconds": sum(gaps) / runs,
        "gap_median": statistics.median(gaps) if gaps else 0.0,
        "kinds": {kind: seconds / runs for kind, seconds in _by_kind(kernels).items()},
    }


def _by_kind(kernels: Sequence[Kernel]) -> dict[str, float]:
    told: dict[str, float] = {}
    for kernel in kernels:
        kind = kind_of(kernel.name)
        told[kind] = told.get(kind, 0.0) + kernel.seconds
    return told


def _roles(of: dict[int, list[Kernel]]) -> dict[int, str]:
    """Streams by what most of their time goes to: the lane of attention, that of GEMMs (the busiest
    of them), and others by number.
    """
    names = {stream: f"stream {stream}" for stream in of}
    for kind in (GEMM, DECODE):
        most = max(of, key=lambda s: _by_kind(of[s]).get(kind, 0.0))
        if len(of) > 1 and _by_kind(of[most]).get(kind):
            names[most] = f"{kind} lane"
    return names


def _union(kernels: Sequence[Kernel]) -> list[Span]:
    """When any of them runs."""
    told: list[Span] = []
    for start, end in sorted((k.start, k.start + k.seconds) for k in kernels):
        if told and start <= told[-1].end:
            told[-1] = Span(told[-1].start, max(end, told[-1].end))
        else:
            told.append(Span(start, end))
    return told


def _alone(spans: dict[int, list[Span]]) -> tuple[dict[int, float], float]:
    """Seconds that each stream is busy alone, and that two or more are."""
    changes = sorted(
        (time, turn, stream)
        for stream, told in spans.items()
        for span in told
        for time, turn in ((span.start, 1), (span.end, -1))
    )
    alone, together = dict.fromkeys(spans, 0.0), 0.0
    busy: set[int] = set()
    last = 0.0
    for time, turn, stream in changes:
        if len(busy) == 1:
            alone[next(iter(busy))] += time - last
        elif busy:
            together += time - last
        last = time
        (busy.add if turn > 0 else busy.discard)(stream)
    return alone, together
