"""The compiled step costs: what they promise at measured points, between and beyond them."""

import time
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blendsim.batch import Batch
from blendsim.compiled import kernel
from blendsim.errors import ProfileError
from blendsim.perf.kernels import (
    StepTables,
    compute_seconds,
    dense_seconds,
    memory_seconds,
    overlapped,
    prefill_seconds,
    segment,
)
from blendsim.perf.model import StepModel, step_model
from blendsim.perf.store import load_profile
from blendsim.specs import find_gpu, find_model
from blendsim.system import System

SYSTEMS = (
    ("llama-3.1-8b", "a100-80g", 1),
    ("llama-3.1-70b", "a100-80g", 8),
    ("llama-3.1-8b", "h200", 1),
    ("qwen-2.5-7b", "l40s", 2),
    ("llama-2-7b", "b200", 4),
)
systems = pytest.mark.parametrize("which", SYSTEMS, ids=lambda which: "-".join(map(str, which)))
sizes = st.one_of(st.integers(1, 300), st.integers(1, 40_000), st.integers(1, 2_000_000))


@cache
def model(which: tuple[str, str, int], overlap: str = "table") -> StepModel:
    name, gpu, tp = which
    return step_model(System(find_model(name), find_gpu(gpu), tp), overlap)


@systems
def test_decode_attention_is_the_measured_one_at_measured_points(which):
    """Except where a benchmark found the KV in the cache: no faster than large reads were."""
    m = model(which)
    grid = load_profile(m.system.gpu, m.system.model, m.system.tp).decode
    is_point = ~np.isnan(grid.seconds) & (grid.batches[:, None] >= 1)
    kept = 0
    for i, j in np.argwhere(is_point):
        tokens = int(grid.batches[i] * grid.lengths[j])
        measured = m.system.model.layers * grid.seconds[i, j]
        least = tokens * m.best_seconds_per_context_token
        seconds = memory_seconds(m.tables, int(grid.batches[i]), tokens)
        assert seconds == pytest.approx(max(measured, least), rel=1e-9)
        kept += measured >= least
    assert kept > (0.6 if m.system.gpu.name == "l40s" else 0.95) * is_point.sum()


@systems
def test_prefill_attention_is_the_measured_one_at_measured_points(which):
    m = model(which)
    grid = load_profile(m.system.gpu, m.system.model, m.system.tp).prefill
    for i, j in np.argwhere(~np.isnan(grid.seconds)):
        b, s = grid.batches[i], int(grid.lengths[j])
        if b >= 1:
            tokens, pairs = int(b * s), int(b * (s * (s + 1) // 2))
            seconds = prefill_seconds(m.tables, tokens, int(b), pairs)
            assert seconds == pytest.approx(m.system.model.layers * grid.seconds[i, j], rel=1e-9)


def test_layers_keep_the_measured_curve_with_its_dips():
    m = model(("llama-3.1-8b", "h200", 1))
    profile = load_profile(m.system.gpu, m.system.model)
    gemm = (m.layer_seconds - m.small_seconds)[profile.tokens] / m.system.model.layers
    assert gemm == pytest.approx(profile.gemm[:, :4].sum(axis=1), rel=1e-9)
    rate = profile.tokens / gemm
    assert (np.diff(rate) < 0).any(), "a measured curve is not monotone, and stays so"


def test_one_more_token_than_a_tile_costs_a_jump_on_h200():
    m = model(("llama-3.1-8b", "h200", 1))
    assert m.layer_seconds[1537] / m.layer_seconds[1536] > 1.02


def test_small_batches_cost_what_streaming_the_weights_costs():
    m = model(("llama-3.1-8b", "a100-80g", 1))
    weights = m.system.model.layers * m.system.model.layer_parameters * 2
    seconds = m.layer_seconds[1] - m.small_seconds[1]
    assert weights / m.system.gpu.bandwidth < seconds < 1.5 * weights / m.system.gpu.bandwidth


def test_no_weight_streams_faster_than_memory_even_where_a_cache_held_it():
    m = model(("qwen-2.5-7b", "l40s", 2))
    weights = m.system.model.layers * m.system.model.layer_parameters * 2 / 2
    assert m.layer_seconds[1] > 0.99 * weights / m.system.gpu.bandwidth


@systems
def test_no_kv_is_read_faster_than_the_memory_peak(which):
    m = model(which)
    per_gpu = m.system.model.kv_bytes_per_token / min(m.system.tp, m.system.model.kv_heads)
    assert per_gpu / m.best_seconds_per_context_token < m.system.gpu.bandwidth


def test_decode_attention_steps_up_where_a_wave_of_blocks_is_full_on_a100():
    m = model(("llama-3.1-8b", "a100-80g", 1))
    steps = [memory_seconds(m.tables, b, b * 2048) for b in range(20, 35)]
    jumps = np.diff(steps)
    assert 20 + int(np.argmax(jumps)) + 1 == 28  # 27 × 8 heads fill 108 SMs twice
    assert jumps.max() > 4 * np.median(jumps)


def test_decode_attention_has_a_floor_of_a_kernel_launch():
    m = model(("llama-3.1-8b", "a100-80g", 1))
    per_layer = memory_seconds(m.tables, 1, 1) / m.system.model.layers
    assert 10e-6 < per_layer < 25e-6


def test_an_empty_step_costs_nothing():
    m = model(SYSTEMS[0])
    assert m.seconds(Batch()) == (0.0, 0.0, 0.0)


def test_a_prefix_costs_by_its_pairs():
    """512 tokens behind 8,192 cost more than alone and less than the whole 8,704 at once."""
    tables = model(SYSTEMS[0]).tables
    alone = prefill_seconds(tables, 512, 1, 512 * 513 // 2)
    behind = prefill_seconds(tables, 512, 1, 512 * 8192 + 512 * 513 // 2)
    whole = prefill_seconds(tables, 8704, 1, 8704 * 8705 // 2)
    assert alone < behind < whole / 4


def test_time_beyond_the_grid_grows_at_the_last_rate():
    m = model(SYSTEMS[0])
    last = len(m.layer_seconds) - 1
    assert dense_seconds(m.layer_seconds, 3 * last) == pytest.approx(3 * m.layer_seconds[last])
    batches = len(m.tables.decode) - 1
    assert memory_seconds(m.tables, 2 * batches, 2 * batches * 100) == pytest.approx(
        2 * memory_seconds(m.tables, batches, batches * 100)
    )


@systems
@settings(max_examples=300, deadline=None)
@given(
    prefill=st.one_of(st.just(0), sizes),
    requests=st.integers(1, 5000),
    prefix=st.integers(0, 200_000),
    decodes=st.one_of(st.just(0), st.integers(1, 5000)),
    context=st.integers(1, 300_000),
    sampled=st.integers(0, 70_000),
)
def test_no_step_beats_the_best_rates(which, prefill, requests, prefix, decodes, context, sampled):
    m = model(which)
    requests = min(requests, prefill)
    chunk = prefill / requests if prefill else 0.0
    pairs = int(prefill * (prefix + (chunk + 1) / 2))
    batch = Batch(prefill, requests, pairs, decodes, decodes * context, sampled)
    compute, memory, _ = m.seconds(batch)
    least = (
        batch.tokens * m.best_layer_seconds_per_token
        + sampled * m.best_head_seconds_per_token
        + pairs * m.best_prefill_seconds_per_pair
    )
    assert compute >= least * (1 - 1e-9)
    assert memory >= batch.context_tokens * m.best_seconds_per_context_token * (1 - 1e-9)
    network = dense_seconds(m.network_seconds, batch.tokens)
    assert network >= batch.tokens * m.best_network_seconds_per_token * (1 - 1e-9)
    small = batch.tokens * (m.small_seconds[1:] / np.arange(1, len(m.small_seconds))).min()
    assert dense_seconds(m.small_seconds, batch.tokens) >= small * (1 - 1e-9)


@systems
def test_the_best_rates_are_reached(which):
    m = model(which)
    n = np.arange(1, len(m.layer_seconds))
    assert m.best_layer_seconds_per_token == (m.layer_seconds[1:] / n).min()
    assert m.best_network_seconds_per_token == (m.network_seconds[1:] / n).min()
    reads = [
        memory_seconds(m.tables, b, int(b * s)) / int(b * s)
        for b in range(1, len(m.tables.decode))
        for s in m.tables.decode_contexts
    ]
    assert min(reads) == pytest.approx(m.best_seconds_per_context_token, rel=1e-9)
    pairs = [
        prefill_seconds(m.tables, int(b * s), int(b), int(b * (s * (s + 1) // 2)))
        / (b * (s * (s + 1) // 2))
        for b in m.tables.prefill_batches
        for s in m.tables.prefill_lengths
    ]
    assert min(pairs) == pytest.approx(m.best_prefill_seconds_per_pair, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3000), st.integers(1, 40), st.integers(0, 600), st.integers(0, 4000))
def test_compiled_costs_equal_their_plain_twins(prefill, requests, decodes, context):
    tables = model(SYSTEMS[0]).tables
    requests = min(requests, prefill)
    pairs = prefill * (prefill + 1) // 2
    step = (prefill, requests, pairs, decodes, decodes)
    assert compute_seconds(tables, *step) == pytest.approx(_plain_compute(tables, *step))
    assert compute_seconds.py_func(tables, *step) == compute_seconds(tables, *step)
    reads = (tables, decodes, decodes * context)
    assert memory_seconds(*reads) == pytest.approx(memory_seconds.py_func(*reads))


def _plain_compute(tables, prefill, requests, pairs, decodes, sampled):
    seconds = dense_seconds.py_func(tables.layers, prefill + decodes)
    seconds += dense_seconds.py_func(tables.head, sampled)
    if prefill:
        seconds += prefill_seconds.py_func(tables, prefill, requests, pairs)
    return seconds


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=9, unique=True), st.floats(-10, 1e6 + 10))
def test_a_segment_holds_its_value(points, value):
    axis = np.array(sorted(points))
    i = segment(axis, value)
    assert segment.py_func(axis, value) == i
    assert 0 <= i < len(axis) - 1
    assert axis[i] <= value or i == 0
    assert value < axis[i + 1] or i == len(axis) - 2


def test_overlapped_is_the_largest_line():
    lines = np.array([[1.0, 0.5, 0.25], [1 / 3, 1.0, 0.5], [0.0, 0.0, 1.0]])
    assert overlapped.py_func(lines, 3.0, 2.0) == overlapped(lines, 3.0, 2.0) == 4.0
    assert overlapped.py_func(lines, 1.0, 6.0) == overlapped(lines, 1.0, 6.0) == 1 / 3 + 6.0
    assert overlapped.py_func(lines, 3.0, 2.0, 4.0) == overlapped(lines, 3.0, 2.0, 4.0) == 5.0
    assert overlapped.py_func(lines, 3.0, 2.0, 9.0) == overlapped(lines, 3.0, 2.0, 9.0) == 9.0


def test_coverage_says_how_far_outside_a_step_is():
    coverage = model(SYSTEMS[0]).coverage
    assert coverage.outside(Batch(1024, 1, 1024 * 1025 // 2, 256, 256 * 1024, 257)) == 1.0
    assert coverage.outside(Batch(4 * coverage.tokens, 8, 10, 0, 0, 0)) == pytest.approx(4.0)
    double = Batch(decode_requests=1, context_tokens=2 * coverage.decode_context)
    assert coverage.outside(double) == pytest.approx(2.0)
    reach = coverage.prefill_reach
    assert coverage.outside(Batch(512, 1, 512 * (3 * reach), 0, 0, 1)) == pytest.approx(3, rel=0.02)


def test_a_token_budget_beyond_the_profile_is_refused():
    coverage = model(SYSTEMS[0]).coverage
    coverage.require(8192)
    with pytest.raises(ProfileError, match="8192 tokens a step, 65536 are asked for"):
        coverage.require(65_536)


@kernel
def _many(tables: StepTables, lines: np.ndarray, count: int) -> float:
    total = 0.0
    for i in range(count):
        compute = compute_seconds(tables, 500 + i % 700, 3, 100_000 + i, 300 + i % 100, 300)
        memory = memory_seconds(tables, 300 + i % 100, 300_000 + i)
        total += overlapped(lines, compute, memory)
    return total


def test_a_step_is_priced_in_well_under_a_microsecond():
    m = model(SYSTEMS[0])
    _many(m.tables, m.lines, 10)
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        _many(m.tables, m.lines, 100_000)
        best = min(best, (time.perf_counter() - start) / 100_000)
    assert best < 1e-6
