"""The statistics of a sampled replay, on step times that are known."""

from functools import cache
from typing import NamedTuple

import numpy as np
import pytest

from blendsim.arrays import Floats, Ints
from blendsim.errors import InputError
from blendsim.report.sampling import (
    LEAST,
    Sample,
    allocate,
    choose_sample,
    estimate,
    step_axes,
    stratify,
    student_quantile,
)
from blendsim.steplog import COUNTS

SEEDS = 300
STEPS = 2_000


class Run(NamedTuple):
    """A run whose steps' seconds are known, and what a model says of them."""

    counts: Ints
    seconds: Floats
    model: Floats


@cache
def known_run(seed: int = 0) -> Run:
    """A prefill phase, then decodes of growing and shrinking number. The model knows the shape, is
    a fifth too fast and wrong by kind.
    """
    rng = np.random.default_rng(seed)
    counts = np.zeros((STEPS, len(COUNTS)), np.int64)
    position = np.linspace(0, 1, STEPS)
    decodes = np.clip(1500 * np.sin(3 * position) + rng.normal(0, 50, STEPS), 1, 2000)
    has_prefill = rng.random(STEPS) < 0.7 - 0.6 * position
    prefill = np.where(has_prefill, rng.integers(1, 2048, STEPS), 0)
    context = decodes.astype(np.int64) * rng.integers(200, 3000, STEPS)
    for name, column in (
        ("prefill_tokens", prefill),
        ("decode_requests", decodes),
        ("context_tokens", context),
    ):
        counts[:, COUNTS.index(name)] = column
    model = 0.004 + 1.5e-5 * (prefill + decodes) + 4e-9 * context
    seconds = 1.2 * model * np.where(has_prefill, 1.1, 1.0) * rng.lognormal(0, 0.05, STEPS)
    return Run(counts, seconds, model)


def measure(run: Run, number: int, seed: int, has_model: bool) -> tuple[float, float, float]:
    """The estimate of one sample and its interval's ends, over the true total."""
    model = run.model if has_model else None
    sample = choose_sample(run.counts, number, np.random.default_rng(seed), model)
    found = estimate(sample, run.seconds[sample.chosen], model)
    total = run.seconds.sum()
    return found.seconds / total, found.low / total, found.high / total


@cache
def many(number: int, has_model: bool) -> Floats:
    """(SEEDS, 3) of `measure`."""
    run = known_run()
    return np.array([measure(run, number, seed, has_model) for seed in range(SEEDS)])


@pytest.mark.parametrize("has_model", [False, True])
@pytest.mark.parametrize("number", [40, 120])
def test_interval_holds_the_truth_as_often_as_it_says(number: int, has_model: bool) -> None:
    _, low, high = many(number, has_model).T
    held = int(((low <= 1) & (high >= 1)).sum())
    # Three standard deviations of a binomial count at 95 %.
    reach = 3 * np.sqrt(SEEDS * 0.95 * 0.05)
    assert abs(held - 0.95 * SEEDS) <= reach, f"{held} of {SEEDS} intervals hold the truth"


@pytest.mark.parametrize("has_model", [False, True])
@pytest.mark.parametrize("number", [40, 120])
def test_estimate_is_unbiased(number: int, has_model: bool) -> None:
    found = many(number, has_model)[:, 0]
    assert abs(found.mean() - 1) <= 3 * found.std() / np.sqrt(SEEDS)


def test_interval_is_as_wide_as_estimates_scatter() -> None:
    for number, has_model in ((40, False), (40, True), (120, False), (120, True)):
        found, low, high = many(number, has_model).T
        assert (high - low).mean() / 2 == pytest.approx(2 * found.std(), rel=0.2)


def test_a_model_that_knows_the_shape_narrows_the_interval() -> None:
    plain, helped = (many(120, has_model) for has_model in (False, True))
    widths = [(found[:, 2] - found[:, 1]).mean() for found in (plain, helped)]
    assert widths[1] < 0.5 * widths[0]


def test_a_model_that_knows_nothing_costs_little() -> None:
    run = known_run()
    noise = np.random.default_rng(9).permutation(run.model)
    blind = run._replace(model=noise)
    found = np.array([measure(blind, 120, seed, True) for seed in range(SEEDS)])
    held = int(((found[:, 1] <= 1) & (found[:, 2] >= 1)).sum())
    assert abs(held - 0.95 * SEEDS) <= 3 * np.sqrt(SEEDS * 0.95 * 0.05)
    plain = many(120, False)
    assert found[:, 0].std() < 1.5 * plain[:, 0].std()


def test_strata_narrow_the_interval_of_the_same_number_of_steps() -> None:
    run, widths = known_run(), []
    for strata in (1, 20):
        rng = np.random.default_rng(3)
        stratum = stratify(step_axes(run.counts), strata)
        sizes = np.bincount(stratum)
        parts = allocate(sizes, sizes.astype(float), 120)
        chosen = [
            rng.choice(np.flatnonzero(stratum == k), n, replace=False)
            for k, n in enumerate(parts.tolist())
        ]
        sample = Sample(stratum, np.sort(np.concatenate(chosen)))
        found = estimate(sample, run.seconds[sample.chosen])
        widths.append(found.high - found.low)
    assert widths[1] < 0.8 * widths[0]


def test_one_stratum_is_the_textbooks_formula() -> None:
    seconds = np.array([1.0, 2.0, 4.0])
    sample = Sample(np.zeros(10, np.int64), np.array([0, 3, 7]))
    found = estimate(sample, seconds)
    error = np.sqrt(10 * 7 / 3 * seconds.var(ddof=1))
    assert found.seconds == pytest.approx(10 * 7 / 3)
    assert found.high - found.seconds == pytest.approx(student_quantile(0.975, 2) * error)
    assert (found.degrees, found.slope) == (2, 0.0)
    assert found.steps[[0, 3, 7]].tolist() == [1.0, 2.0, 4.0]


def test_steps_add_to_the_estimate_and_measured_ones_stay_as_they_are() -> None:
    run = known_run()
    for model in (None, run.model):
        sample = choose_sample(run.counts, 100, np.random.default_rng(1), model)
        found = estimate(sample, run.seconds[sample.chosen], model)
        assert found.steps.sum() == pytest.approx(found.seconds, rel=1e-12)
        assert np.array_equal(found.steps[sample.chosen], run.seconds[sample.chosen])


def test_a_model_that_is_right_leaves_no_doubt() -> None:
    run = known_run()
    sample = choose_sample(run.counts, 100, np.random.default_rng(1), run.model)
    found = estimate(sample, 3 * run.model[sample.chosen], run.model)
    assert found.slope == pytest.approx(3.0)
    assert found.seconds == pytest.approx(3 * run.model.sum())
    assert found.high - found.low < 1e-9 * found.seconds


@pytest.mark.parametrize("number", [STEPS, STEPS + 5])
def test_as_many_as_there_are_measures_everything(number: int) -> None:
    run = known_run()
    sample = choose_sample(run.counts, number, np.random.default_rng(0))
    assert sample.chosen.tolist() == list(range(STEPS))
    found = estimate(sample, run.seconds, run.model)
    assert found.low == found.seconds == found.high == pytest.approx(run.seconds.sum())
    assert found.degrees == np.inf


def test_a_run_shorter_than_the_least_sample_is_measured_whole() -> None:
    counts = known_run().counts[:3]
    sample = choose_sample(counts, 3, np.random.default_rng(0))
    assert estimate(sample, np.array([1.0, 2.0, 3.0])).seconds == 6.0
    with pytest.raises(InputError, match=f"--sampled 2 of 3 steps .* give at least {LEAST}"):
        choose_sample(counts, 2, np.random.default_rng(0))


@pytest.mark.parametrize("number", [LEAST - 1, 1, 0, -5])
def test_too_small_a_sample_is_one_line_that_says_the_least(number: int) -> None:
    with pytest.raises(InputError, match=rf"--sampled {number} of 2,000 .*; give at least {LEAST}"):
        choose_sample(known_run().counts, number, np.random.default_rng(0))


def test_sample_has_the_asked_size_and_two_of_every_stratum() -> None:
    run = known_run()
    for number in (LEAST, 9, 50, 333, STEPS - 1):
        sample = choose_sample(run.counts, number, np.random.default_rng(number), run.model)
        assert len(np.unique(sample.chosen)) == number
        sizes, drawn = (np.bincount(sample.stratum[rows]) for rows in (slice(None), sample.chosen))
        assert (drawn >= np.minimum(sizes, 2)).all()


def test_same_seed_same_sample() -> None:
    run = known_run()
    samples = [choose_sample(run.counts, 60, np.random.default_rng(4), run.model) for _ in "ab"]
    assert np.array_equal(samples[0].chosen, samples[1].chosen)


def test_all_phases_of_a_run_of_equal_steps_are_sampled() -> None:
    counts = np.repeat(known_run().counts[:1], STEPS, axis=0)
    sample = choose_sample(counts, 60, np.random.default_rng(0))
    assert len(np.unique(sample.stratum)) == 10
    assert (np.diff(sample.stratum) >= 0).all(), "equal steps part by position alone"
    assert np.bincount(sample.chosen * 10 // STEPS, minlength=10).min() >= 1


def test_boxes_part_where_the_widest_axis_halves() -> None:
    axes = np.array([[0.0, 0.0], [0.1, 0.0], [0.9, 1.0], [1.0, 1.0]])
    assert stratify(axes, 2).tolist() == [0, 0, 1, 1]
    assert len(set(stratify(axes, 9).tolist())) == 4, "rows that differ get boxes of their own"
    assert stratify(np.zeros((5, 2)), 3).tolist() == [0] * 5


def test_stratum_of_one_member_is_measured_and_certain() -> None:
    stratum = np.array([0] * 50 + [1])
    sizes = np.bincount(stratum)
    assert allocate(sizes, np.array([1.0, 99.0]), 12).tolist() == [11, 1]
    seconds = np.array([1.0] * 11 + [70.0])
    sample = Sample(stratum, np.array([*range(11), 50]))
    found = estimate(sample, seconds)
    assert (found.seconds, found.low, found.high) == (120.0, 120.0, 120.0)


def test_measurements_go_where_the_seconds_are() -> None:
    parts = allocate(np.array([100, 100, 3]), np.array([10.0, 30.0, 100.0]), 43)
    assert parts.tolist() == [10, 30, 3]


def test_students_quantile_against_the_tables() -> None:
    table = {3: 3.182, 4: 2.776, 5: 2.571, 10: 2.228, 30: 2.042, np.inf: 1.960}
    for degrees, value in table.items():
        assert student_quantile(0.975, degrees) == pytest.approx(value, rel=2e-3)
