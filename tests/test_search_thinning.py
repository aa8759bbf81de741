"""Small pools on small machines: what is kept, and that the small machine is the whole one in
small.
"""

from dataclasses import replace

import numpy as np
import pytest
from calibration_worlds import OF_TILES

from blendsim import search
from blendsim.batch import Batch
from blendsim.perf.model import with_calibrations
from blendsim.perf.pricing import price_steps
from blendsim.planner.tree import pool_tree
from blendsim.prefix import sort_prompts
from blendsim.request import Prompts, Workload, from_lengths, pool
from blendsim.search.thinning import can_thin, divide_flavour, divide_model, thin
from blendsim.search.world_run import seconds_in
from blendsim.serving.flavour import find_flavour
from blendsim.serving.knobs import Knobs
from blendsim.steplog import COUNTS


def families(count: int, size: int, shared: int = 64) -> Workload:
    """`count` subtrees of `size` requests that share `shared` tokens each."""
    n = count * size
    units = np.repeat(np.arange(n) // size, shared).astype(np.int32)
    prompts = Prompts(
        np.arange(n + 1, dtype=np.int64) * shared,
        units,
        np.zeros(n, np.int32),
        np.ones(1, np.int32),
        ("tokens",),
    )
    return from_lengths(np.full(n, shared + 20), np.full(n, 12), prompts=prompts)


def varied(n: int = 4_000) -> search.Problem:
    rng = np.random.default_rng(3)
    short = from_lengths(rng.integers(200, 900, n), rng.integers(2, 60, n), source="short")
    long = from_lengths(rng.integers(20, 90, n // 8), rng.integers(300, 2_000, n // 8))
    return search.prepare(pool([short, long]), search.Settings(sample=1.0))


def test_a_share_of_every_source_is_kept() -> None:
    problem = varied()
    small = thin(problem, 4, 0)
    kept = np.bincount(small.workload.source) * 4
    assert kept == pytest.approx(np.bincount(problem.workload.source), rel=0.02)
    assert small.drawn.sum() * 4 == pytest.approx(problem.drawn.sum(), rel=0.05)
    assert small.costs.memory.sum() * 4 == pytest.approx(problem.costs.memory.sum(), rel=0.05)


def test_small_subtrees_are_kept_whole_or_not_at_all() -> None:
    workload = families(400, 5)
    problem = search.prepare(workload, search.Settings(sample=1.0))
    small = thin(problem, 4, 0)
    ids = small.workload.ids.astype(np.int64) // 5
    assert set(np.unique(ids, return_counts=True)[1]) == {5}
    assert len(np.unique(ids)) == 100


def test_large_subtrees_are_cut_into_runs_of_neighbours() -> None:
    problem = search.prepare(families(2, 2_000), search.Settings(sample=1.0))
    small = thin(problem, 4, 0)
    assert len(small.workload) == pytest.approx(1_000, rel=0.1)
    assert (small.prompts.common > 0).sum() == len(small.workload) - 2


def test_prompts_are_sorted_as_if_the_small_pool_had_been_read() -> None:
    small = thin(search.prepare(families(300, 7), search.Settings(sample=1.0)), 4, 0)
    again = sort_prompts(small.workload)
    assert np.array_equal(small.prompts.order, again.order)
    assert np.array_equal(small.prompts.common, again.common)
    for column, right in zip(small.tree, pool_tree(small.workload, again), strict=True):
        assert np.array_equal(column, right)


def test_same_seed_keeps_the_same_requests() -> None:
    problem = varied()
    first, second, other = thin(problem, 4, 1), thin(problem, 4, 1), thin(problem, 4, 2)
    assert np.array_equal(first.workload.ids, second.workload.ids)
    assert not np.array_equal(first.workload.ids, other.workload.ids)


def test_small_machine_takes_as_long_for_its_part_of_a_step() -> None:
    model = varied().model
    small = divide_model(model, 4)
    whole = Batch(1_600, 8, 640_000, 400, 200_000, 408)
    part = Batch(*(count // 4 for count in whole))
    assert small.seconds(part) == pytest.approx(model.seconds(whole), rel=1e-9)
    assert small.system.kv_blocks == model.system.kv_blocks // 4


def test_calibrated_steps_of_a_small_machine_take_as_long_for_their_part() -> None:
    model = with_calibrations(varied().model, (OF_TILES,))
    small, flavour = divide_model(model, 4), find_flavour("sequential")
    counts = np.zeros((2, len(COUNTS)), np.int64)
    for row, prompts in zip(counts, (80, 1_600), strict=True):  # a tile with a factor, and none
        row[: len(Batch._fields)] = Batch(prompts, 8, 400 * prompts, 160, 200_000, 168)
    whole, parts = (
        price_steps(flavour.costs(one), rows)
        for one, rows in ((model, counts), (small, counts // 4))
    )
    assert parts == pytest.approx(whole, rel=1e-9)


def test_limits_of_the_engine_are_divided() -> None:
    part = divide_flavour(find_flavour("nanoflow", 512), 16)
    assert (part.token_budget, part.max_running, part.dense_multiple) == (32, 32, 8)


def test_limits_of_the_knobs_are_divided() -> None:
    def divided(**knobs: int) -> Knobs:
        return divide_flavour(find_flavour("vllm", knobs=Knobs(**knobs)), 16).knobs

    part = divided(max_num_active_seqs=600, long_prefill_token_threshold=320)
    assert (part.max_num_active_seqs, part.long_prefill_token_threshold) == (37, 20)
    least = divided(max_num_active_seqs=3, long_prefill_token_threshold=7)
    assert (least.max_num_active_seqs, least.long_prefill_token_threshold) == (1, 1)
    assert divided() == Knobs()
    assert divided(prefill_schedule_interval=4) == Knobs(prefill_schedule_interval=4)


def test_small_run_takes_about_as_long_as_the_whole() -> None:
    problem = varied(20_000)
    flavour = find_flavour("nanoflow")
    seconds = []
    for scene, parts in ((problem, 1), (thin(problem, 4, 0), 4)):
        plan = search.plan_policy(scene, "blend")
        seconds.append(seconds_in(scene, plan, divide_flavour(flavour, parts), scene.drawn))
    assert seconds[1] == pytest.approx(seconds[0], rel=0.1)


def test_pool_whose_long_requests_the_small_machine_cannot_hold_is_not_thinned() -> None:
    def problem(output: int) -> search.Problem:
        return search.prepare(from_lengths([100] * 50, [output] * 50), search.Settings(sample=1.0))

    assert can_thin(problem(1_000), 16)
    assert not can_thin(problem(100_000), 16)


def test_windows_are_as_long_on_the_small_machine() -> None:
    """So that it holds fewer tokens of a request beside them, or none."""

    def problem(kv_blocks: int) -> search.Problem:
        asked = search.Settings(model="gpt-oss-20b", gpu="h100", sample=1.0)
        asked = replace(asked, kv_bytes=kv_blocks * 16 * asked.spec.kv_bytes_per_token)
        return search.prepare(from_lengths([100] * 64, [40] * 64), asked)

    assert not can_thin(problem(36), 4)  # nine blocks, all of them a window's
    assert not can_thin(problem(4 * 16), 4)  # seven blocks beside them
    assert can_thin(problem(4 * 18), 4)
    small = thin(problem(4 * 18), 4, 0)
    assert int((small.workload.prompt_len + small.drawn).max()) <= small.model.system.room


def test_outputs_are_cut_to_what_the_small_machine_holds() -> None:
    lengths = [40] * 3_999 + [40_000]
    problem = search.prepare(from_lengths([100] * 4_000, lengths), search.Settings(sample=1.0))
    for seed in range(40):
        small = thin(problem, 16, seed)
        held = small.model.system.kv_blocks * small.model.system.block_tokens
        assert int((small.workload.prompt_len + small.drawn).max()) <= held


def test_cascade_attention_adds_as_much_on_the_small_machine() -> None:
    model = varied().model
    small, tokens = divide_model(model, 4), np.arange(1, 500)
    assert small.merge_seconds[tokens] == pytest.approx(model.merge_seconds[4 * tokens])
