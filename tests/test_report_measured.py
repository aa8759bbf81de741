"""Pages of measured logs, whole ones and samples, and of two logs side by side."""

import json
from pathlib import Path

import pytest
from report_pages import Page, changed, figures_of, measured, page_of, runs_in

from blendsim.report.validate import as_json, validate
from blendsim.steplog import MEASURED_ROWS, read_steplog


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs_in(tmp_path_factory.mktemp("runs"))


def test_second_log_is_set_beside_the_first(home: Path, tmp_path: Path) -> None:
    log = changed(home / "one.parquet", tmp_path / "a.parquet")
    other = measured(home, tmp_path / "m.parquet", "NVIDIA A100 80GB")
    told = figures_of(log, "--against", other)
    found = validate(read_steplog(log), read_steplog(other))
    assert told["validation"] == json.loads(json.dumps(as_json(found)))
    assert told["against"]["seconds"] == pytest.approx(1.1 * told["seconds"])
    text = Page(page_of(log, "--against", other)).text
    assert f"{100 * found.total.error:+.1f} %" in text


def test_errors_are_of_the_simulated_log_whichever_comes_first(home: Path, tmp_path: Path) -> None:
    log = changed(home / "one.parquet", tmp_path / "a.parquet")
    other = measured(home, tmp_path / "m.parquet", "NVIDIA A100 80GB")
    told = figures_of(other, "--against", log)
    found = validate(read_steplog(log), read_steplog(other), (str(log), str(other)))
    assert told["validation"] == json.loads(json.dumps(as_json(found)))
    assert told["against"]["seconds"] == pytest.approx(told["seconds"] / 1.1)
    text = Page(page_of(other, "--against", log)).text
    assert f"{100 * found.total.error:+.1f} %" in text


def test_measured_steps_are_priced_by_the_model_of_their_settings(
    home: Path, tmp_path: Path
) -> None:
    simulated = read_steplog(home / "one.parquet")
    from blendsim.cli.progress import Progress
    from blendsim.cli.reported import find

    path = measured(home, tmp_path / "m.parquet", "NVIDIA A100 80GB")
    found = find(read_steplog(path), path, None, None, Progress())
    assert found.work is not None
    assert found.work.compute == pytest.approx(simulated.time("compute_seconds"))
    assert found.work.memory == pytest.approx(simulated.time("memory_seconds"))
    assert found.hindsight is not None
    assert found.hindsight.account is None


def test_another_machine_than_planned_has_no_bounds_and_no_priced_work(
    home: Path, tmp_path: Path
) -> None:
    log = measured(home, tmp_path / "m.parquet", "cpu")
    told, text = figures_of(log), Page(page_of(log)).text
    assert "cpu was measured" in told["notes"][0]
    assert (told["share_of_optimum"], told["gpus"]) == (None, None)
    elsewhere = figures_of(measured(home, tmp_path / "h.parquet", "NVIDIA H100 80GB HBM3"))
    assert (told["mfu"], elsewhere["mfu"], elsewhere["gpus"]) == (None, None, 1)
    assert "Compute and memory work" not in text
    assert "Measured run: blend, llama-3.1-8b, cpu" in text


def test_sampled_replay_shows_its_interval_and_its_own_steps(home: Path, tmp_path: Path) -> None:
    estimate = {"measured": 12, "low": 20.0, "high": 30.0, "level": 0.95}
    rows = {MEASURED_ROWS: list(range(12)), "estimate": estimate}
    text = Page(page_of(changed(home / "one.parquet", tmp_path / "a.parquet", **rows))).text
    assert "takes 20 to 30 s, 95% sure" in text
    assert "The 10 longest steps. Of the 12 that were measured." in text


def test_sampled_replay_that_broke_off_is_told_as_a_guess(home: Path, tmp_path: Path) -> None:
    rows = {MEASURED_ROWS: list(range(12)), "complete": False}
    log = changed(home / "one.parquet", tmp_path / "a.parquet", **rows)
    steps = f"12 of {len(read_steplog(log)):,} steps were measured"
    told, text = figures_of(log), Page(page_of(log)).text
    assert steps in told["notes"][0]
    assert "a guess" in told["notes"][0]
    assert "150 of 150" not in told["notes"][1]
    assert f"{steps}; the whole" in text
    assert "finished" not in text


def test_a_run_on_vllm_is_told_though_its_plan_wants_another_eviction(
    home: Path, tmp_path: Path
) -> None:
    """As `blendsim replay --engine vllm` writes it: by last use, whatever the plan's settings."""
    log = measured(home, tmp_path / "m.parquet", "NVIDIA A100 80GB")
    settings = read_steplog(log).meta["settings"] | {"eviction": "plan"}
    told = figures_of(changed(log, tmp_path / "a.parquet", engine="vllm", settings=settings))
    assert told["share_of_optimum"] is not None
    assert told["notes"] == figures_of(log)["notes"]
