"""What a step takes in one engine: all-reduces beside the rest or not, in pieces or whole."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blendsim.batch import Batch
from blendsim.perf.grids import along
from blendsim.perf.kernels import overlapped
from blendsim.perf.model import StepModel, step_model
from blendsim.perf.step import StepTimes, in_pieces, step_costs, step_seconds
from blendsim.perf.store import load_profile
from blendsim.specs import find_gpu, find_model
from blendsim.system import System


@cache
def model(name: str = "llama-3.1-70b", gpu: str = "a100-80g", tp: int = 8) -> StepModel:
    return step_model(System(find_model(name), find_gpu(gpu), tp), "table")


def took(batch: Batch, *engine, of: StepModel | None = None) -> StepTimes:
    return step_seconds(step_costs(of or model(), *engine), np.array(batch, np.int64))


batches = st.builds(
    lambda prefill, chunks, decodes, context: Batch(
        prefill,
        min(prefill, chunks),
        prefill * (prefill + 1) // 2,
        decodes,
        decodes * context,
        decodes + min(prefill, chunks),
    ),
    st.integers(1, 4_000),
    st.integers(1, 20),
    st.integers(0, 2_000),
    st.integers(1, 20_000),
)
STEP = Batch(1_024, 4, 400_000, 1_024, 1_024 * 900, 1_028)


def test_network_is_two_all_reduces_a_layer():
    m = model()
    reduce = load_profile(m.system.gpu, m.system.model, 8).reduce
    assert reduce is not None
    moved = np.array([2_048.0 * 2 * m.system.model.hidden])
    each = float(along(reduce.sizes, reduce.seconds, moved)[0])
    assert took(STEP, False, False).network == pytest.approx(2 * m.system.model.layers * each)


def test_a_profile_without_all_reduce_has_no_network():
    m = model("llama-3.1-8b", tp=1)
    assert load_profile(m.system.gpu, m.system.model, 1).reduce is None
    assert not m.network_seconds.any()
    assert np.array_equal(m.tables.layers, m.tables.layers_with_network)
    step = took(STEP, True, True, of=m)
    assert step.network == 0.0
    assert step == took(STEP, True, False, of=m)


@settings(deadline=None)
@given(batches)
def test_an_engine_that_does_not_overlap_takes_the_sum(batch):
    step = took(batch, False, False)
    assert step.seconds == pytest.approx(step.compute + step.memory + step.network, rel=1e-12)
    compute, memory, _ = model().seconds(batch)
    assert (step.compute, step.memory) == pytest.approx((compute, memory))


@settings(deadline=None)
@given(batches)
def test_an_overlapped_network_is_never_slower(batch):
    beside, within, after = (took(batch, *e) for e in ((True, True), (True, False), (False, False)))
    assert beside.seconds <= within.seconds * (1 + 1e-9)
    assert within.seconds <= after.seconds * (1 + 1e-9)
    assert beside.seconds >= max(beside[1:]) * (1 - 1e-9)
    assert within[1:] == pytest.approx(beside[1:])
    assert after[1:] == pytest.approx(beside[1:])


def test_a_network_within_compute_hides_memory_as_compute_does():
    step = took(STEP, True, False)
    whole = overlapped(model().lines, step.compute + step.network, step.memory)
    assert step.seconds == pytest.approx(whole)


def test_pieces_are_as_equal_as_can_be():
    tables = model("llama-3.1-8b", "h200", 1).tables
    cut = in_pieces(tables, 3)
    for n in (1, 2, 3, 100, 2_048):
        sizes = [n // 3 + (i < n % 3) for i in range(3)]
        for name in ("layers", "head", "network"):
            table = getattr(tables, name)
            assert getattr(cut, name)[n] == pytest.approx(sum(table[size] for size in sizes))
    assert in_pieces(tables, 1) is tables


@settings(deadline=None)
@given(batches, st.integers(2, 4))
def test_nano_batches_run_in_pieces_or_whole_whichever_is_faster(batch, pieces):
    m = model()
    step = took(batch, True, True, pieces)
    whole = took(batch, False, False)
    cut = in_pieces(m.tables, pieces)
    tokens, (compute, memory, _) = batch.tokens, m.seconds(batch)
    compute += cut.layers[tokens] - m.tables.layers[tokens]
    compute += cut.head[batch.sampled_tokens] - m.tables.head[batch.sampled_tokens]
    beside = overlapped(m.lines, compute, memory, cut.network[tokens])
    alone = compute + memory + cut.network[tokens]
    traffic = pieces * m.weight_stream_seconds + m.kv_stream_seconds * batch.context_tokens
    beside = max(beside, min(traffic, alone)) if tokens > 1 else alone
    assert step.seconds == pytest.approx(min(beside, whole.seconds))
    assert step[1:] == pytest.approx(
        (compute, memory, cut.network[tokens]) if beside < whole.seconds else whole[1:]
    )


def test_a_small_step_is_run_whole_and_a_large_one_in_pieces():
    small = Batch(1, 1, 1, 63, 63 * 16, 64)
    assert took(small, True, True, 2) == pytest.approx(took(small, False, False))
    assert took(STEP, True, True, 2).compute > took(STEP, True, True).compute


@settings(max_examples=40, deadline=None)
@given(
    batches,
    st.sampled_from([(False, False, 1), (True, False, 1), (True, True, 1), (True, True, 2)]),
)
def test_compiled_steps_equal_their_plain_twin(batch, engine):
    costs, counts = step_costs(model(), *engine), np.array(batch, np.int64)
    assert step_seconds(costs, counts) == step_seconds.py_func(costs, counts)
