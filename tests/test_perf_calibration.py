"""What steps of a runtime take beyond their kernels: fitted and kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from calibration_worlds import OF_TILES, OF_VLLM, SYSTEM, a_profile, flat_calibrations
from hypothesis import example, given

from blendsim.errors import ProfileError
from blendsim.perf import calibrating
from blendsim.perf.calibrating import LEAST_STEPS, TILES, MeasuredSteps, fit_steps, priced_run
from blendsim.perf.calibration import (
    LEAST,
    Calibration,
    KernelSeconds,
    file_of,
    read_calibrations,
    write_calibration,
)
from blendsim.perf.measured import chosen_model, profile_place
from blendsim.steplog import COUNTS, MEASURED_ROWS, TIMES, StepLog

# Fitting


def some_run(mixed: int, alone: int, seed: int = 0) -> MeasuredSteps:
    """Steps whose kernels take some milliseconds; `seconds` are still to be told."""
    rng, steps = np.random.default_rng(seed), mixed + alone
    compute, memory = rng.uniform(4e-3, 40e-3, steps), rng.uniform(1e-3, 30e-3, steps)
    is_mixed = rng.permutation(np.arange(steps) < mixed)
    tokens, layers = rng.integers(1, 1_500, steps), rng.uniform(0.5, 0.9, steps) * compute
    decodes = np.where(is_mixed, rng.integers(1, tokens + 1), tokens)
    work = KernelSeconds(compute, memory, is_mixed, layers, tokens, decodes)
    return MeasuredSteps(np.ones(steps), work)


def taking(run: MeasuredSteps, by: Calibration, noise: float = 0.0, seed: int = 1) -> MeasuredSteps:
    """The same steps, as a runtime of that calibration takes them."""
    factor = 1.0 + noise * np.random.default_rng(seed).standard_normal(len(run.seconds))
    return run._replace(seconds=run.priced(by) * factor)


def numbers(found: Calibration) -> tuple[float, ...]:
    return found.reads, found.step, found.mixed_reads, found.mixed_step


@given(flat_calibrations)
@example(Calibration("vllm"))
@example(Calibration("vllm", 0.6, 0.0, 0.0, 0.0))
def test_steps_without_noise_give_back_what_they_take(by: Calibration) -> None:
    runs = [taking(some_run(120, 150, seed), by) for seed in (0, 1)]
    found = fit_steps("vllm", runs)
    assert found.runtime == "vllm"
    assert numbers(found) == pytest.approx(numbers(by), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_noise_leaves_the_sum_of_the_steps_almost_as_it_is(seed: int) -> None:
    run = taking(some_run(400, 600, seed), OF_VLLM, 0.1, seed)
    total, step = run.error(fit_steps("vllm", [run]))
    assert abs(total) < 5e-3
    assert 0.03 < step < 0.12  # the noise is still in the steps: half of them are off by so much
    assert abs(run.error(Calibration("vllm"))[0]) > 0.1


def test_what_lies_between_steps_is_theirs() -> None:
    """Of two replicas, whose steps lie among each other's in time; the last ones have none after
    them, and a sampled replay does not know when the next one would have begun.
    """
    model = chosen_model(SYSTEM, "auto", "auto")
    counts = np.zeros((4, len(COUNTS)), np.int64)
    counts[:, COUNTS.index("decode_requests")] = counts[:, COUNTS.index("context_tokens")] = 8
    times = np.zeros((4, len(TIMES)))
    times[:, TIMES.index("start")] = [0.0, 5e-3, 2e-3, 9e-3]
    times[:, TIMES.index("seconds")] = 3e-3
    log = StepLog(counts, times, np.array([0, 0, 1, 1], np.int32), {})
    assert priced_run(log, model).seconds == pytest.approx([5e-3, 3e-3, 7e-3, 3e-3])
    sampled = replace(log, meta={MEASURED_ROWS: [0, 1, 2]})
    assert priced_run(sampled, model).seconds == pytest.approx([3e-3] * 3)


def test_nothing_found_is_below_0() -> None:
    """Not where mixed steps are faster than the others."""
    run = some_run(200, 200)
    alone = taking(run, Calibration("vllm", 1.0, 5e-3)).seconds
    eased = run._replace(seconds=np.where(run.work.is_mixed, alone - 4e-3, alone))
    found = fit_steps("vllm", [eased])
    assert min(numbers(found)) == 0.0
    assert (found.mixed_reads, found.mixed_step) == (0.0, 0.0)


def test_steps_that_do_not_tell_what_reads_take_are_refused() -> None:
    """Those that take no longer the more they read."""
    run = some_run(200, 200)
    with pytest.raises(ProfileError, match="their reads are too alike to tell; give logs"):
        fit_steps("vllm", [run._replace(seconds=1.2 * run.work.compute)])


@pytest.mark.parametrize("few_are_mixed", [True, False])
def test_a_kind_of_too_few_steps_is_priced_as_the_other(few_are_mixed: bool) -> None:
    """Whatever the few took."""
    kinds = (LEAST_STEPS - 1, LEAST_STEPS)
    run = some_run(*(kinds if few_are_mixed else kinds[::-1]))
    took = taking(run, Calibration("vllm", 1.3, 2e-3))
    few = run.work.is_mixed == few_are_mixed
    odd = took._replace(seconds=np.where(few, 9.0, took.seconds))
    assert numbers(fit_steps("vllm", [odd])) == pytest.approx((1.3, 2e-3, 0.0, 0.0))


def test_one_step_more_of_it_is_enough() -> None:
    run = taking(some_run(LEAST_STEPS, LEAST_STEPS), OF_VLLM)
    assert numbers(fit_steps("vllm", [run])) == pytest.approx(numbers(OF_VLLM))


def test_too_few_steps_of_both_kinds_are_refused() -> None:
    run = taking(some_run(LEAST_STEPS - 1, LEAST_STEPS - 1), OF_VLLM)
    with pytest.raises(ProfileError, match=f"at least {LEAST_STEPS}"):
        fit_steps("vllm", [run])


#: A factor a tile of the fit, and beyond them none.
STAIRS = tuple(
    (float(n), factor)
    for n, factor in zip(TILES, np.linspace(0.8, 1.2, len(TILES)).tolist(), strict=True)
)
OF_STAIRS = Calibration("vllm", 0.9, 1e-4, 0.1, 3e-4, 4e-6, STAIRS)


def test_factors_by_tokens_are_found_where_they_hold_in_other_runs() -> None:
    runs = [taking(some_run(4_000, 6_000, seed), OF_STAIRS, 0.01, seed) for seed in (0, 1, 2)]
    found = fit_steps("vllm", runs)
    tiles, factors = zip(*found.layers, strict=True)
    assert tiles == TILES
    # Held to 1 as by LEAST_STEPS steps of the hundreds that each tile has.
    assert factors == pytest.approx([factor for _, factor in STAIRS], abs=0.06)
    assert found.decode == pytest.approx(4e-6, rel=0.3)
    one = taking(some_run(4_000, 6_000, 3), OF_STAIRS)
    assert abs(one.error(found)[0]) < 2e-3
    assert one.error(found)[1] < 0.5 * one.error(fit_steps("vllm", runs[:1]))[1]


def test_of_a_single_run_no_factors_are_found() -> None:
    """Nothing would tell whether they are more than its noise."""
    found = fit_steps("vllm", [taking(some_run(4_000, 6_000), OF_STAIRS)])
    assert (found.layers, found.decode) == ((), 0.0)


@pytest.mark.parametrize("seed", range(3))
def test_of_runs_without_any_no_factors_are_found(seed: int) -> None:
    runs = [taking(some_run(500, 500, seed + k), OF_VLLM, 0.1, k) for k in range(3)]
    assert fit_steps("vllm", runs).layers == ()


def test_tiles_of_too_few_steps_take_after_their_neighbours() -> None:
    def without(run: MeasuredSteps) -> MeasuredSteps:
        """Nor steps of 257 to 512 tokens."""
        kept = (run.work.tokens <= 256) | (run.work.tokens > 512)
        work = KernelSeconds(*(part[kept] for part in run.work))
        return MeasuredSteps(run.seconds[kept], work)

    runs = [
        without(taking(some_run(4_000, 6_000, seed), OF_STAIRS, 0.01, seed)) for seed in (0, 1, 2)
    ]
    factors = dict(fit_steps("vllm", runs).layers)
    below, above = factors[256], factors[640]
    between = [factors[n] for n in (320, 384, 448, 512)]
    assert between == pytest.approx(np.linspace(below, above, 6)[1:-1].tolist())


def test_beyond_the_last_tile_that_was_fitted_kernels_say_it() -> None:
    def small(run: MeasuredSteps) -> MeasuredSteps:
        kept = (run.work.tokens > 64) & (run.work.tokens <= 384)
        work = KernelSeconds(*(part[kept] for part in run.work))
        return MeasuredSteps(run.seconds[kept], work)

    runs = [
        small(taking(some_run(8_000, 8_000, seed), OF_STAIRS, 0.01, seed)) for seed in (0, 1, 2)
    ]
    found = fit_steps("vllm", runs)
    assert [tile for tile, _ in found.layers] == [64, 128, 192, 256, 320, 384]
    assert found.layers[0][1] == 1.0
    assert found.factors(np.array([385, 2_000])).tolist() == [1.0, 1.0]


def test_a_calibration_that_is_found_can_be_read(tmp_path: Path) -> None:
    """Factors that come out at next to nothing, too."""
    nothing = replace(OF_STAIRS, layers=tuple((tile, 0.01) for tile, _ in STAIRS))
    runs = [taking(some_run(4_000, 6_000, seed), nothing, 0.01, seed) for seed in (0, 1, 2)]
    found = fit_steps("vllm", runs)
    assert min(factor for _, factor in found.layers) >= LEAST
    place = profile_place(Path(a_profile(tmp_path, found)), SYSTEM)
    assert read_calibrations(place) == (found,)


# Files


def test_calibrations_are_read_as_they_were_written(tmp_path: Path) -> None:
    odd = Calibration("vllm", 1 / 3, 1e-17, 0.1 + 0.2, np.nextafter(1e-3, 1.0).item())
    place = profile_place(Path(a_profile(tmp_path)), SYSTEM)
    assert read_calibrations(place) == ()
    told = {"version_of_runtime": '0.20 "x"', "logs": ["a: 3 steps", "b"]}
    written = [write_calibration(one, place, told) for one in (odd, OF_TILES)]
    assert [path.name for path in written] == ["steps-vllm.toml", "steps-blendrt.toml"]
    assert read_calibrations(place) == (OF_TILES, odd)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The file of a calibration beside its profile."""
    a_profile(tmp_path, OF_VLLM)
    return profile_place(tmp_path, SYSTEM) / file_of("vllm")


def refuse(path: Path) -> str:
    with pytest.raises(ProfileError) as error:
        read_calibrations(path.parent)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("value", ["-0.1", "true", "nan", "inf", "-inf", '"1"', "1e3", "[1.0]", ""])
@pytest.mark.parametrize("name", ["reads", "step", "mixed_reads", "mixed_step", "decode"])
def test_a_bad_number_names_its_file_and_itself(kept: Path, name: str, value: str) -> None:
    lines = kept.read_text().splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.startswith(f"{name} = ")]
    lines[at : at + 1] = [f"{name} = {value}"] if value else []
    kept.write_text("\n".join(lines) + "\n")
    assert f"{name} = " in refuse(kept)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('schema = "calibration"', 'schema = "profile"'),
        ("version = 2", "version = 1"),
        ("schema =", "kind ="),
        ("reads = ", "reads : "),
    ],
)
def test_another_file_is_refused(kept: Path, before: str, after: str) -> None:
    text = kept.read_text()
    assert before in text
    kept.write_text(text.replace(before, after, 1))
    refuse(kept)


def test_a_file_renamed_to_another_runtime_is_refused(kept: Path) -> None:
    assert "of runtime 'vllm'" in refuse(kept.rename(kept.with_name(file_of("blendrt"))))


def test_tables_that_changed_refuse_what_was_fitted_to_them(kept: Path) -> None:
    gemm = kept.with_name("gemm.csv")
    lines = gemm.read_text().splitlines(keepends=True)
    gemm.write_text("".join(lines[:-1]))
    assert "other kernel tables" in refuse(kept)
    gemm.write_text("".join(lines))
    assert read_calibrations(kept.parent) == (OF_VLLM,)


def test_a_calibrated_copy_of_an_imported_profile_has_its_overlap(tmp_path: Path) -> None:
    """And no measured one, as that has none."""
    root = a_profile(tmp_path, OF_VLLM)
    copied, imported = (chosen_model(SYSTEM, "auto", each) for each in (root, "imported"))
    assert copied.overlap == imported.overlap == "table"
    assert np.array_equal(copied.lines, imported.lines)
    for profile in ("imported", root):
        with pytest.raises(ProfileError, match="overlap"):
            chosen_model(SYSTEM, "fit", profile)


def test_a_calibration_of_before_is_to_be_made_again(kept: Path) -> None:
    kept.write_text(kept.read_text().replace("version = 2", "version = 1", 1))
    told = refuse(kept)
    assert told.endswith("; make it again with `blendsim profile calibrate`")


def test_a_run_is_no_part_of_the_fit_that_it_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [taking(some_run(120, 150, seed), Calibration("vllm")) for seed in range(3)]
    fit, judged_by = calibrating._fit, []

    def told(runtime: str, some: list[MeasuredSteps], has_tiles: bool) -> Calibration:
        judged_by.append(len(some))
        return fit(runtime, some, has_tiles)

    monkeypatch.setattr(calibrating, "_fit", told)
    fit_steps("vllm", runs)
    assert sorted(judged_by) == [2] * 6 + [3] * 2
