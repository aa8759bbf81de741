"""What steps of a runtime take beyond their kernels: fitted and kept."""

from pathlib import Path

import numpy as np
import pytest
from calibration_worlds import OF_OURS, OF_VLLM, SYSTEM, a_profile, calibrations
from hypothesis import example, given

from blendsim.errors import ProfileError
from blendsim.perf.calibrating import LEAST_STEPS, MeasuredSteps, fit_steps
from blendsim.perf.calibration import (
    Calibration,
    file_of,
    read_calibrations,
    write_calibration,
)
from blendsim.perf.measured import chosen_model, profile_place

# Fitting


def some_run(mixed: int, alone: int, seed: int = 0) -> MeasuredSteps:
    """Steps whose kernels take some milliseconds; `seconds` are still to be told."""
    rng, steps = np.random.default_rng(seed), mixed + alone
    compute, memory = rng.uniform(4e-3, 40e-3, steps), rng.uniform(1e-3, 30e-3, steps)
    return MeasuredSteps(np.ones(steps), compute, memory, rng.permutation(np.arange(steps) < mixed))


def taking(run: MeasuredSteps, by: Calibration, noise: float = 0.0, seed: int = 1) -> MeasuredSteps:
    """The same steps, as a runtime of that calibration takes them."""
    factor = 1.0 + noise * np.random.default_rng(seed).standard_normal(len(run.seconds))
    return run._replace(seconds=run.priced(by) * factor)


def numbers(found: Calibration) -> tuple[float, ...]:
    return found.reads, found.step, found.mixed_reads, found.mixed_step


@given(calibrations)
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


def test_nothing_found_is_below_0() -> None:
    """Not where mixed steps are faster than the others."""
    run = some_run(200, 200)
    alone = taking(run, Calibration("vllm", 1.0, 5e-3)).seconds
    eased = run._replace(seconds=np.where(run.is_mixed, alone - 4e-3, alone))
    found = fit_steps("vllm", [eased])
    assert min(numbers(found)) == 0.0
    assert (found.mixed_reads, found.mixed_step) == (0.0, 0.0)


def test_steps_that_do_not_tell_what_reads_take_are_refused() -> None:
    """Those that take no longer the more they read."""
    run = some_run(200, 200)
    with pytest.raises(ProfileError, match="their reads are too alike to tell; give logs"):
        fit_steps("vllm", [run._replace(seconds=1.2 * run.compute)])


@pytest.mark.parametrize("few_are_mixed", [True, False])
def test_a_kind_of_too_few_steps_is_priced_as_the_other(few_are_mixed: bool) -> None:
    """Whatever the few took."""
    kinds = (LEAST_STEPS - 1, LEAST_STEPS)
    run = some_run(*(kinds if few_are_mixed else kinds[::-1]))
    took = taking(run, Calibration("vllm", 1.3, 2e-3))
    few = run.is_mixed == few_are_mixed
    odd = took._replace(seconds=np.where(few, 9.0, took.seconds))
    assert numbers(fit_steps("vllm", [odd])) == pytest.approx((1.3, 2e-3, 0.0, 0.0))


def test_one_step_more_of_it_is_enough() -> None:
    run = taking(some_run(LEAST_STEPS, LEAST_STEPS), OF_VLLM)
    assert numbers(fit_steps("vllm", [run])) == pytest.approx(numbers(OF_VLLM))


def test_too_few_steps_of_both_kinds_are_refused() -> None:
    run = taking(some_run(LEAST_STEPS - 1, LEAST_STEPS - 1), OF_VLLM)
    with pytest.raises(ProfileError, match=f"at least {LEAST_STEPS}"):
        fit_steps("vllm", [run])


# Files


def test_calibrations_are_read_as_they_were_written(tmp_path: Path) -> None:
    odd = Calibration("vllm", 1 / 3, 1e-17, 0.1 + 0.2, np.nextafter(1e-3, 1.0).item())
    place = profile_place(Path(a_profile(tmp_path)), SYSTEM)
    assert read_calibrations(place) == ()
    told = {"version_of_runtime": '0.20 "x"', "logs": ["a: 3 steps", "b"]}
    written = [write_calibration(one, place, told) for one in (odd, OF_OURS)]
    assert [path.name for path in written] == ["steps-vllm.toml", "steps-blendrt.toml"]
    assert read_calibrations(place) == (OF_OURS, odd)


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
@pytest.mark.parametrize("name", ["reads", "step", "mixed_reads", "mixed_step"])
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
        ("version = 1", "version = 2"),
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
