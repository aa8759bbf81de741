"""Warm-up: a few steps nobody times, so that loading kernels and libraries is in no step's time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from blendrt.attention.layout import Rows, lay_out
from blendrt.batch import StepInputs
from blendrt.executor import Executor
from blendrt.kv_pool import KvPool
from blendrt.loading import Runtime, make_executor, thread_for_small
from blendrt.machine import device_name
from blendsim.batch import Batch
from blendsim.errors import InputError

_ROUNDS = 2
_DECODES = 64
_HALVINGS = 5  # of the tokens a step may have: other sizes are other GEMM kernels


@contextmanager
def warm_executor(
    runtime: Runtime, pool: KvPool, budget: int, steps: Callable[[], int], advice: str
) -> Iterator[Executor]:
    """The runtime's executor for steps of up to `budget` tokens, warm on a GPU. Memory that runs
    out inside is an InputError, in step `steps()`, that ends in `advice`.
    """
    device = runtime.decoder.device
    try:
        with thread_for_small(runtime.decoder):
            executor = make_executor(runtime, pool)
            if device.type == "cuda":
                warm_up(executor, pool, budget, device)
            yield executor
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{device_name(device)} ran out of memory in step {steps()}: up to {budget} tokens a "
            f"step beside {pool.pages:,} KV blocks; {advice}"
        ) from error


def warm_up(executor: Executor, pool: KvPool, budget: int, device: torch.device) -> None:
    """Execute steps of a chunk and a few decodes, full ones and smaller ones, and decodes alone,
    some times over and in every way the executor knows.

    What it leaves in the pool is overwritten before it is read: a request writes each of its
    tokens.
    """
    block = pool.block_tokens
    full = min(budget - _DECODES, pool.pages * block)
    for tokens in dict.fromkeys(max(0, full >> i) for i in (*range(_HALVINGS), 63)):
        for _ in range(_ROUNDS):
            executor.warm_up(_step(tokens, block, device))
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _step(tokens: int, block: int, device: torch.device) -> StepInputs:
    """A chunk of `tokens` from its beginning, if any, and decodes of a block each, on page 0."""
    chunks = np.full(min(tokens, 1), tokens, np.int64)
    pages = np.arange(-(-tokens // block))
    layout = lay_out(
        chunks=chunks,
        computed=np.zeros_like(chunks),
        chunk_pages=Rows(np.array([0, *[len(pages)] * len(chunks)]), pages),
        contexts=np.full(_DECODES, block),
        decode_pages=Rows(np.arange(_DECODES + 1), np.zeros(_DECODES, np.int64)),
        block_tokens=block,
        device=device,
    )
    total = tokens + _DECODES
    rows = torch.arange(tokens, total, device=device)
    counts = Batch(tokens, len(chunks), tokens * (tokens + 1) // 2, _DECODES, _DECODES * block)
    return StepInputs(
        ids=torch.zeros(total, dtype=torch.int64, device=device),
        layout=layout,
        sample_rows=rows,
        sample_places=torch.zeros_like(rows),
        sample_requests=np.zeros(_DECODES, np.int64),
        counts=counts._replace(sampled_tokens=_DECODES),
    )
