"""Tables of GEMMs, attention and small operators: every kernel alone on the device."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from blendrt.attention.layout import upload
from blendrt.profiler.rig import Rig
from blendrt.profiler.sizes import Sizes
from blendsim.arrays import Floats, Ints
from blendsim.perf.derive import OPERATORS
from blendsim.perf.grids import AttentionGrid, SmallGrid
from blendsim.perf.small import OPERATORS as SMALL_OPERATORS

#: Of GEMMs' time, what decode attention takes in a step of many tokens.
_READS = 0.5

#: Says whether a table's time is up.
IsOver = Callable[[], bool]

Size = TypeVar("Size")


class GemmTable(NamedTuple):
    """Seconds of each GEMM of a layer, and of the head, by tokens."""

    tokens: Ints
    seconds: Floats  # (M, 5)


class ChunkRow(NamedTuple):
    """Attention of one prefill chunk behind computed tokens."""

    tokens: int
    computed: int
    seconds: float


class SkewRow(NamedTuple):
    """Decode attention of requests of one mean context: all alike, and lognormal (σ = 1)."""

    batch: int
    context: int
    longest: int
    uniform_seconds: float
    skewed_seconds: float


def measure_gemm(rig: Rig, sizes: Sizes, is_over: IsOver) -> GemmTable:
    """The four GEMMs of a layer, as the executors call them (o and down add the residual), and the
    head. From `sizes.settled_tokens` on a layer's are timed in a stream of them and decodes.
    """
    rig.attention.plan(rig.decodes(np.full(sizes.beside[0], sizes.beside[1])))
    q = rig.queries(sizes.beside[0])

    def beside(i: int) -> object:
        return rig.attention.decode(rig.layer(i), q, rig.pool)

    rows = {
        n: _gemm_row(rig, n, beside if n >= sizes.settled_tokens else None)
        for n in _in_time(sizes.tokens, sizes.least, is_over)
    }
    return GemmTable(np.array(sorted(rows)), np.array([rows[n] for n in sorted(rows)]))


def _gemm_row(rig: Rig, tokens: int, beside: Callable[[int], object] | None) -> list[float]:
    x = rig.noise(tokens, rig.config.hidden)
    calls = layer_gemms(rig, tokens)
    calls["head"] = lambda i: functional.linear(x, rig.decoder.weights.head)
    if beside is None:
        return [rig.timer.seconds(calls[name]) for name in OPERATORS]
    *layer, head = (calls[name] for name in OPERATORS)
    return [*rig.timer.among(layer, beside, _READS), rig.timer.seconds(head)]


def layer_gemms(rig: Rig, tokens: int) -> dict[str, Callable[[int], object]]:
    """The four GEMMs of a layer, by name and in order; a call's number says of which layer."""
    decoder, config = rig.decoder, rig.config
    x, attended = rig.noise(tokens, config.hidden), rig.queries(tokens)
    hidden = rig.noise(tokens, config.intermediate)
    total = rig.noise(tokens, config.hidden)  # to which o and down add
    return {
        "qkv": lambda i: decoder.project(rig.layer(i), x),
        "o": lambda i: decoder.output(rig.layer(i), attended, total),
        "gate_up": lambda i: decoder.gate_up(rig.layer(i), x),
        "down": lambda i: decoder.down(rig.layer(i), hidden, total),
    }


def measure_decode(rig: Rig, sizes: Sizes, is_over: IsOver) -> AttentionGrid:
    """Decode attention over batch and context, all requests alike."""

    def point(batch: int, context: int) -> float:
        if batch * context > sizes.most_context_tokens:
            return float("nan")
        return decode_seconds(rig, np.full(batch, context))

    return _grid(sizes.decode_batches, sizes.decode_contexts, sizes.least, point, is_over)


def measure_prefill(rig: Rig, sizes: Sizes, is_over: IsOver) -> AttentionGrid:
    """Causal attention of whole prompts over batch and length."""

    def point(batch: int, length: int) -> float:
        if batch * length > sizes.most_prompt_tokens:
            return float("nan")
        return prefill_seconds(rig, np.full(batch, length), np.zeros(batch, np.int64))

    return _grid(sizes.prefill_batches, sizes.prefill_lengths, sizes.least, point, is_over)


def measure_chunks(rig: Rig, sizes: Sizes, is_over: IsOver) -> list[ChunkRow]:
    """Attention of single chunks behind a prefix, which the step model takes from whole prompts."""
    return [
        ChunkRow(tokens, computed, prefill_seconds(rig, np.array([tokens]), np.array([computed])))
        for tokens, computed in _in_time(sizes.chunks, 1, is_over)
    ]


def measure_skewed(rig: Rig, sizes: Sizes, is_over: IsOver) -> list[SkewRow]:
    """Decode attention of contexts that differ, which the step model takes at their mean."""
    rows = []
    for batch, context in _in_time(sizes.skewed, 1, is_over):
        skewed = lognormal(rig.rng, batch, context)
        uniform = decode_seconds(rig, np.full(batch, context))
        longest = int(skewed.max())
        rows.append(SkewRow(batch, context, longest, uniform, decode_seconds(rig, skewed)))
    return rows


def lognormal(rng: np.random.Generator, batch: int, mean: int) -> Ints:
    """Contexts of so many decodes about a mean, as unlike as σ = 1 makes them."""
    drawn = rng.lognormal(0.0, 1.0, batch)
    return np.maximum(1, np.round(drawn * (mean / drawn.mean()))).astype(np.int64)


def measure_small(rig: Rig, sizes: Sizes, is_over: IsOver) -> SmallGrid:
    """Norm, rotary embedding with the KV write, activation and embedding. What has no kernel of its
    own takes no time of its own: the KV write, and the residual, which GEMMs add.
    """
    rows = {n: _small_row(rig, n) for n in _in_time(sizes.tokens, sizes.least, is_over)}
    return SmallGrid(np.array(sorted(rows)), np.array([rows[n] for n in sorted(rows)]))


def _small_row(rig: Rig, tokens: int) -> list[float]:
    decoder, config, pool = rig.decoder, rig.config, rig.pool
    x = rig.noise(tokens, config.hidden)
    projected = rig.noise(tokens, config.q_width + 2 * config.kv_width)
    wide = rig.noise(tokens, 2 * config.intermediate)
    ids = upload(torch.from_numpy(rig.rng.integers(0, config.vocab, tokens)), rig.device)
    turn = decoder.rotation(torch.arange(tokens, device=rig.device))
    slots = some_slots(rig, tokens)
    calls: dict[str, Callable[[int], object]] = {
        "norm": lambda i: decoder.attention_norm(rig.layer(i), x),
        "rotary": lambda i: decoder.store(rig.layer(i), projected, turn, pool, slots),
        "activation": lambda i: decoder.activation(wide),
        "embedding": lambda i: decoder.embed(ids),
    }
    return [rig.timer.seconds(calls[name]) if name in calls else 0.0 for name in SMALL_OPERATORS]


def some_slots(rig: Rig, tokens: int) -> Tensor:
    """Places in the pool for the KV of so many tokens, page after page."""
    slots = torch.arange(tokens, device=rig.device)
    return slots % (rig.pool.pages * rig.pool.block_tokens)


def decode_seconds(rig: Rig, contexts: Ints) -> float:
    """One layer's decode attention at these contexts."""
    rig.attention.plan(rig.decodes(contexts))
    q = rig.queries(len(contexts))
    return rig.timer.seconds(lambda i: rig.attention.decode(rig.layer(i), q, rig.pool))


def prefill_seconds(rig: Rig, tokens: Ints, computed: Ints) -> float:
    """One layer's attention of these chunks."""
    rig.attention.plan(rig.chunks(tokens, computed))
    q = rig.queries(int(tokens.sum()))
    return rig.timer.seconds(lambda i: rig.attention.prefill(rig.layer(i), q, rig.pool))


def _grid(
    batches: Iterable[int],
    lengths: tuple[int, ...],
    least: int,
    point: Callable[[int, int], float],
    is_over: IsOver,
) -> AttentionGrid:
    rows = {b: [point(b, s) for s in lengths] for b in _in_time(batches, least, is_over)}
    return AttentionGrid(
        np.array(sorted(rows), np.float64),
        np.array(lengths, np.float64),
        np.array([rows[b] for b in sorted(rows)]),
    )


def _in_time(sizes: Iterable[Size], least: int, is_over: IsOver) -> Iterator[Size]:
    """The first `least` of them, and more while there is time."""
    for i, size in enumerate(sizes):
        if i >= least and is_over():
            return
        yield size
