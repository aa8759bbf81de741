"""The `graphs` stage of gpu_check.py: what launching costs in steps of decodes alone, one kernel
after another and by graphs.
"""

import time
from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

from gpu_options import Finding, Options

DECODES = (1, 8, 64, 192, 256, 448, 560, 768, 1_024)
CONTEXT = 512  # tokens of each decode
_STEPS = 12


class Pace(NamedTuple):
    """Seconds of a step in a run of equal ones, and those of its host."""

    step: float
    host: float


def graphs(options: Options) -> Iterator[Finding]:
    """Steps of a few decodes to many, both ways; how long capturing takes and what memory."""
    from blendrt.executor.graphs import scratch_bytes
    from blendrt.executor.sequential import SequentialExecutor
    from blendrt.kv_pool import KvPool
    from blendrt.loading import ModelChoice, load_decoder, make_attention, make_graphs
    from blendrt.machine import free_bytes
    from blendrt.profiler.target import find_decoder, open_device
    from blendsim.system import BLOCK_TOKENS

    device = open_device(options.device)
    decoder = load_decoder(ModelChoice(find_decoder(options.model), None), 0, device)
    context = CONTEXT if options.is_gpu else 32
    sizes = DECODES if options.is_gpu else DECODES[:2]
    pages = max(sizes) * -(-context // BLOCK_TOKENS)
    pool = KvPool(decoder.config, pages, BLOCK_TOKENS, device, decoder.dtype)
    steps = {n: decodes(n, context, decoder.config, pool, device) for n in sizes}
    runs = {"one by one": SequentialExecutor(decoder, make_attention(decoder, pool), pool)}
    if options.is_gpu:
        before, start = free_bytes(device), time.perf_counter()
        captured = make_graphs(decoder, pool)
        took = time.perf_counter() - start
        held = before - free_bytes(device)
        reckoned = scratch_bytes(decoder.config, decoder.dtype.itemsize)
        told = f"{took:.1f} s, {held / 1e6:,.0f} MB of {reckoned / 1e6:,.0f} reckoned with"
        yield Finding("capturing", told, held <= reckoned)
        yield Finding("rows of graphs", ", ".join(map(str, captured.sizes)))
        by_rows = [f"{n}: {seconds * 1e3:.2f}" for n, seconds in sorted(captured.seconds.items())]
        yield Finding("ms by rows, without attention", ", ".join(by_rows))
        attention = make_attention(decoder, pool)
        runs["graphs"] = SequentialExecutor(decoder, attention, pool, captured)
    for n, inputs in steps.items():
        found = {name: pace(executor, inputs, device) for name, executor in runs.items()}
        paces = [
            f"{name} {p.step * 1e3:.2f} ms, host {p.host * 1e3:.2f}" for name, p in found.items()
        ]
        yield Finding(f"{n:,} decodes at {context:,}", "; ".join(paces))


def decodes(number: int, context: int, config: Any, pool: Any, device: Any) -> Any:
    """A step of `number` decodes, each with pages of its own."""
    import numpy as np

    from blendrt.attention.layout import Rows, lay_out
    from blendrt.executor.check import random_step

    block = pool.block_tokens
    each = -(-context // block)
    none = np.zeros(0, np.int64)
    pages = Rows(np.arange(number + 1) * each, np.arange(number * each))
    nobody = Rows(np.zeros(1, np.int64), none)
    contexts = np.full(number, context)
    layout = lay_out(none, none, nobody, contexts, pages, block, device)
    return random_step(layout, config, block, np.random.default_rng(0))


def pace(executor: Any, inputs: Any, device: Any) -> Pace:
    """Of a run of the same step, issued as far ahead as a run does: one step."""
    from blendrt.clock import clock_for

    clock, host, steps = clock_for(device), [], []
    for _ in range(_STEPS):
        began = time.perf_counter()
        clock.begin()
        executor.run(inputs)
        clock.end()
        host.append(time.perf_counter() - began)
        steps += [step.seconds for step in clock.ended(1)]
    steps += [step.seconds for step in clock.ended(0)]
    half = _STEPS // 2  # what comes before warms up
    return Pace(median(steps[half:]), median(host[half:]))
