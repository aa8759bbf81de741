"""What a part of a GPU's SMs does: GEMMs and decode attention alone on their parts, then together.

For every share of the SMs: the GEMMs of a layer as cuBLAS runs them, told how many SMs it has and
not told, and as a persistent kernel of so many programs; decode attention; both together. And
decodes of unlike contexts, by how these are cut.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from experiments.persistent import PersistentGemm
from torch.nn import functional

from blendrt.attention.flashinfer import FlashInferAttention
from blendrt.attention.support import FlashInferSettings
from blendrt.config import DecoderConfig
from blendrt.executor.streams import NO_PARTITION, split_gpu
from blendrt.profiler.kernels import lognormal
from blendrt.profiler.rig import Rig, build_rig
from blendrt.profiler.timer import Call

NAMES = ("qkv", "o", "gate_up", "down")
SHARES = (NO_PARTITION, 16, 32, 40, 48, 56, 64, 72, 80)  # attention's SMs
TOKENS = (1024, 512, 2048)
DECODES = ((256, 1024), (256, 3072))
_MOST_ERROR = 0.01  # of a GEMM in bfloat16 against another
CHUNKS = (0, 512, 1024, 2048, 4096, 8192, None)  # 0: FlashInfer's own, None: ours


class Parts:
    """One rig, and who hears of every measurement, a record of plain values."""

    def __init__(self, rig: Rig, heard: Callable[[dict[str, Any]], None]) -> None:
        self.rig = rig
        self.chip = torch.cuda.get_device_properties(rig.device).multi_processor_count
        self._heard = heard

    def note(self, **told: Any) -> None:
        """Tell a measurement."""
        self._heard(told)

    def alone(self, call: Call, share: int, *, is_attention: bool = False, told: int = 0) -> float:
        """Seconds of a call on its part of the SMs, attention's share or the rest."""
        split = split_gpu(self.rig.device, share)
        stream = split.attention if is_attention else split.gemm

        def on_part(i: int) -> None:
            with torch.cuda.stream(stream), cublas_told(told):
                call(i)
            torch.cuda.current_stream().wait_stream(stream)

        def run(calls: int) -> None:
            stream.wait_stream(torch.cuda.current_stream())
            for i in range(calls):
                on_part(i)

        return float(self.rig.timer.stretches(run))  # type: ignore[attr-defined]

    def layer(self, calls: list[Call]) -> Call:
        """A layer's GEMMs, one after another."""
        return lambda i: [call(i) for call in calls]

    def gemms(self, tokens: int) -> dict[str, Call]:
        """Each GEMM as torch calls it, layer after layer."""
        return {name: self._gemm(name, tokens) for name in NAMES}

    def persistent(self, tokens: int) -> dict[str, Callable[[int], Call]]:
        """Each GEMM as a persistent kernel, its programs yet to be named; checked against torch."""
        return {name: self._persistent(name, tokens) for name in NAMES}

    def attention(self, contexts: Any, chunk: int | None = None) -> Call:
        """Decode attention of a batch."""
        rig, q = self.rig, self.rig.queries(len(contexts))
        settings = FlashInferSettings(decode_chunk=chunk)
        attention = FlashInferAttention(
            rig.config, rig.pool.block_tokens, rig.device, q.dtype, settings
        )
        attention.plan(rig.decodes(contexts))
        return lambda i: attention.decode(rig.layer(i), q, rig.pool)

    def _gemm(self, name: str, tokens: int) -> Call:
        weights = [getattr(layer, name) for layer in self.rig.decoder.weights.layers]
        x = self.rig.noise(tokens, weights[0].shape[1])
        return lambda i: functional.linear(x, weights[i % len(weights)])

    def _persistent(self, name: str, tokens: int) -> Callable[[int], Call]:
        weights = [getattr(layer, name) for layer in self.rig.decoder.weights.layers]
        x = self.rig.noise(tokens, weights[0].shape[1])
        made = PersistentGemm(x, weights, 128, 256)
        made.run(self.chip, 0)
        right = functional.linear(x, weights[0]).float()
        error = float((made.y.float() - right).norm() / right.norm())
        self.note(what="check", name=name, tokens=tokens, error=error)
        assert error < _MOST_ERROR, f"{name} of {tokens} tokens is {error:.1%} off torch's"
        return made.of


def measure_parts(
    config: DecoderConfig,
    device: torch.device,
    heard: Callable[[dict[str, Any]], None],
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """All measurements of a model on one GPU, half a minute on an H200."""
    with torch.inference_mode(), build_rig(config, 1, device, 0) as rig:
        _measure(Parts(rig, heard), say)


def _measure(parts: Parts, say: Callable[[str], None]) -> None:
    for tokens in TOKENS:
        _gemms_on_parts(parts, tokens)
        say(f"GEMMs of {tokens} tokens done")
    for batch, context in DECODES:
        call = parts.attention(np.full(batch, context))
        for share in SHARES:
            seconds = parts.alone(call, share, is_attention=True)
            sms = share or parts.chip
            parts.note(what="decode", batch=batch, context=context, sms=sms, seconds=seconds)
    say("decodes done")
    _skewed(parts)
    say("skewed decodes done")
    for tokens in TOKENS[:2]:
        _pairs(parts, tokens)
        say(f"pairs of {tokens} tokens done")


def _gemms_on_parts(parts: Parts, tokens: int) -> None:
    plain, own = parts.gemms(tokens), parts.persistent(tokens)
    for share in SHARES:
        sms = parts.chip - share
        for name in NAMES:
            ways = {"cuBLAS": (plain[name], 0), "persistent": (own[name](sms), 0)}
            if share:
                ways["cuBLAS, told"] = (plain[name], sms)
            for by, (call, told) in ways.items():
                seconds = parts.alone(call, share, told=told)
                parts.note(what="gemm", by=by, name=name, tokens=tokens, sms=sms, seconds=seconds)


def _pairs(parts: Parts, tokens: int) -> None:
    """A layer's GEMMs beside decode attention."""
    plain, own = parts.layer(list(parts.gemms(tokens).values())), parts.persistent(tokens)
    together = parts.rig.timer.together
    compute = parts.alone(plain, NO_PARTITION)
    for batch, context in DECODES:
        attend = parts.attention(np.full(batch, context))
        memory = parts.alone(attend, NO_PARTITION, is_attention=True)
        for share in SHARES:
            ways = {"cuBLAS": plain}
            if share:
                ways["persistent"] = parts.layer([own[n](parts.chip - share) for n in NAMES])
            for by, dense in ways.items():
                seconds = together(attend, dense, share)
                sizes = {"tokens": tokens, "batch": batch, "context": context, "share": share}
                times = {"compute": compute, "memory": memory, "seconds": seconds}
                parts.note(what="pair", by=by, **sizes, **times)


def _skewed(parts: Parts) -> None:
    """Decodes of unlike contexts, by how these are cut."""
    rng = parts.rig.rng
    chats, videos = rng.integers(100, 1500, 300), rng.integers(500, 30_000, 60)
    worlds = {
        "256 alike": np.full(256, 1024),
        "256 lognormal": lognormal(rng, 256, 1024),
        "64 lognormal": lognormal(rng, 64, 4096),
        "512 lognormal": lognormal(rng, 512, 1500),
        "300 chats, 20 videos": np.concatenate((chats, videos[:20])),
        "60 videos": videos,
    }
    for world, contexts in worlds.items():
        for chunk in CHUNKS:
            seconds = parts.rig.timer.seconds(parts.attention(contexts, chunk))
            tokens, longest = int(contexts.sum()), int(contexts.max())
            read = {"tokens": tokens, "longest": longest, "bytes": tokens * _kv_bytes(parts.rig)}
            parts.note(what="skewed", world=world, chunk=chunk, seconds=seconds, **read)


def _kv_bytes(rig: Rig) -> int:
    """Of a token in one layer."""
    return 2 * rig.config.kv_width * rig.decoder.dtype.itemsize


@contextmanager
def cublas_told(count: int) -> Iterator[None]:
    """cuBLAS chooses kernels for `count` SMs inside; 0 changes nothing."""
    if not count:
        yield
        return
    library = ctypes.CDLL(f"libcublas.so.{(torch.version.cuda or '0').partition('.')[0]}")
    handle = ctypes.c_void_p(torch.cuda.current_blas_handle())  # type: ignore[no-untyped-call]
    library.cublasSetSmCountTarget(handle, ctypes.c_int(count))
    try:
        yield
    finally:
        library.cublasSetSmCountTarget(handle, ctypes.c_int(0))
