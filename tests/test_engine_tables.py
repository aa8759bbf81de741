"""Tables of vLLM beside us: from logs as they are kept, priced without knowing vLLM's kernels."""

import json
import shutil
from pathlib import Path

import gpu_evidence
import numpy as np
import pytest
from evidence_engines import (
    OURS,
    SIMULATED,
    VLLM,
    Called,
    EngineRun,
    Simulated,
    bases_of,
    computed_tokens,
    engine_kind_table,
    engine_ratio_table,
    engine_runs,
    engine_step_table,
    engine_table,
    told_by,
)
from evidence_runs import MEASURED, Run, read_runs
from validation import RESULTS

from blendsim.perf.measured import chosen_model
from blendsim.serving.flavour import VLLM_PLANNED
from blendsim.settings import Settings
from blendsim.steplog import StepLog, read_steplog, write_steplog

SYSTEM = Settings(gpu="h200").system


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return read_runs(RESULTS)


@pytest.fixture(scope="module")
def found(runs: list[Run]) -> list[EngineRun]:
    return engine_runs(runs)


def test_vllm_stands_beside_our_runs_of_the_same_pool(found: list[EngineRun]) -> None:
    assert {one.engine for one in found} == {VLLM, VLLM_PLANNED, OURS}
    assert {one.pool for one in found} == {"trace1-filled", "trace2-filled"}
    whole = [(one.pool, -one.seconds * one.stretch) for one in found]
    assert whole == sorted(whole)
    assert {one.budget for one in found if one.engine == VLLM} == {2_048, 8_192}


def test_all_engines_generate_the_same_tokens(found: list[EngineRun]) -> None:
    for pool in ("trace1-filled", "trace2-filled"):
        logs = [one.log for one in found if one.pool == pool and one.is_whole]
        assert len(logs) > 2
        for name in ("sampled_tokens", "decode_requests"):
            assert len({int(log.count(name).sum()) for log in logs}) == 1


def test_our_runs_are_priced_as_in_the_other_tables(runs: list[Run]) -> None:
    for one in engine_runs(runs):
        if one.engine == OURS:
            replay = next(
                r for r in one.visit.replays if (r.pool, r.policy) == (one.pool, one.policy)
            )
            assert one.price.sum() == pytest.approx(replay.predicted(MEASURED))


def test_tables_have_a_row_a_run(runs: list[Run]) -> None:
    count = len(engine_runs(runs))
    assert len(list(engine_table(runs))) == 2 + count
    found = engine_runs(runs)
    bases = sum(len(bases_of(one, found)) for one in found if one.is_whole)
    assert len(list(engine_ratio_table(runs))) == 2 + bases
    _, _, *rows = engine_step_table(runs)
    assert len(rows) == count
    assert all(any(cell.strip() for cell in line.split("|")[4:-1]) for line in rows)


def test_kinds_of_steps_are_all_steps_but_a_few(runs: list[Run]) -> None:
    """A kind with fewer than 20 steps is left out."""
    _, _, *rows = engine_kind_table(runs)
    for line, one in zip(rows, engine_runs(runs), strict=True):
        told = [cell.strip() for cell in line.split("|")[4:-1]]
        steps = sum(int(cell.split(", ")[0].replace(",", "")) for cell in told if cell)
        assert 0 <= len(one.log) - steps < 2 * 20
        alone = one.log.count("prefill_tokens") == 0
        assert told[0].startswith(
            f"{alone.sum():,}, {1e3 * one.log.time('seconds')[alone].mean():.1f} "
        )


def test_without_vllm_there_is_nothing_to_compare(runs: list[Run]) -> None:
    without = [run for run in runs if not (run.place / VLLM).exists()]
    assert engine_runs(without) == []
    assert len(list(engine_table(without))) == 2
    assert len(list(engine_step_table(without))) == 2


def test_logs_of_vllm_are_kept_with_what_is_simulated_of_as_many_steps(
    found: list[EngineRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "from", tmp_path / "to"
    source.mkdir()
    target.mkdir()
    log = next(one.log for one in found if one.engine == VLLM and one.is_whole)
    asked = []

    def simulated(plans: Path, name: Called, *, by_kernels: bool = False) -> StepLog:
        asked.append((name.plan, name.engine, name.budget, name.running, by_kernels))
        return log

    monkeypatch.setattr(gpu_evidence, "simulate", simulated)
    write_steplog(log, source / "trace1-filled-dfs-vllm-2048.parquet")
    write_steplog(log, source / "trace1-filled-paced-followed-8192.parquet")
    write_steplog(log, source / "trace2-filled-dfs-vllm-8192-of-384.parquet")
    write_steplog(log, source / "another.parquet")
    some = first_steps(log, 100)
    write_steplog(some, source / "trace1-filled-blend-vllm-2048.broken.parquet")
    gpu_evidence.keep_vllm(source, tmp_path, target)
    kept = sorted(path.name for path in (target / VLLM).iterdir())
    assert kept == [
        SIMULATED,
        "trace1-filled-blend-vllm-2048.parquet",
        "trace1-filled-dfs-vllm-2048.parquet",
        "trace1-filled-paced-followed-8192.parquet",
        "trace2-filled-dfs-vllm-8192-of-384.parquet",
    ]
    assert asked == [
        ("trace1-filled-blend", VLLM, 2_048, None, True),
        *[("trace1-filled-dfs", VLLM, 2_048, None, by) for by in (True, False)],
        *[("trace1-filled-paced", VLLM_PLANNED, 8_192, None, by) for by in (True, False)],
        *[("trace2-filled-dfs", VLLM, 8_192, 384, by) for by in (True, False)],
    ]
    told = json.loads((target / VLLM / SIMULATED).read_text())
    all_of_it, part = told_by(log), told_by(some)
    calibrated = all_of_it._replace(calibrated=all_of_it.seconds)
    assert Simulated(**told["trace1-filled-dfs-vllm-2048"]) == calibrated
    assert Simulated(**told["trace1-filled-blend-vllm-2048"]) == part._replace(
        whole=all_of_it.seconds
    )


def test_against_a_run_that_was_cut_short_a_gain_is_a_bound_and_an_estimate(
    runs: list[Run], tmp_path: Path
) -> None:
    """Ours takes 10 s; vLLM had taken 12 when it was cut short, two thirds of it simulated."""
    fourth = next(run for run in runs if (run.place / VLLM).exists())
    place = tmp_path / "vllm"
    place.mkdir()
    name = "trace1-filled-dfs-vllm-8192"
    whole = read_steplog(fourth.place / VLLM / f"{name}.parquet")
    cut = first_steps(whole, 100)
    seconds = (cut.time("start") + cut.time("seconds")).max()
    times = cut.times * (12.0 / seconds)
    write_steplog(StepLog(cut.counts, times, cut.replica, cut.meta), place / f"{name}.parquet")
    told = {name: Simulated(10.0, 100, 0, 5, whole=15.0)._asdict()}
    (place / SIMULATED).write_text(json.dumps(told))
    ours = next(r for r in fourth.replays if r.pool == "trace1-filled")
    faster = StepLog(
        ours.log.counts, ours.log.times * (10.0 / ours.seconds), ours.log.replica, ours.log.meta
    )
    visit = fourth._replace(place=tmp_path, replays=(ours._replace(log=faster),))
    (line,) = list(engine_ratio_table([visit]))[2:]
    assert "| > 1.200, about 1.800 |" in line
    assert "vllm, dfs, 8,192 (cut short)" in "".join(engine_table([visit]))


def test_a_run_is_held_against_vllm_of_its_own_visit(runs: list[Run]) -> None:
    lines = [line.split(" | ") for line in list(engine_ratio_table(runs))[2:]]
    bases = {(cells[1], cells[3].split(":")[0]) for cells in lines if "trace1" in cells[0]}
    assert bases == {
        ("third", "fifth"),
        ("fourth", "fourth"),
        ("fifth", "fifth"),
        ("sixth", "fifth"),
        ("seventh", "seventh"),
    }


def test_a_run_is_held_against_vllm_at_its_best_and_as_it_is_by_itself(
    found: list[EngineRun],
) -> None:
    """What another running limit gives stands beside vLLM's own; of another visit's only that."""
    bases = {
        (one.visit.name, one.name): [
            (base.visit.name, base.running) for base in bases_of(one, found)
        ]
        for one in found
        if one.pool == "trace2-filled"
    }
    assert bases["seventh", "blendrt, search, 640"] == [("seventh", 384), ("seventh", None)]
    assert bases["seventh", "vllm, dfs, 8,192, 384 running"] == [("seventh", None)]
    assert bases["seventh", "vllm, dfs, 8,192"] == []
    assert bases["sixth", "blendrt, dfs, 2,048"] == [("sixth", None)]
    [(visit, limit)] = bases["fourth", "blendrt, dfs, 2,048"]
    assert visit != "fourth"
    assert limit is None


def test_a_pool_of_the_same_name_of_another_model_stands_apart(found: list[EngineRun]) -> None:
    assert {one.model for one in found} == {"llama-3.1-8b"}


def test_the_kernels_alone_are_the_shipped_profile_less_its_calibrations(tmp_path: Path) -> None:
    root = gpu_evidence.kernels_alone(SYSTEM, tmp_path)
    alone = chosen_model(SYSTEM, "auto", str(root))
    shipped = chosen_model(SYSTEM, "auto", MEASURED)
    assert shipped.calibrations
    assert alone.calibrations == ()
    assert (alone.tables.layers == shipped.tables.layers).all()


def test_vllm_that_follows_a_plan_stands_beside_vllm_by_itself(
    runs: list[Run], tmp_path: Path
) -> None:
    """A run as the fourth, with one log more: of the paced plan, 5 % faster."""
    fourth = next(run for run in runs if (run.place / VLLM).exists())
    place = tmp_path / "vllm"
    shutil.copytree(fourth.place / VLLM, place)
    told = json.loads((place / SIMULATED).read_text())
    name = "trace1-filled-paced-followed-8192"
    told[name] = {**told["trace1-filled-dfs-vllm-8192"], "seconds": 50.0}
    (place / SIMULATED).write_text(json.dumps(told))
    dfs = read_steplog(place / "trace1-filled-dfs-vllm-8192.parquet")
    faster = StepLog(dfs.counts, dfs.times * 0.95, dfs.replica, dfs.meta)
    write_steplog(faster, place / f"{name}.parquet")
    table = list(engine_ratio_table([fourth._replace(place=tmp_path, replays=())]))
    assert len(table) == 3
    assert f"{VLLM_PLANNED}, paced, 8,192" in table[2]
    assert "vllm, dfs, 8,192" in table[2]
    assert "1.053" in table[2]


def first_steps(log: StepLog, steps: int) -> StepLog:
    """A run that was cut short after them."""
    meta = {**log.meta, "complete": False}
    return StepLog(log.counts[:steps], log.times[:steps], log.replica[:steps], meta)


def test_vllms_schedule_is_the_one_that_was_simulated(found: list[EngineRun]) -> None:
    """But for what scheduling one step ahead changes; times are another matter."""
    for one in found:
        if one.engine == VLLM:
            said, preempted = one.simulated, int(one.log.count("preempted").sum())
            # Of the few preemptions at a lower limit six make a fiftieth (371 simulated, 377 seen).
            steps, out, computed = (0.004, 0.02, 0.003) if one.running else (0.002, 0.005, 0.002)
            assert said.steps == pytest.approx(len(one.log), rel=steps)
            assert said.preempted == pytest.approx(preempted, rel=out)
            assert said.computed == pytest.approx(computed_tokens(one.log), rel=computed)


def test_dense_parts_are_positive_and_grow(runs: list[Run]) -> None:
    _, _, *rows = engine_step_table(runs)
    for line in rows:
        told = [cell.strip() for cell in line.split("|")[4:-1]]
        values = np.array([float(cell) for cell in told if cell])
        assert (values > 0).all()
        assert (np.diff(values) > -0.2).all()
