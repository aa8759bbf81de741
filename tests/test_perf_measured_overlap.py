"""An overlap that was measured is priced as measured, and steps are cut by what it promises."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blendsim.batch import Batch
from blendsim.perf.kernels import measured_overlap, overlapped
from blendsim.perf.measured import chosen_model
from blendsim.perf.model import StepModel, step_model
from blendsim.perf.overlap import hull, read_points
from blendsim.perf.step import CUT_WORTH, StepTimes, charged, cut_worth, step_costs, step_seconds
from blendsim.perf.store import load_profile
from blendsim.specs import find_gpu, find_model
from blendsim.steplog import COUNTS
from blendsim.system import System

SYSTEM = System(find_model("llama-3.1-8b"), find_gpu("h200"))
RATIOS, TIMES = np.array([0.5, 1.0, 2.0]), np.array([1.2, 1.6, 2.4])

seconds = st.floats(1e-5, 1.0)


def points(least: float) -> st.SearchStrategy[list[tuple[int, float]]]:
    """Ratios in twentieths, ascending, and where each time lies: 0 at the longer kind of work, 1 at
    one after the other; noise may put it outside.
    """
    share = st.tuples(st.integers(1, 80), st.floats(least, 1.2))
    apart = st.lists(share, min_size=1, max_size=8, unique_by=lambda point: point[0])
    return apart.map(sorted)


def measured(found: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    ratios = np.array([ratio / 20 for ratio, _ in found])
    above = np.array([share for _, share in found])
    longer = np.maximum(1.0, ratios)
    return ratios, longer + above * (1.0 + ratios - longer)


@pytest.fixture(scope="module")
def model() -> StepModel:
    return chosen_model(SYSTEM, "auto", "measured")


@pytest.mark.parametrize(("ratio", "time"), list(zip(RATIOS, TIMES, strict=True)))
def test_a_measured_ratio_takes_the_measured_time(ratio: float, time: float) -> None:
    assert measured_overlap(RATIOS, TIMES, 3.0, 3.0 * ratio) == pytest.approx(3.0 * time)


@pytest.mark.parametrize(("ratio", "time"), [(0.25, 1.1), (0.75, 1.4), (1.5, 2.0)])
def test_between_measured_ratios_lies_a_straight_line(ratio: float, time: float) -> None:
    assert measured_overlap(RATIOS, TIMES, 1.0, ratio) == pytest.approx(time)


def test_beyond_the_last_ratio_reads_are_added() -> None:
    assert measured_overlap(RATIOS, TIMES, 2.0, 14.0) == pytest.approx(2.0 * (2.4 + 5.0))


def test_reads_without_compute_take_their_own_time() -> None:
    assert measured_overlap(RATIOS, TIMES, 0.0, 0.7) == 0.7


def test_compute_without_reads_takes_its_own_time() -> None:
    assert measured_overlap(RATIOS, TIMES, 0.7, 0.0) == pytest.approx(0.7)


@given(points(-0.2), seconds, seconds)
def test_it_lies_between_the_longer_and_one_after_the_other(found, compute, memory) -> None:
    together = measured_overlap(*measured(found), compute, memory)
    assert max(compute, memory) <= together <= compute + memory


@given(points(0.0), seconds, seconds)
def test_it_is_never_below_the_lines_of_its_hull(found, compute, memory) -> None:
    """Bounds are taken from the lines."""
    ratios, times = measured(found)
    least = overlapped(hull(ratios, times), compute, memory)
    assert measured_overlap(ratios, times, compute, memory) >= least * (1 - 1e-9)


def test_nor_where_noise_puts_a_time_beyond_its_limits(tmp_path: Path) -> None:
    """What is read is held between the longer work and the sum, as the hull holds it."""
    table = tmp_path / "overlap.csv"
    table.write_text("memory_over_compute,time_over_compute,attention_sms\n0.05,0.99,0\n2,3.5,0\n")
    points = read_points(table)
    assert points[1].tolist() == [1.0, 3.0]
    least = overlapped(hull(*points), 1.0, 1.0)
    assert measured_overlap(*points, 1.0, 1.0) >= least * (1 - 1e-9)


def test_nor_by_the_overlap_that_is_shipped(model: StepModel) -> None:
    for memory in np.geomspace(0.01, 100.0, 500):
        least = overlapped(model.lines, 1.0, memory)
        assert model.together(1.0, memory) >= least * (1 - 1e-9)


def priced(model: StepModel, step: Batch) -> tuple[StepTimes, float, float]:
    """What the step takes in nano-batches, in two pieces side by side, and in one piece."""
    counts = np.zeros(len(COUNTS), np.int64)
    counts[: len(step)] = step
    costs = step_costs(model, overlaps=True, overlaps_network=True, nano_batches=2)
    pieces, reads, halves = replace(model, tables=costs.tables).seconds(step)
    traffic = 2 * model.weight_stream_seconds + model.kv_stream_seconds * step.context_tokens
    halves = max(halves, min(traffic, pieces + reads))
    compute, memory, _ = model.seconds(step)
    return step_seconds(costs, counts), halves, compute + memory


STEPS = [
    Batch(tokens, 2, tokens * tokens // 4, decodes, decodes * context, decodes)
    for tokens in (256, 1024, 2048, 8192)
    for decodes in (64, 512)
    for context in (256, 2048, 8192)
]


@pytest.mark.parametrize("worth", [CUT_WORTH, 0.97, 1.0])
def test_a_step_is_cut_only_where_that_promises_enough(model: StepModel, worth: float) -> None:
    for step in STEPS:
        _, halves, whole = priced(model, step)
        costs = step_costs(model, True, True, nano_batches=2)._replace(cut_worth=worth)
        counts = np.zeros(len(COUNTS), np.int64)
        counts[: len(step)] = step
        expected = whole if worth * whole < halves else halves
        assert step_seconds(costs, counts).seconds == pytest.approx(expected), step


def test_an_overlap_as_charged_takes_the_sum_where_no_step_is_cut_for_it(model: StepModel) -> None:
    """Of a tenth, a fifth and a tenth of the sum only the fifth is worth a cut at 0.85."""
    ratios, gains = np.array([0.5, 1.0, 2.0]), np.array([0.9, 0.8, 0.9])
    seen = (ratios, gains * (1.0 + ratios))
    costs = step_costs(model, True, True, nano_batches=2)._replace(measured=seen)
    found = charged(costs)
    told = np.interp(ratios, *found.measured) / (1.0 + ratios)
    assert told.tolist() == pytest.approx([1.0, 0.8, 1.0])
    assert np.array_equal(found.lines, hull(*found.measured))


@pytest.mark.parametrize("last", [0.9, 0.8])
def test_between_measured_points_an_overlap_is_charged_as_steps_are(
    model: StepModel, last: float
) -> None:
    """Where a cut comes to be worth it, and where it ceases to, lies between points or behind."""
    ratios, gains = np.array([0.5, 1.0, 2.0]), np.array([0.9, 0.8, last])
    seen = (ratios, gains * (1.0 + ratios))
    costs = step_costs(model, True, True, nano_batches=2)._replace(measured=seen)
    told = charged(costs)
    for ratio in np.linspace(0.0531, 6.0, 119):
        plain = measured_overlap(*seen, 1.0, ratio)
        is_cut = plain <= costs.cut_worth * (1.0 + ratio)
        right = plain if is_cut else 1.0 + ratio
        assert measured_overlap(*told.measured, 1.0, ratio) == pytest.approx(right), ratio


def test_steps_in_one_piece_are_charged_an_overlap_as_it_was_measured(model: StepModel) -> None:
    costs = step_costs(model, True, True)
    assert charged(costs) is costs


def test_steps_cost_the_overlap_as_charged(model: StepModel) -> None:
    """But for what the GEMMs of halves take more, which is no matter of the overlap."""
    costs = step_costs(model, True, True, nano_batches=2)._replace(tables=model.tables)
    told = charged(costs)
    for step in STEPS:
        counts = np.zeros(len(COUNTS), np.int64)
        counts[: len(step)] = step
        took = step_seconds(costs, counts)
        price = measured_overlap(*told.measured, took.compute, took.memory)
        assert took.seconds == pytest.approx(price), step


def test_a_measured_overlap_has_to_promise_more_than_cutting_costs(model: StepModel) -> None:
    assert cut_worth(model) == CUT_WORTH < 1.0
    assert step_costs(model, True, True, nano_batches=2).cut_worth == CUT_WORTH


def test_without_a_measured_overlap_whatever_is_shorter_is_run() -> None:
    plain = step_model(SYSTEM, "table")
    assert cut_worth(plain) == 1.0
    for step in STEPS:
        took, halves, whole = priced(plain, step)
        assert took.seconds == pytest.approx(min(halves, whole)), step


def test_an_engine_that_does_not_overlap_takes_no_measured_overlap(model: StepModel) -> None:
    costs = step_costs(model, overlaps=False, overlaps_network=False)
    assert (costs.measured, costs.cut_worth) == ((), 1.0)


def tiled(tile: int | None) -> StepModel:
    """The measured model with GEMMs in tiles of so many rows; None: nothing said of tiles."""
    profile = load_profile(SYSTEM.gpu, SYSTEM.model)
    meta = {name: value for name, value in profile.meta.items() if name != "gemm_tile"}
    if tile is not None:
        meta["gemm_tile"] = tile
    return step_model(SYSTEM, "table", replace(profile, meta=meta))


def gemms(model: StepModel) -> np.ndarray:
    return model.tables.layers - model.small_seconds


def test_above_one_tile_gemms_cost_what_whole_tiles_cost() -> None:
    table, n = gemms(tiled(64)), np.arange(65, 8192)
    assert table[n] == pytest.approx(table[-(-n // 64) * 64], rel=1e-9)


def test_below_one_tile_rows_are_what_they_are() -> None:
    table, head = tiled(64).tables.head, tiled(None).tables.head
    assert (table[:65] <= head[:65]).all()
    assert len(set(table[1:65])) > 1


def test_with_tiles_no_size_costs_more_than_a_larger_one() -> None:
    table = tiled(64).tables.head
    assert (np.diff(table[1:]) >= 0).all()


def test_a_tile_of_one_row_changes_nothing() -> None:
    one, none = tiled(1), tiled(None)
    assert np.array_equal(one.tables.layers, none.tables.layers)
    assert np.array_equal(one.tables.head, none.tables.head)
