"""Pairs: a layer's dense work beside decode attention, over their time ratio and the GPU's shares.

Dense work is what the overlapped executor runs beside attention: o, the MLP and the next layer's
qkv, with the small operators between them. Contexts are chosen so that attention alone takes the
wanted multiple of it.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import torch

from blendrt.executor.streams import NO_PARTITION, SM_STEP, can_partition
from blendrt.profiler.kernels import IsOver, some_slots
from blendrt.profiler.rig import Rig
from blendrt.profiler.sizes import Sizes, pair_shares
from blendsim.perf.fit import Pairs

Call = Callable[[int], object]

_FIRST_BLOCKS = 64  # the context tried first
_STEPS = 3


class _Timing(NamedTuple):
    tokens: int
    batch: int
    context: int
    attention_sms: int
    compute: float
    memory: float
    together: float


def measure_pairs(rig: Rig, sizes: Sizes, is_over: IsOver) -> Pairs:
    """All pairs there is time for, each under every share; one size at least."""
    timings: list[_Timing] = []
    shares = [NO_PARTITION, *partition_shares(rig.device)]
    for ratio, tokens in product(sizes.pair_ratios, sizes.pair_tokens):
        if timings and is_over():
            break
        timings += _pair(rig, sizes, tokens, ratio, shares)
    return as_pairs(timings)


def as_pairs(timings: list[_Timing]) -> Pairs:
    """Rows as columns."""
    columns = [np.array(values) for values in zip(*timings, strict=True)]
    whole = [column.astype(np.int64) for column in columns[:4]]
    return Pairs(whole[0], whole[1], whole[2], whole[3], *(c.astype(float) for c in columns[4:]))


def partition_shares(device: torch.device) -> list[int]:
    """Attention's SMs to try; none where the GPU cannot be partitioned."""
    if device.type != "cuda" or not can_partition(device):
        return []
    return pair_shares(torch.cuda.get_device_properties(device).multi_processor_count, SM_STEP)


def _pair(
    rig: Rig, sizes: Sizes, tokens: int, ratio: float, shares: list[int]
) -> Iterator[_Timing]:
    batch = min(tokens, sizes.pair_batch)
    dense = dense_work(rig, tokens)
    compute = rig.timer.seconds(dense)
    most = sizes.most_context_tokens // batch
    context, attend, memory = _attention_of(rig, batch, most, ratio * compute)
    for sms in shares:
        both = rig.timer.together(attend, dense, sms)
        yield _Timing(tokens, batch, context, sms, compute, memory, both)


def dense_work(rig: Rig, tokens: int) -> Call:
    """A layer without its attention."""
    decoder, pool, config = rig.decoder, rig.pool, rig.config
    attended, x = rig.queries(tokens), rig.noise(tokens, config.hidden)
    turn = decoder.rotation(torch.arange(tokens, device=rig.device))
    slots = some_slots(rig, tokens)

    def run(i: int) -> None:
        layer, following = rig.layer(i), rig.layer(i + 1)
        # NOTE: x grows with every call. Its norms, which are all that is multiplied, do not.
        decoder.output(layer, attended, x)
        decoder.mlp(layer, x)
        decoder.qkv(following, x, turn, pool, slots)

    return run


def _attention_of(rig: Rig, batch: int, longest: int, wanted: float) -> tuple[int, Call, float]:
    """A context, `longest` at most, at which `batch` decodes take about `wanted` seconds, the call,
    and its seconds.

    The rule of three, a few times: time is linear in the context, but for the launch.
    """
    block = rig.pool.block_tokens
    most = max(block, longest // block * block)
    q = rig.queries(batch)

    def attend(i: int) -> object:
        return rig.attention.decode(rig.layer(i), q, rig.pool)

    context = min(_FIRST_BLOCKS * block, most)
    for _ in range(_STEPS):
        rig.attention.plan(rig.decodes(np.full(batch, context)))
        seconds = rig.timer.seconds(attend)
        found, wished = context, context * wanted / seconds
        context = int(np.clip(round(wished / block) * block, block, most))
        if context == found:
            break
    return found, attend, seconds
