"""How far executors are from the exact logits, on fresh random steps.

Exact means: the same weights and KV, widened to float32, through the sequential executor, the
reference attention and torch's own small operators. The error of a sample is the length of the
difference over the length of the exact logits; the worst sample counts. What rounding alone makes
is told beside it, as the error of the same in the type that is checked.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor

from blendrt.attention import Attention
from blendrt.attention.check import Sizes, random_world
from blendrt.attention.layout import AttentionLayout
from blendrt.attention.reference import ReferenceAttention
from blendrt.batch import StepInputs
from blendrt.config import DecoderConfig
from blendrt.executor.graphs import CalledAgain, Capture, CudaCapture, Graphs
from blendrt.executor.overlap import OverlapExecutor
from blendrt.executor.rule import OverlapRule
from blendrt.executor.sequential import SequentialExecutor
from blendrt.fused import plain
from blendrt.kv_pool import KvPool
from blendrt.model import Decoder
from blendrt.weights import Weights, random_weights
from blendsim.batch import Batch

ROUNDING, SEQUENTIAL, GRAPHED = "rounding alone", "sequential", "sequential, graphs"
HALF = torch.bfloat16  # what engines compute in


@torch.inference_mode()
def compare_executors(
    config: DecoderConfig,
    block_tokens: int,
    device: torch.device,
    dtype: torch.dtype,
    make_attention: Callable[[], Attention],
    shares: Sequence[int],
    rng: np.random.Generator,
    steps: int = 4,
    sizes: Sizes = Sizes(),
) -> dict[str, float]:
    """Worst errors by what was run: rounding alone, the sequential executor, on a GPU also with
    graphs, and the overlapped one with each of `shares` SMs for attention.
    """
    seed = int(rng.integers(1 << 31))
    decoder = Decoder(config, random_weights(config, seed, device, dtype))
    exact = Decoder(config, _widened(decoder.weights), plain)
    rounded = Decoder(config, decoder.weights, plain)
    worst: dict[str, float] = {}
    for _ in range(steps):
        layout = random_world(rng, config, block_tokens, device, dtype, sizes).layout
        while layout.decodes < 2:  # such a step is not cut
            layout = random_world(rng, config, block_tokens, device, dtype, sizes).layout
        inputs = random_step(layout, config, block_tokens, rng)
        pool = _random_pool(config, inputs, block_tokens, device, dtype)
        right = SequentialExecutor(exact, ReferenceAttention(), _copy(pool, torch.float32)).logits(
            inputs
        )
        made = {
            ROUNDING: SequentialExecutor(rounded, ReferenceAttention(), _copy(pool, dtype)),
            SEQUENTIAL: SequentialExecutor(decoder, make_attention(), _copy(pool, dtype)),
        }
        if device.type == "cuda":
            copy = _copy(pool, dtype)
            captured = Graphs(decoder, copy, CudaCapture(device), sizes=(layout.tokens + 5,))
            made[GRAPHED] = SequentialExecutor(decoder, make_attention(), copy, captured)
        found = {name: executor.logits(inputs) for name, executor in made.items()}
        for sms in shares:
            rule = OverlapRule(least_tokens=0, least_decodes=0, default_sms=sms)
            overlap = OverlapExecutor(decoder, make_attention, _copy(pool, dtype), rule)
            found[f"overlapped, {sms} SMs"] = overlap.logits(inputs)
            assert overlap.is_halved, "a step of two decodes or more is cut"
        for name, logits in found.items():
            worst[name] = max(worst.get(name, 0.0), _error(logits, right))
    return worst


@torch.inference_mode()
def compare_graphs(
    config: DecoderConfig,
    block_tokens: int,
    device: torch.device,
    dtype: torch.dtype,
    make_attention: Callable[[], Attention],
    rng: np.random.Generator,
    steps: int = 8,
    sizes: Sizes = Sizes(),
) -> float:
    """The worst difference between a run of steps by graphs and the same run launched kernel by
    kernel, in the logits and in the KV pool's pages: relative, as errors are above.

    Steps of several sizes share graphs and pages, and are issued without waiting for any.
    """
    weights = random_weights(config, int(rng.integers(1 << 31)), device, dtype)
    decoder = Decoder(config, weights)
    layouts = [
        random_world(rng, config, block_tokens, device, dtype, sizes).layout for _ in range(steps)
    ]
    inputs = [random_step(layout, config, block_tokens, rng) for layout in layouts]
    tokens = sorted(layout.tokens for layout in layouts)
    largest = max(inputs, key=lambda one: int(_numbers(one).max()))
    pools = [_random_pool(config, largest, block_tokens, device, dtype)]
    pools.append(_copy(pools[0], dtype))
    capture: Capture = CudaCapture(device) if device.type == "cuda" else CalledAgain()
    graphs = Graphs(decoder, pools[0], capture, sizes=(tokens[steps // 2], tokens[-1] + 5))
    runs = [
        [executor.logits(one) for one in inputs]
        for executor in (
            SequentialExecutor(decoder, make_attention(), pools[0], graphs),
            SequentialExecutor(decoder, make_attention(), pools[1]),
        )
    ]
    found = [_error(mine, right.float()) for mine, right in zip(*runs, strict=True)]
    for mine, right in ((pools[0].k, pools[1].k), (pools[0].v, pools[1].v)):
        difference = (mine[:, :-1].float() - right[:, :-1].float()).norm()
        found.append(float(difference / right[:, :-1].float().norm()))
    return max(found)


def random_step(
    layout: AttentionLayout, config: DecoderConfig, block_tokens: int, rng: np.random.Generator
) -> StepInputs:
    """A step of random tokens over a layout: every chunk's last token and every decode samples."""
    device = layout.slots.device
    chunk_ends = layout.prefill_lens.numpy().cumsum() - 1
    rows = np.concatenate((chunk_ends, np.arange(layout.prefill_tokens, layout.tokens)))
    lens, computed = layout.prefill_lens.long(), layout.prefill_computed.long()
    counts = Batch(
        prefill_tokens=layout.prefill_tokens,
        prefill_requests=len(lens),
        prefill_pairs=int((lens * computed + lens * (lens + 1) // 2).sum()),
        decode_requests=layout.decodes,
        context_tokens=int(layout.decode_pages.lengths(block_tokens).sum()),
        sampled_tokens=len(rows),
    )
    return StepInputs(
        ids=torch.from_numpy(rng.integers(0, config.vocab, layout.tokens)).to(device),
        layout=layout,
        sample_rows=torch.from_numpy(rows.astype(np.int64)).to(device),
        sample_places=torch.arange(len(rows), device=device),
        sample_requests=np.arange(len(rows)),
        counts=counts,
    )


def _random_pool(
    config: DecoderConfig,
    inputs: StepInputs,
    block_tokens: int,
    device: torch.device,
    dtype: torch.dtype,
) -> KvPool:
    """Random K and V in all pages that the step names."""
    pool = KvPool(config, int(_numbers(inputs).max()) + 1, block_tokens, device, dtype)
    pool.k.normal_()
    pool.v.normal_()
    return pool


def _numbers(inputs: StepInputs) -> Tensor:
    """Of all pages that a step names."""
    layout = inputs.layout
    return torch.cat((layout.prefill_pages.numbers, layout.decode_pages.numbers))


def _copy(pool: KvPool, dtype: torch.dtype) -> KvPool:
    """The same content, since a step writes into its pool."""
    layers, _, block, heads, dim = pool.k.shape
    config = DecoderConfig("copy", layers, 1, 1, heads, heads, dim, 1, 1)
    other = KvPool(config, pool.pages, block, pool.k.device, dtype)
    other.k.copy_(pool.k)
    other.v.copy_(pool.v)
    return other


def _widened(weights: Weights) -> Weights:
    """The same values in float32."""
    layers = []
    for layer in weights.layers:
        tensors = {field.name: getattr(layer, field.name) for field in fields(layer)}
        wide = {name: None if t is None else t.float() for name, t in tensors.items()}
        layers.append(replace(layer, **wide))
    return Weights(weights.embed.float(), layers, weights.norm.float(), weights.head.float())


def _error(got: Tensor, right: Tensor) -> float:
    return float(((got.float() - right).norm(dim=1) / right.norm(dim=1)).max())
