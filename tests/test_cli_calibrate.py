"""`blendsim profile calibrate` on logs of the simulator, rewritten as a runtime would have them."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run, run_json

from blendsim.perf.calibrating import LEAST_STEPS
from blendsim.perf.calibration import Calibration, KernelSeconds, read_calibrations
from blendsim.perf.measured import chosen_model, profile_place, shipped_place
from blendsim.specs import find_gpu, find_model
from blendsim.steplog import MEASURED_ROWS, StepLog, read_steplog, write_steplog
from blendsim.system import System

SYSTEM = System(find_model("llama-3.1-8b"), find_gpu("h200"))
OF_VLLM = Calibration("vllm", 1.25, 1e-3, 0.3, 4e-3)
OF_OURS = Calibration("blendrt", 0.9, 2e-4, 0.05, 5e-4)
H200 = {"device": "NVIDIA H200"}
HEADER = "num_prefill_tokens,num_decode_tokens"


#: Logs here are simulated by kernels of the package; without it an H200's own are calibrated.
IMPORTED = ("--profile", "imported")


def calibrate(*arguments: str | Path) -> dict[str, Any]:
    given = () if "--profile" in arguments else IMPORTED
    return run_json("profile", "calibrate", *arguments, *given)


def write_trace(path: Path, rows: Iterable[tuple[int, int]]) -> Path:
    path.write_text("\n".join([HEADER, *(f"{p},{d}" for p, d in rows)]) + "\n")
    return path


def some_rows(seed: int, count: int = 300) -> list[tuple[int, int]]:
    """As many prompts as are decoded beside for more than LEAST_STEPS steps."""
    rng = np.random.default_rng(seed)
    prompts, outputs = rng.integers(800, 3_000, count), rng.integers(100, 700, count)
    return list(zip(prompts.tolist(), outputs.tolist(), strict=True))


def simulated(trace: Path, *more: str) -> StepLog:
    """The step log of its plan on one after another of vLLM's steps, as `simulate` writes it."""
    plan, log = trace.with_suffix(".plan"), trace.with_suffix(".sim")
    asked = [
        "--gpu",
        "h200",
        "--engine",
        "vllm",
        "--token-budget",
        "2048",
        "--planner",
        "fcfs",
        "--sample",
        "1",
        *IMPORTED,
        *more,
    ]
    run("plan", "--trace", trace, *asked, "-o", plan)
    run("simulate", plan, "-o", log)
    return read_steplog(log)


def measured(log: StepLog, path: Path, by: Calibration = OF_VLLM, **meta: Any) -> Path:
    """Its steps as a runtime of that calibration takes them, written down as that runtime does."""
    prompts, decodes = log.count("prefill_tokens"), log.count("decode_requests")
    layers = chosen_model(SYSTEM, "auto", "imported").tables.layers[prompts + decodes]
    seconds = by.seconds(
        KernelSeconds(
            log.time("compute_seconds"),
            log.time("memory_seconds"),
            (prompts > 0) & (decodes > 0),
            layers,
            prompts + decodes,
            decodes,
        )
    )
    times = np.zeros_like(log.times)
    times[:, 0], times[:, 1] = np.cumsum(seconds) - seconds, seconds
    own = {"runtime": by.runtime, "model": "llama-3.1-8b", "machine": H200}
    write_steplog(replace(log, times=times, meta={**log.meta, **own, **meta}), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traces, simulated logs and logs of runs: `a`, `b` of vLLM, `ours` of our runtime."""
    here = tmp_path_factory.mktemp("logs")
    for name, seed in (("a", 1), ("b", 2)):
        log = simulated(write_trace(here / f"{name}.csv", some_rows(seed)))
        decodes, prompts = log.count("decode_requests") > 0, log.count("prefill_tokens") > 0
        assert (decodes & prompts).sum() >= LEAST_STEPS
        assert (decodes & ~prompts).sum() >= LEAST_STEPS
        measured(log, here / f"{name}.parquet", versions={"vllm": "0.20.2"})
    measured(read_steplog(here / "a.sim"), here / "ours.parquet", OF_OURS)
    return here


def tree(root: Path) -> dict[str, bytes]:
    """All files below a directory."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else b""
        for path in root.rglob("*")
    }


def of_fit(found: dict[str, Any]) -> tuple[float, ...]:
    return tuple(
        found[name] for name in ("reads", "step_seconds", "mixed_reads", "mixed_step_seconds")
    )


def of(one: Calibration) -> tuple[float, ...]:
    return one.reads, one.step, one.mixed_reads, one.mixed_step


def total(path: Path) -> float:
    return float(read_steplog(path).time("seconds").sum())


# What is found and written


def test_it_finds_what_steps_take_and_keeps_it_beside_a_copy_of_the_profile(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "profile"
    found = calibrate(folder / "a.parquet", folder / "b.parquet", "-o", out)
    assert (found["runtime"], found["version"], found["profile"]) == ("vllm", "0.20.2", "imported")
    assert of_fit(found) == pytest.approx(of(OF_VLLM), rel=1e-6)
    place = profile_place(out, SYSTEM)
    assert found["written"] == str(place / "steps-vllm.toml")
    assert {"meta.toml", "gemm.csv", "decode_attention.csv", "steps-vllm.toml"} <= {
        path.name for path in place.iterdir()
    }
    (kept,) = read_calibrations(place)
    assert kept.runtime == "vllm"
    assert of(kept) == of_fit(found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]


def test_logs_are_told_one_by_one_with_how_far_they_are_off(folder: Path, tmp_path: Path) -> None:
    names = [folder / "a.parquet", folder / "b.parquet"]
    found = calibrate(*names, "-o", tmp_path / "out")
    assert [one["log"] for one in found["logs"]] == list(map(str, names))
    for path, one in zip(names, found["logs"], strict=True):
        log = read_steplog(path)
        here = log.count("decode_requests") > 0
        assert one["steps"] == here.sum() < len(log)
        assert one["mixed_steps"] == (here & (log.count("prefill_tokens") > 0)).sum()
        assert one["seconds"] == pytest.approx(log.time("seconds")[here].sum())
        simulation = read_steplog(path.with_suffix(".sim"))
        took, kernels = log.time("seconds")[here], simulation.time("seconds")[here]
        assert one["kernels_error"] == pytest.approx(kernels.sum() / took.sum() - 1)
        assert one["kernels_step_error"] == pytest.approx(np.median(np.abs(kernels / took - 1)))
        for name in ("calibrated_error", "calibrated_step_error"):
            assert one[name] == pytest.approx(0.0, abs=1e-6)
        for name in ("left_out_error", "left_out_step_error"):
            assert one[name] == pytest.approx(0.0, abs=1e-6)


def test_a_log_is_judged_by_the_others(folder: Path, tmp_path: Path) -> None:
    """Two runs of different speed: what fits both is between, what fits one is off at the other."""
    slow = measured(
        read_steplog(folder / "b.sim"), tmp_path / "slow", Calibration("vllm", 2.5, 2e-3, 0.6, 8e-3)
    )
    a, b = calibrate(folder / "a.parquet", slow, "-o", tmp_path / "out")["logs"]
    assert 0.01 < a["calibrated_error"] < a["left_out_error"]
    assert b["left_out_error"] < b["calibrated_error"] < -0.01
    assert a["left_out_step_error"] > a["calibrated_step_error"] > 0


def test_one_log_is_judged_by_no_other(folder: Path, tmp_path: Path) -> None:
    found = calibrate(folder / "a.parquet", "-o", tmp_path / "out")
    (one,) = found["logs"]
    assert (one["left_out_error"], one["left_out_step_error"]) == (None, None)
    assert any("of one run" in note for note in found["notes"])
    assert of_fit(found) == pytest.approx(of(OF_VLLM), rel=1e-6)


def test_logs_that_are_enough_only_together_do(folder: Path, tmp_path: Path) -> None:
    """A short one beside a long one: nothing could be fitted to it alone."""
    short = simulated(write_trace(tmp_path / "short.csv", [(300, 40)] * 5))
    small = measured(short, tmp_path / "short.parquet")
    found = calibrate(folder / "a.parquet", small, "-o", tmp_path / "out")
    assert of_fit(found) == pytest.approx(of(OF_VLLM), rel=1e-6)
    a, b = found["logs"]
    assert a["left_out_error"] is None
    assert b["left_out_error"] == pytest.approx(0.0, abs=1e-6)


def test_text_says_what_was_found_and_where_it_is(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    both = run(
        "profile", "calibrate", folder / "a.parquet", folder / "b.parquet", "-o", out, *IMPORTED
    )
    joined = " ".join(both.split())
    assert "1.250 of its decode reads and 1.00 ms" in joined
    assert "0.300 of its decode reads and 4.00 ms more" in joined
    assert "vllm with llama-3.1-8b on h200" in joined
    assert both.splitlines()[-1] == f"{profile_place(out, SYSTEM) / 'steps-vllm.toml'} written"
    assert "by the others" in both
    assert "a.parquet" in both
    assert "Note" not in both
    one = run("profile", "calibrate", folder / "a.parquet", "-o", tmp_path / "one", *IMPORTED)
    assert "by the others" not in one
    assert "Note: of one run" in " ".join(one.split())


def test_the_version_is_read_from_what_a_replay_writes(folder: Path, tmp_path: Path) -> None:
    """Which has libraries' versions beside the device."""
    machine = H200 | {"vllm": "0.20.2"}
    log = measured(read_steplog(folder / "a.sim"), tmp_path / "replayed", machine=machine)
    assert calibrate(log, "-o", tmp_path / "out")["version"] == "0.20.2"


def test_estimated_rows_of_a_sampled_run_are_left_out(folder: Path, tmp_path: Path) -> None:
    log = read_steplog(folder / "a.parquet")
    rows = np.arange(0, len(log), 2)
    times = log.times.copy()
    times[1::2, 1] *= 3
    sampled = tmp_path / "sampled"
    write_steplog(
        replace(log, times=times, meta={**log.meta, MEASURED_ROWS: rows.tolist()}), sampled
    )
    found = calibrate(sampled, "-o", tmp_path / "out")
    assert found["logs"][0]["steps"] == (log.count("decode_requests")[rows] > 0).sum()
    assert of_fit(found) == pytest.approx(of(OF_VLLM), rel=1e-6)


# How it is used


def seconds_of(trace: Path, engine: str, *more: str | Path) -> float:
    asked = ["--gpu", "h200", "--engine", engine, "--planner", "fcfs", "--sample", "1"]
    seconds = run_json("plan", "--trace", trace, *asked, "--token-budget", 2_048, *more)["seconds"]
    assert isinstance(seconds, float)
    return seconds


def test_plans_are_priced_by_it(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    calibrate(folder / "a.parquet", folder / "b.parquet", "-o", out)
    kernels = seconds_of(folder / "a.csv", "vllm", *IMPORTED)
    assert kernels == pytest.approx(total(folder / "a.sim"))
    priced = seconds_of(folder / "a.csv", "vllm", "--profile", out)
    assert priced == pytest.approx(total(folder / "a.parquet"), rel=2e-4)
    assert priced > 1.1 * kernels
    for engine in ("sequential", "nanoflow"):  # nobody calibrated their runtime
        plain = seconds_of(folder / "a.csv", engine, *IMPORTED)
        # The copy has six digits of every time.
        assert seconds_of(folder / "a.csv", engine, "--profile", out) == pytest.approx(plain, 1e-4)


def test_a_second_runtime_is_added(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    calibrate(folder / "a.parquet", folder / "b.parquet", "-o", out)
    before = tree(out)
    ours = calibrate(folder / "ours.parquet", "--profile", out, "-o", out)
    place = profile_place(out, SYSTEM)
    assert ours["written"] == str(place / "steps-blendrt.toml")
    after = tree(out)
    added = str((place / "steps-blendrt.toml").relative_to(out))
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {added}
    assert of_fit(ours) == pytest.approx(of(OF_OURS), rel=1e-3)
    assert [one.runtime for one in read_calibrations(place)] == ["blendrt", "vllm"]
    vllm = seconds_of(folder / "a.csv", "vllm", "--profile", out)
    assert vllm == pytest.approx(total(folder / "a.parquet"), rel=2e-4)
    plain = seconds_of(folder / "a.csv", "sequential")
    assert abs(seconds_of(folder / "a.csv", "sequential", "--profile", out) / plain - 1) > 1e-3


def test_calibrating_again_is_of_kernels_too(folder: Path, tmp_path: Path) -> None:
    """Not of steps that are calibrated already."""
    out, logs = tmp_path / "out", [folder / "a.parquet", folder / "b.parquet"]
    calibrate(*logs, "-o", out)
    first = calibrate(*logs, "--profile", out, "-o", out)
    again = calibrate(*logs, "--profile", out, "-o", out)
    assert of_fit(first) == of_fit(again)
    assert of_fit(again) == pytest.approx(of(OF_VLLM), rel=1e-3)
    assert again["logs"][0]["kernels_error"] < -0.1
    assert again["profile"] == str(out)


def test_a_measured_profile_is_copied_with_its_overlap(folder: Path, tmp_path: Path) -> None:
    out, source = tmp_path / "out", shipped_place(SYSTEM)
    before = tree(source)
    calibrate(folder / "a.parquet", "--profile", "measured", "-o", out)
    place = profile_place(out, SYSTEM)
    copied = {name: data for name, data in tree(place).items() if name != "steps-vllm.toml"}
    assert copied == {name: data for name, data in before.items() if name != "steps-vllm.toml"}
    assert "overlap.csv" in copied
    assert tree(source) == before
    assert seconds_of(folder / "a.csv", "vllm", "--profile", out) == pytest.approx(
        total(folder / "a.parquet"), rel=0.05
    )


# What is refused


def complain(*arguments: str | Path, out: Path) -> str:
    """The line; nothing is written."""
    before = tree(out) if out.exists() else None
    lines = run("profile", "calibrate", *arguments, "-o", out, code=2).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert (tree(out) if out.exists() else None) == before
    return lines[0]


def test_steps_that_may_have_been_cut_are_noted(folder: Path, tmp_path: Path) -> None:
    """An overlapping executor's log does not say which; kept evidence on an H200 does."""
    words = "cut in halves are taken for whole"
    log = read_steplog(folder / "a.sim")
    for k, (meta, is_told) in enumerate(
        (
            ({"executor": "overlap"}, True),
            ({"executor": "overlap", "halved": []}, False),
            ({"executor": "sequential"}, False),
        )
    ):
        path = measured(log, tmp_path / f"{k}.parquet", OF_OURS, **meta)
        found = calibrate(path, "-o", tmp_path / f"out{k}")
        assert any(words in note for note in found["notes"]) == is_told, meta


def test_a_simulated_log_is_refused(folder: Path, tmp_path: Path) -> None:
    line = complain(folder / "a.parquet", folder / "a.sim", out=tmp_path / "out")
    assert f"{folder / 'a.sim'}: is a simulated run" in line


@pytest.mark.parametrize("runtime", ["other", "a/b", "*"])
def test_a_runtime_of_no_engine_is_refused(folder: Path, tmp_path: Path, runtime: str) -> None:
    """No plan would be priced by it, and its name might be no file's."""
    log = measured(
        read_steplog(folder / "a.sim"), tmp_path / "x", replace(OF_VLLM, runtime=runtime)
    )
    assert str(log) in complain(log, out=tmp_path / "out")


def test_logs_of_two_runtimes_are_refused(folder: Path, tmp_path: Path) -> None:
    line = complain(folder / "a.parquet", folder / "ours.parquet", out=tmp_path / "out")
    assert str(folder / "ours.parquet") in line
    assert "calibrate one at a time" in line


def test_logs_of_two_models_are_refused(folder: Path, tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "q.csv", some_rows(3))
    other = measured(
        simulated(trace, "--model", "qwen-2.5-7b"), tmp_path / "q.parquet", model="qwen-2.5-7b"
    )
    line = complain(folder / "a.parquet", other, out=tmp_path / "out")
    assert f"{other}: is of vllm with qwen-2.5-7b on h200" in line
    assert "llama-3.1-8b" in line


@pytest.mark.parametrize(
    "meta", [{"machine": {"device": "NVIDIA A100-SXM4-80GB"}}, {"model": "qwen-2.5-7b"}]
)
def test_a_run_on_another_machine_than_planned_for_is_refused(
    folder: Path, tmp_path: Path, meta: dict[str, Any]
) -> None:
    log = measured(read_steplog(folder / "a.sim"), tmp_path / "other", **meta)
    line = complain(log, out=tmp_path / "out")
    assert str(log) in line
    assert "was measured" in line


def test_another_profile_under_the_output_is_refused(folder: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    for place in (out, other):
        calibrate(folder / "a.parquet", "-o", place)
    for more in ([], ["--profile", "measured"], ["--profile", str(other)]):
        line = complain(folder / "ours.parquet", *more, out=out)
        assert f"{profile_place(out, SYSTEM)}: has a profile; add to it with --profile" in line


def test_a_run_that_never_decodes_is_refused(folder: Path, tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t.csv", [(900, 1)] * 300)
    log = measured(simulated(trace), tmp_path / "t.parquet")
    for more in ([], [folder / "a.parquet"]):
        assert f"{log}: holds no measured step that decodes" in complain(
            log, *more, out=tmp_path / "out"
        )


def test_too_few_steps_are_refused(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t.csv", [(900, LEAST_STEPS - 10)] * 20)
    log = measured(simulated(trace), tmp_path / "t.parquet")
    line = complain(log, out=tmp_path / "out")
    assert "are too few" in line
    assert f"at least {LEAST_STEPS}" in line


def test_other_files_and_places_are_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = complain(folder / "a.plan", out=out)
    assert "holds 'plan'; a steplog file is needed here" in line
    assert "no such file" in complain(tmp_path / "none", out=out)
    assert "--profile" in complain(folder / "a.parquet", "--profile", tmp_path / "no", out=out)
    (tmp_path / "file").write_text("x")
    line = complain(folder / "a.parquet", out=tmp_path / "file" / "in")
    assert "is no directory; choose another -o" in line
    assert not out.exists()
