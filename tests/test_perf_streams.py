"""Steps that overlap: kernels side by side share the memory they read from."""

from dataclasses import replace

import numpy as np
import pytest

from blendsim.arrays import Floats
from blendsim.batch import Batch
from blendsim.perf.kernels import Streams, bound_by_streams
from blendsim.perf.model import StepModel, step_model
from blendsim.perf.pricing import price_steps, price_work
from blendsim.perf.profile import EXPERTS
from blendsim.perf.step import step_costs
from blendsim.perf.store import load_profile
from blendsim.search.thinning import divide_model
from blendsim.serving.flavour import find_flavour
from blendsim.specs import find_gpu, find_model
from blendsim.steplog import COUNTS
from blendsim.system import System

A100 = System(find_model("llama-3.1-8b"), find_gpu("a100-80g"))
SYSTEMS = [
    A100,
    System(find_model("llama-3.1-70b"), find_gpu("h100"), 8),
    System(find_model("qwen-2.5-7b"), find_gpu("l40s")),
]


def decoding(*requests: int, context: int = 4_000, prompt: int = 0) -> np.ndarray:
    """Steps of so many decodes at that context, each beside a prompt of so many tokens."""
    counts = np.zeros((len(requests), len(COUNTS)), np.int64)
    for row, decodes in zip(counts, requests, strict=True):
        row[:6] = (
            prompt,
            min(prompt, 1),
            prompt * (prompt + 1) // 2,
            decodes,
            decodes * context,
            decodes + min(prompt, 1),
        )
    return counts


def overlapped(model: StepModel, counts: np.ndarray, pieces: int = 1) -> Floats:
    return price_steps(step_costs(model, True, True, pieces), counts)


def traffic(model: StepModel, counts: np.ndarray) -> Floats:
    """Seconds for weights and KV at the GPU's peak: less than any step can take that reads both."""
    weights = model.weight_stream_seconds * _rate(model)
    return (weights + _kv_bytes(model) * counts[:, 4]) / model.system.gpu.bandwidth


def _kv_bytes(model: StepModel) -> float:
    system = model.system
    heads = max(1, system.model.kv_heads // system.tp)
    return 2.0 * 2.0 * heads * system.model.head_dim * system.model.layers


def _rate(model: StepModel) -> float:
    """Bytes a second of the best stream."""
    return _kv_bytes(model) / model.kv_stream_seconds


def test_streams_go_at_the_best_rate_that_decodes_or_the_head_read_at() -> None:
    heads_are_better = []
    for system in SYSTEMS:
        model, sizes = step_model(system), system.model
        head = 2 * sizes.vocab * sizes.hidden / system.tp / float(model.tables.head[1:].min())
        decodes = _kv_bytes(model) / model.best_kernel_seconds_per_context_token
        assert _rate(model) == pytest.approx(max(head, decodes), rel=1e-9)
        heads_are_better.append(head > decodes)
    assert sorted(set(heads_are_better)) == [False, True]


def test_experts_are_read_for_no_longer_than_their_kernel_takes() -> None:
    """Experts that few tokens go to are fewer than even loads would reach."""
    system = System(find_model("qwen3-30b-a3b"), find_gpu("a100-80g"))
    profile = load_profile(system.gpu, system.model, 1)
    of_experts = profile.gemm[:, profile.operators.index(EXPERTS)]
    kernels = system.model.layers * of_experts
    reads = step_model(system).expert_stream_seconds[profile.tokens.astype(np.int64)]
    assert bool((reads <= kernels * (1.0 + 1e-12)).all())
    assert reads[profile.tokens == 32] == pytest.approx(kernels[profile.tokens == 32])


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda one: one.gpu.name)
def test_streams_are_of_a_gpu_and_no_faster_than_its_memory(system: System) -> None:
    model = step_model(system)
    weights = model.weight_stream_seconds * _rate(model)  # without the embedding, which is not read
    spec = system.model
    qkv = (spec.heads + 2 * spec.kv_heads) * spec.head_dim * spec.hidden
    layer = qkv + spec.heads * spec.head_dim * spec.hidden + 3 * spec.hidden * spec.intermediate
    whole = 2 * (spec.layers * layer + spec.vocab * spec.hidden)
    assert weights == pytest.approx(whole / system.tp, rel=0.01)
    assert 0.7 < _rate(model) / system.gpu.bandwidth <= 1.0


@pytest.mark.parametrize("overlap", ["table", "max"])
@pytest.mark.parametrize("system", SYSTEMS, ids=lambda one: one.gpu.name)
def test_no_step_moves_more_than_the_memory_gives(system: System, overlap: str) -> None:
    model = step_model(system, overlap)
    counts = decoding(2, 4, 8, 16, 32, 64, 128, 256, context=6_000)
    seconds = overlapped(model, counts)
    assert (seconds >= traffic(model, counts)).all()
    alone = price_work(step_costs(model, True, True), counts)
    network = price_steps(step_costs(model, True, False), counts)
    assert (seconds <= np.maximum(alone.compute + alone.memory, network) * (1 + 1e-9)).all()


def test_what_the_traffic_does_not_bind_is_the_overlap_alone() -> None:
    """Steps full of prompt tokens hide their reads as they did."""
    model = step_model(A100)
    counts = decoding(64, 128, 256, context=2_000, prompt=1_800)
    work = price_work(step_costs(model, True, True), counts)
    lines = np.max([a * work.compute + b * work.memory for a, b, _ in model.lines], axis=0)
    assert overlapped(model, counts) == pytest.approx(lines)


def test_decodes_beside_their_weights_take_what_both_take_from_memory() -> None:
    """By NanoFlow's table 64 decodes would hide two thirds of reading the weights."""
    model = step_model(A100)
    counts = decoding(64, context=6_000)
    work = price_work(step_costs(model, True, True), counts)
    hidden = np.max([a * work.compute + b * work.memory for a, b, _ in model.lines], axis=0)
    streamed = model.weight_stream_seconds + model.kv_stream_seconds * counts[:, 4]
    assert hidden < streamed < work.compute + work.memory
    assert overlapped(model, counts) == pytest.approx(streamed)


def test_a_single_token_has_nothing_to_run_beside() -> None:
    model = step_model(A100, "max")
    counts = decoding(1, context=100_000)
    work = price_work(step_costs(model, True, True), counts)
    assert overlapped(model, counts) == pytest.approx(work.compute + work.memory)
    two = decoding(2, context=50_000)
    both = price_work(step_costs(model, True, True), two)
    assert overlapped(model, two) < 0.99 * (both.compute + both.memory)


@pytest.mark.parametrize("overlap", ["table", "max"])
def test_the_model_and_an_engine_hold_a_step_to_the_same_traffic(overlap: str) -> None:
    """A single token, steps that their traffic binds, and steps that it does not."""
    model = step_model(A100, overlap)
    counts = np.concatenate(
        [decoding(1, 2, 64, 256, context=6_000), decoding(64, 256, context=2_000, prompt=1_800)]
    )
    told = [model.seconds(Batch(*map(int, row[: len(Batch._fields)])))[2] for row in counts]
    assert told == overlapped(model, counts).tolist()


def test_traffic_binds_between_side_by_side_and_one_after_another() -> None:
    streams = Streams(2.0, 0.5, 1, np.zeros(0))  # 7 s for 10 context tokens
    cases = {(2, 3.0, 9.0): 7.0, (2, 8.0, 9.0): 8.0, (2, 3.0, 5.0): 5.0, (1, 3.0, 9.0): 9.0}
    for bound in (bound_by_streams, bound_by_streams.py_func):
        for (tokens, together, alone), seconds in cases.items():
            assert bound(streams, tokens, 10, together, alone) == seconds
        assert bound(streams._replace(parts=4), 1, 10, 3.0, 9.0) == 7.0  # one that stands for four


def test_every_piece_reads_all_weights() -> None:
    model = step_model(A100, "max")
    counts = decoding(400, context=800)
    whole, halves = (overlapped(model, counts, pieces) for pieces in (1, 2))
    least = 2 * model.weight_stream_seconds + model.kv_stream_seconds * counts[:, 4]
    alone = price_steps(step_costs(model, False, False), counts)
    assert (halves >= np.minimum(least, alone) * (1 - 1e-12)).all()
    assert (halves >= whole).all()


def test_engines_that_do_not_overlap_take_the_sum_as_before() -> None:
    model = step_model(A100)
    counts = decoding(1, 2, 64, context=6_000)
    costs = find_flavour("vllm").costs(model)
    work = price_work(costs, counts)
    assert price_steps(costs, counts) == pytest.approx(work.compute + work.memory)


def test_a_divided_machine_takes_as_long_for_its_part() -> None:
    """A token stands for several there: one alone is no single token."""
    model = step_model(replace(A100, kv_bytes=32_000_000_000), "max")
    for parts in (4, 16):
        divided = divide_model(model, parts)
        whole, part = decoding(parts, 2 * parts, 8 * parts), decoding(1, 2, 8)
        assert overlapped(divided, part) == pytest.approx(overlapped(model, whole), rel=1e-6)
