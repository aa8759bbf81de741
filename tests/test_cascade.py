"""Cascade attention: what a step costs with it, what it can spare, and what planning makes of it.

What the core counts is compared with the slow twins in test_serving_oracle.py and
test_sglang_oracle.py, and its bounds in test_optimum.py.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_optimum import SMALL, tiny_pool

from blendsim import search
from blendsim.perf.cascade import merge_seconds
from blendsim.perf.density import closed_form
from blendsim.perf.model import StepModel, step_model
from blendsim.perf.step import StepTimes, step_costs, step_seconds
from blendsim.perf.store import load_profile
from blendsim.planner import together
from blendsim.planner.together import share_reads
from blendsim.prefix import sort_prompts
from blendsim.report.spared import most_spared
from blendsim.search.thinning import divide_model
from blendsim.serving.flavour import find_flavour
from blendsim.sim.run import simulate
from blendsim.specs import find_gpu, find_model
from blendsim.steplog import COUNTS
from blendsim.system import System

SYSTEM = System(find_model("llama-3.1-8b"), find_gpu("a100-80g"))


@cache
def model(overlap: str = "table") -> StepModel:
    return step_model(SYSTEM, overlap)


def step(decodes: int, context: int, shared: int, prefill: int = 0) -> np.ndarray:
    """The counts of a step whose decodes read `context` tokens in all, `shared` of them again."""
    counts = dict.fromkeys(COUNTS, 0)
    counts |= {
        "prefill_tokens": prefill,
        "prefill_requests": int(prefill > 0),
        "prefill_pairs": prefill * (prefill + 1) // 2,
        "decode_requests": decodes,
        "context_tokens": context,
        "sampled_tokens": decodes,
        "shared_reads": shared,
    }
    return np.array(list(counts.values()), np.int64)


def took(counts: np.ndarray, cascade: bool, overlap: str = "table", pieces: int = 1) -> StepTimes:
    return step_seconds(step_costs(model(overlap), True, True, pieces, cascade), counts)


def test_a_step_that_shares_nothing_costs_the_same() -> None:
    counts = step(200, 200 * 1_000, 0, 512)
    assert took(counts, True) == took(counts, False)


def test_reads_that_are_spared_are_pairs_of_compute() -> None:
    """500 decodes behind one prefix of 8,000 tokens: it is read once, and met by every query."""
    decodes, shared = 500, 499 * 8_000
    counts = step(decodes, decodes * 8_300, shared)
    plain, other = took(counts, False), took(counts, True)
    m = model()
    alone = step_seconds(step_costs(m, True, True), step(decodes, decodes * 8_300 - shared, 0))
    assert other.memory == alone.memory
    added = other.compute - plain.compute
    least = shared * m.best_prefill_seconds_per_pair + m.merge_seconds[decodes]
    assert least <= added < 1.5 * least
    assert other.seconds < 0.2 * plain.seconds


def test_two_readers_of_a_short_prefix_are_not_worth_two_launches() -> None:
    counts = step(2, 2 * 1_000, 16)
    assert took(counts, True, "sum") == took(counts, False, "sum")


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("overlap", ["sum", "max", "table"])
@given(
    decodes=st.integers(1, 1_500),
    prefix=st.integers(0, 20_000),
    own=st.integers(1, 2_000),
    prefill=st.integers(0, 2_000),
)
@settings(max_examples=30, deadline=None)
def test_no_step_is_slower_for_it_nor_beats_its_best_rates(
    overlap: str, pieces: int, decodes: int, prefix: int, own: int, prefill: int
) -> None:
    shared = (decodes - 1) * prefix
    counts = step(decodes, decodes * (prefix + own), shared, prefill)
    costs = step_costs(model(overlap), True, True, pieces, True)
    with_it = took(counts, True, overlap, pieces)
    assert with_it == step_seconds.py_func(costs, counts)
    assert with_it.seconds <= took(counts, False, overlap, pieces).seconds
    m = model(overlap)
    assert with_it.memory >= (decodes * own + prefix) * m.best_seconds_per_context_token


def test_merging_is_two_launches_and_four_passes_a_layer() -> None:
    profile = load_profile(SYSTEM.gpu, SYSTEM.model, 1)
    figures = profile.meta["small_operators"]
    layers, values = SYSTEM.model.layers, SYSTEM.model.heads * SYSTEM.model.head_dim
    moved = 100 * 4 * 2 * values / (figures["bandwidth_share"] * SYSTEM.gpu.bandwidth)
    expected = layers * (2 * figures["launch_seconds"] + moved)
    found = merge_seconds(SYSTEM, profile, np.array([0, 100]))
    assert found.tolist() == [0.0, pytest.approx(expected)]


def test_the_same_plan_takes_the_same_steps_and_no_longer() -> None:
    pool = tiny_pool([(300, 40)] * 30, [256] * 30)
    problem = search.prepare(pool, search.Settings(sample=1.0))
    plan = search.plan_policy(problem, "dfs")
    plain, other = (
        simulate(
            plan,
            pool,
            pool.output_len,
            problem.prompts,
            problem.model,
            replace(find_flavour("vllm"), cascade=cascade),
        )
        for cascade in (False, True)
    )
    last = COUNTS.index("shared_reads")
    assert np.array_equal(np.delete(plain.counts, last, 1), np.delete(other.counts, last, 1))
    assert not plain.count("shared_reads").any()
    # Prompts end in one step or two; from then on all 30 decode to the end.
    assert other.count("shared_reads").max() == 29 * 256
    assert (other.time("seconds") <= plain.time("seconds")).all()


def test_the_longest_reader_reads_its_prefix_in_every_step() -> None:
    pool = tiny_pool([(40, 11), (40, 3), (40, 5)], [32] * 3)
    spared = most_spared(pool, pool.output_len, sort_prompts(pool), SYSTEM, 2_048)
    assert spared == 32 * ((10 + 2 + 4) - 10)


def test_no_more_decode_together_than_may_run() -> None:
    pool = tiny_pool([(40, 11)] * 9, [32] * 9)
    prompts, most = sort_prompts(pool), (1, 3, 4, 9)
    spared = [most_spared(pool, pool.output_len, prompts, SYSTEM, k) for k in most]
    # Of 90 steps four at a time are 23: the last one may be of two.
    assert spared == [0, 32 * (90 - 30), 32 * (90 - 23), 32 * (90 - 10)]


def test_no_more_decode_together_than_memory_holds() -> None:
    """Six blocks without the prefix's two hold 96 private tokens: reads of those take steps."""
    pool = tiny_pool([(40, 11)] * 9, [32] * 9)
    small = replace(SYSTEM, kv_bytes=8 * 16 * SYSTEM.kv_bytes_per_token)
    private = 9 * (10 * 8 + 55)
    spared = most_spared(pool, pool.output_len, sort_prompts(pool), small, 2_048)
    assert spared == 32 * (90 - -(-private // 96))


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_no_schedule_spares_more(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 12))
    lengths = data.draw(
        st.lists(st.tuples(st.integers(1, 400), st.integers(1, 200)), min_size=n, max_size=n)
    )
    shared = data.draw(st.lists(st.integers(0, 400), min_size=n, max_size=n))
    group = data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    pool = tiny_pool(lengths, shared, group)
    budget = data.draw(st.sampled_from([4, 2_048]))
    asked = search.Settings(kv_bytes=SMALL, sample=1.0, cascade=True, engine="vllm")
    problem = search.prepare(pool, asked)
    flavour = find_flavour("vllm", budget, cascade=True)
    log = simulate(
        search.plan_policy(problem, data.draw(st.sampled_from(["fcfs", "dfs", "blend"]))),
        pool,
        pool.output_len,
        problem.prompts,
        problem.model,
        flavour,
    )
    most = most_spared(
        pool, pool.output_len, problem.prompts, problem.model.system, flavour.most_running
    )
    assert int(log.count("shared_reads").sum()) <= most


def test_readers_share_the_reads_of_their_prefix_and_compute_its_pairs() -> None:
    """Four requests behind 32 tokens; the fifth is alone."""
    pool = tiny_pool([(40, 10)] * 5, [32] * 4 + [0])
    costs = closed_form(SYSTEM, pool.prompt_len, pool.output_len)
    found = share_reads(costs, pool, pool.output_len, sort_prompts(pool), SYSTEM, 2_048)
    m, gpu = SYSTEM.model, SYSTEM.gpu
    spared = 10 * 32 * (1 - 1 / 4)
    per_read = m.kv_bytes_per_token / gpu.bandwidth
    per_pair = 4 * m.heads * m.head_dim * m.layers / gpu.flops
    assert costs.memory - found.memory == pytest.approx([spared * per_read] * 4 + [0.0])
    assert found.compute - costs.compute == pytest.approx([spared * per_pair] * 4 + [0.0])


def test_reads_spared_are_summed_from_the_root_on() -> None:
    parent, depth = np.array([-1, 0, 1, 1, 0]), np.array([0, 2, 5, 3, 4])
    counts = np.array([9.0, 3.0, 2.0, 1.5, 7.0])
    for found in (together._spared, together._spared.py_func):
        first = 2 * (1.0 - 1.0 / 3.0)
        assert found(parent, depth, counts).tolist() == [
            0.0,
            first,
            first + 3 * (1.0 - 1.0 / 2.0),
            first + 1 * (1.0 - 1.0 / 1.5),
            4 * (1.0 - 1.0 / 7.0),
        ]


@pytest.mark.parametrize(("most_running", "kv_blocks", "readers"), [(3, 4_096, 3.0), (64, 6, 4.0)])
def test_reads_are_shared_by_no_more_than_run_together(
    most_running: int, kv_blocks: int, readers: float
) -> None:
    """Each holds 8 + 8 tokens besides the prefix of two blocks."""
    pool = tiny_pool([(40, 16)] * 100, [32] * 100)
    small = replace(SYSTEM, kv_bytes=kv_blocks * 16 * SYSTEM.kv_bytes_per_token)
    costs = closed_form(small, pool.prompt_len, pool.output_len)
    found = share_reads(costs, pool, pool.output_len, sort_prompts(pool), small, most_running)
    per_read = SYSTEM.model.kv_bytes_per_token / SYSTEM.gpu.bandwidth
    spared = 16 * 32 * (1 - 1 / readers)
    assert (costs.memory - found.memory) / per_read == pytest.approx([spared] * 100)


def test_plan_says_what_it_saved() -> None:
    pool = tiny_pool([(300, 40)] * 30, [256] * 30)
    asked = search.Settings(sample=1.0, planner="dfs", cascade=True)
    notes = search.choose(pool, asked).notes
    assert (
        sum("of the context that decodes read is read for another" in note for note in notes) == 1
    )


def test_pools_of_decoders_share_no_prefix() -> None:
    pool = tiny_pool([(300, 40)] * 30, [256] * 30)
    asked = search.Settings(sample=1.0, planner="dfs", cascade=True, topology="1P1D")
    assert not search.choose(pool, asked).log.count("shared_reads").any()


def test_agents_that_share_their_reads_go_to_the_compute_heavy_end() -> None:
    """Sixty agents behind 8,192 tokens, beside code completion and long videos."""
    kinds = [((8_300, 400), 60), ((2_000, 20), 200), ((128, 9_000), 6)]
    lengths = [shape for shape, number in kinds for _ in range(number)]
    pool = tiny_pool(lengths, [8_192] * 60 + [0] * 206)
    is_dense = {}
    for cascade in (False, True):
        problem = search.prepare(pool, search.Settings(sample=1.0, cascade=cascade))
        # All lengths are known, so all requests are sampled: order them as if none were.
        known = problem.lengths._replace(is_sampled=np.zeros(len(pool), np.bool_))
        plan = search.plan_policy(problem._replace(lengths=known), "blend")
        agents = plan.order < 60
        is_dense[cascade] = plan.density[agents] >= plan.root_density
    assert not is_dense[False].any()
    assert is_dense[True].all()


def test_ranks_that_steal_count_their_own_readers() -> None:
    """One prefix of 32 tokens before all: all that decode on a rank but one are spared it."""
    pool = tiny_pool([(40, 3 + 2 * k) for k in range(60)], [32] * 60)
    asked = search.Settings(
        sample=1.0, planner="dfs", dp=3, steals=True, steal_seconds=0.05, cascade=True
    )
    log = search.choose(pool, replace(asked, kv_bytes=10 * SMALL)).log
    assert len(np.unique(log.replica)) == 3
    assert not log.count("preempted").any()
    spared = 32 * np.maximum(log.count("decode_requests") - 1, 0)
    assert np.array_equal(log.count("shared_reads"), spared)


def test_small_machine_takes_as_long_for_its_part_of_a_step() -> None:
    small = divide_model(model(), 4)
    whole = step(400, 400 * 5_000, 400 * 4_000)
    parts = [
        step_seconds(step_costs(m, True, True, 1, True), counts)
        for m, counts in ((model(), whole), (small, whole // 4))
    ]
    assert parts[1] == pytest.approx(parts[0], rel=1e-9)
    assert parts[0].seconds < took(whole, False).seconds
