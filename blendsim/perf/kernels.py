"""What one engine step costs, compiled: called once a step inside the simulator's loop.

All tables hold seconds of the whole model on one GPU of the replica (its ranks run side by side).
Memory is reading the KV cache of decodes, network the all-reduces between tensor-parallel GPUs;
compute is everything else.
"""

from typing import NamedTuple

import numpy as np

from blendsim.arrays import Floats
from blendsim.compiled import kernel


class Streams(NamedTuple):
    """Seconds that a step's memory traffic takes, at the best rate there is."""

    weights: float  # all but experts'
    context_token: float  # KV of one that is read
    parts: int  # tokens that one stands for
    experts: Floats  # (N + 1,), experts' weights by the step's tokens; empty without experts
    decode: float = 0.0  # states of one request's gated delta nets


class DeltaTables(NamedTuple):
    """Gated delta nets over chunks of prompts; empty without them."""

    batches: Floats  # (P,), ascending
    lengths: Floats  # (Q,), ascending
    seconds: Floats  # (P, Q), of so many chunks of so many tokens each


NO_DELTAS = DeltaTables(np.zeros(0), np.zeros(0), np.zeros((0, 0)))


class StepTables(NamedTuple):
    """Tables the compiled functions read. Beyond an axis time grows at its last point's rate."""

    layers: Floats  # (N + 1,), seconds of a step of n tokens: GEMMs and small operators
    head: Floats  # (N + 1,), seconds of the LM head for n positions
    decode_contexts: Floats  # (S,), tokens, ascending
    decode: Floats  # (B + 1, S), seconds of decode attention for b requests of that mean context
    prefill_batches: Floats  # (P,), ascending
    prefill_lengths: Floats  # (Q,), ascending
    prefill: Floats  # (P, Q), seconds per prompt token of causal attention
    network: Floats  # (N + 1,), seconds of all layers' all-reduces of n tokens; 0 on one GPU
    layers_with_network: Floats  # (N + 1,), both, one operator after another
    walk: Floats  # (2,), least seconds of prefill attention: to begin, and a token of the reach
    #: (N + 1,), seconds of prefill attention of n tokens in layers with a window; empty without.
    windows: Floats
    deltas: DeltaTables = NO_DELTAS


@kernel
def dense_seconds(table: Floats, n: int) -> float:
    """Entry n of a dense table, its last rate beyond the end."""
    last = len(table) - 1
    if n <= last:
        return float(table[n])
    return float(table[last] / last * n)


@kernel
def segment(axis: Floats, value: float) -> int:
    """The last index i < len − 1 with axis[i] ≤ value (0 when value lies below)."""
    low, high = 0, len(axis) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if axis[middle] <= value:
            low = middle
        else:
            high = middle
    return low


@kernel
def prefill_seconds(tables: StepTables, tokens: int, requests: int, pairs: int) -> float:
    """Prefill attention of all layers: the query-key pairs at the rate of whole prompts of the same
    reach, and no less than one block takes to walk along it. A chunk of q tokens behind c computed
    ones reaches c + q, as mean over the step's chunks.
    """
    chunk = tokens / requests
    whole = pairs / tokens + 0.5 * (chunk - 1.0)
    reach = min(max(whole, 1.0), tables.prefill_lengths[-1])
    batch = min(float(requests), tables.prefill_batches[-1])
    i = segment(tables.prefill_batches, batch)
    j = segment(tables.prefill_lengths, reach)
    b0, b1 = tables.prefill_batches[i], tables.prefill_batches[i + 1]
    s0, s1 = tables.prefill_lengths[j], tables.prefill_lengths[j + 1]
    y = (reach - s0) / (s1 - s0)
    low = (1.0 - y) * tables.prefill[i, j] + y * tables.prefill[i, j + 1]
    high = (1.0 - y) * tables.prefill[i + 1, j] + y * tables.prefill[i + 1, j + 1]
    # NOTE: the table is per token; a batch's *time*, batch × rate, is what is linear in the batch.
    x = (batch - b0) / (b1 - b0)
    per_token = ((1.0 - x) * b0 * low + x * b1 * high) / batch
    rated = pairs * per_token / (0.5 * (reach + 1.0))
    return float(max(rated, tables.walk[0] + tables.walk[1] * whole))


@kernel
def delta_seconds(deltas: DeltaTables, tokens: int, requests: int) -> float:
    """Gated delta nets of all layers over so many chunks of `tokens` in all, each as long as their
    mean: straight lines between measured sizes, beyond them the last one's rate.
    """
    batches, lengths, seconds = deltas
    length = tokens / requests
    batch = min(float(requests), batches[-1])
    reach = min(length, lengths[-1])
    i, j = segment(batches, batch), segment(lengths, reach)
    x = (batch - batches[i]) / (batches[i + 1] - batches[i])
    y = (reach - lengths[j]) / (lengths[j + 1] - lengths[j])
    low = (1.0 - y) * seconds[i, j] + y * seconds[i, j + 1]
    high = (1.0 - y) * seconds[i + 1, j] + y * seconds[i + 1, j + 1]
    return float(((1.0 - x) * low + x * high) * (requests / batch) * (length / reach))


@kernel
def compute_seconds(
    tables: StepTables,
    prefill_tokens: int,
    prefill_requests: int,
    prefill_pairs: int,
    decode_requests: int,
    sampled_tokens: int,
) -> float:
    """Seconds of a step's work besides decode reads and all-reduces, alone on the GPU."""
    seconds = dense_seconds(tables.layers, prefill_tokens + decode_requests)
    seconds += dense_seconds(tables.head, sampled_tokens)
    if prefill_tokens > 0:
        seconds += prefill_seconds(tables, prefill_tokens, prefill_requests, prefill_pairs)
        if len(tables.windows) > 0:
            seconds += dense_seconds(tables.windows, prefill_tokens)
        if len(tables.deltas.batches) > 0:
            seconds += delta_seconds(tables.deltas, prefill_tokens, prefill_requests)
    return float(seconds)


@kernel
def memory_seconds(tables: StepTables, decode_requests: int, context_tokens: int) -> float:
    """Seconds of decode attention of all layers over `context_tokens` in all, alone on the GPU."""
    if decode_requests == 0:
        return 0.0
    rows = len(tables.decode) - 1
    row = min(decode_requests, rows)
    context = context_tokens / decode_requests
    longest = tables.decode_contexts[-1]
    at = min(max(context, tables.decode_contexts[0]), longest)
    j = segment(tables.decode_contexts, at)
    s0, s1 = tables.decode_contexts[j], tables.decode_contexts[j + 1]
    y = (at - s0) / (s1 - s0)
    seconds = (1.0 - y) * tables.decode[row, j] + y * tables.decode[row, j + 1]
    return float(seconds * max(1.0, context / longest) * (decode_requests / row))


@kernel
def measured_overlap(ratios: Floats, times: Floats, compute: float, memory: float) -> float:
    """Seconds of compute and reads side by side where `times`, in units of the compute, were
    measured at `ratios` of memory over compute, ascending: straight lines between them, from no
    reads at all, and beyond the last one reads alone. Never more than one after the other and never
    less than the longer of them.
    """
    if compute <= 0.0:
        return memory
    ratio = memory / compute
    r0, t0 = 0.0, 1.0
    together = -1.0
    for i in range(len(ratios)):
        if ratio <= ratios[i]:
            together = t0 + (times[i] - t0) * (ratio - r0) / (ratios[i] - r0)
            break
        r0, t0 = ratios[i], times[i]
    if together < 0.0:
        together = t0 + (ratio - r0)
    return float(min(compute + memory, max(compute, memory, together * compute)))


@kernel
def bound_by_streams(
    streams: Streams, tokens: int, reads: int, together: float, alone: float, decodes: int = 0
) -> float:
    """Seconds of a step of so many tokens whose kernels run side by side, `together` by themselves
    and `alone` one after another: no less than its weights, the KV it reads and the states of its
    decodes take to come out of memory, which they share, and no more than `alone`, which is what a
    single token's take: each kernel needs what the one before it gave.
    """
    weights, context_token, parts, experts, state = streams
    if tokens * parts <= 1:
        return alone
    if len(experts) > 0:
        weights += experts[min(tokens * parts, len(experts) - 1)]
    moved = weights + context_token * reads + state * decodes
    return float(max(together, min(moved, alone)))


@kernel
def overlapped(lines: Floats, compute: float, memory: float, network: float = 0.0) -> float:
    """f(c, m, n): a step's seconds when all kinds of work run side by side, max over
    a·c + b·m + d·n.
    """
    seconds = 0.0
    for i in range(len(lines)):
        line = lines[i, 0] * compute + lines[i, 1] * memory + lines[i, 2] * network
        seconds = max(seconds, line)
    return float(seconds)
