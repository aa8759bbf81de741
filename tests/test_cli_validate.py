"""`blendsim validate` on logs of the simulator, some with times as a machine might have."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest
from typer.testing import CliRunner

from blendsim.cli.app import app
from blendsim.report.validate import as_json, validate
from blendsim.steplog import TIMES, StepLog, read_steplog, write_steplog

REPOSITORY = Path(__file__).resolve().parents[1]


def run(*arguments: str | Path, code: int = 0) -> str:
    return command_line.run("validate", *arguments, code=code)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Step logs of two policies, `<policy>.parquet`, and a measurement of each, `…-m.parquet`."""
    folder = tmp_path_factory.mktemp("logs")
    rng = np.random.default_rng(5)
    rows = [f"{p},{d}" for p, d in zip(*rng.integers(1, 900, (2, 150)).tolist(), strict=True)]
    (folder / "t.csv").write_text("num_prefill_tokens,num_decode_tokens\n" + "\n".join(rows) + "\n")
    for policy, factor in (("fcfs", 1.2), ("blend", 1.1)):
        plan, steps = folder / f"{policy}-plan.parquet", folder / f"{policy}.parquet"
        for command in (
            ["plan", "--trace", str(folder / "t.csv"), "--planner", policy, "-o", str(plan)],
            ["simulate", str(plan), "-o", str(steps)],
        ):
            assert CliRunner().invoke(app, command).exit_code == 0
        write_steplog(slower(read_steplog(steps), factor), folder / f"{policy}-m.parquet")
    return folder


def slower(log: StepLog, factor: float) -> StepLog:
    return replace(log, times=log.times * factor, meta={**log.meta, "runtime": "blendrt"})


def test_a_simulated_run_is_not_taken_for_a_measured_one(logs: Path) -> None:
    told = run(logs / "blend.parquet", logs / "blend.parquet", code=2)
    assert "blend.parquet: is a simulated run; give a log of `replay -o` of the same plan" in told


def test_json_has_the_documented_keys_and_the_librarys_numbers(logs: Path) -> None:
    told = json.loads(run(logs / "blend.parquet", logs / "blend-m.parquet", "--json"))
    result = validate(read_steplog(logs / "blend.parquet"), read_steplog(logs / "blend-m.parquet"))
    wanted = json.loads(json.dumps(as_json(result)))
    assert {key: told[key] for key in wanted} == wanted
    assert told["total"]["error"] == pytest.approx(1 / 1.1 - 1)
    assert (told["against"], told["speedup"], told["files"]) == (None, None, [])
    page = (REPOSITORY / "docs" / "validate.md").read_text()
    documented = page.split("## Keys of `--json`")[1].split("\n## ")[0]
    assert [key for key in told if f"`{key}`" not in documented] == []
    nested = {*told["steps"], *told["total"], *told["tokens_per_second"]}
    assert [key for key in nested if f"`{key}`" not in documented] == []


def test_speed_up_of_one_policy_on_another(logs: Path) -> None:
    pairs = [logs / name for name in ("blend.parquet", "blend-m.parquet")]
    others = [logs / name for name in ("fcfs.parquet", "fcfs-m.parquet")]
    told = json.loads(run(*pairs, "--against", *others, "--json"))
    assert told["against"]["policy"] == "fcfs"
    ratio = told["speedup"]
    assert ratio["simulated"] == pytest.approx(
        told["against"]["total"]["simulated"] / told["total"]["simulated"]
    )
    assert ratio["error"] == pytest.approx(1.1 / 1.2 - 1)
    text = run(*pairs, "--against", *others)
    assert "Speed-up of the first run on the second" in text
    assert "-o DIR draws a picture" in text


def test_directory_gets_a_picture_and_the_strata(logs: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "check"
    text = run(logs / "blend.parquet", logs / "blend-m.parquet", "-o", out)
    assert "written: " in text
    assert (out / "validation.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "strata.csv").read_text().splitlines()[1].startswith("blend,all,")


def complain(*arguments: Any) -> str:
    lines = run(*arguments, code=2).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def test_logs_of_two_plans_are_one_line(logs: Path) -> None:
    assert "simulate and replay the same plan file" in complain(
        logs / "blend.parquet", logs / "fcfs-m.parquet"
    )


def test_other_files_are_one_line(logs: Path, tmp_path: Path) -> None:
    line = complain(logs / "blend-plan.parquet", logs / "blend-m.parquet")
    assert "holds 'plan'; a steplog file is needed here" in line
    assert "no such file" in complain(logs / "blend.parquet", tmp_path / "no.parquet")
    (tmp_path / "a").write_text("x")
    line = complain(logs / "blend.parquet", logs / "blend-m.parquet", "-o", tmp_path / "a")
    assert "choose another -o" in line


def test_room_for_the_picture_is_asked_for_before_logs_are_compared(
    logs: Path, tmp_path: Path
) -> None:
    log = tmp_path / "strata.csv"
    shutil.copy(logs / "blend.parquet", log)
    assert "is read by this command" in complain(log, logs / "blend-m.parquet", "-o", tmp_path)
    log.unlink()
    log.symlink_to("elsewhere")
    assert "strata.csv: is a link" in complain("no", "neither", "-o", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["strata.csv"]


def test_another_schedule_of_the_plan_is_one_line(logs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    command = ["simulate", str(logs / "blend-plan.parquet"), "--token-budget", "1500"]
    assert CliRunner().invoke(app, [*command, "-o", str(other)]).exit_code == 0
    write_steplog(slower(read_steplog(other), 1.1), other)
    line = complain(logs / "blend.parquet", other)
    assert "other.parquet: step 0 has prefill_tokens = " in line
    assert "one plan with one engine and token budget" in line


@pytest.mark.parametrize("damage", ["all at once", "overlapping", "backwards"])
def test_steps_that_begin_before_the_last_one_ends_are_refused(logs: Path, damage: str) -> None:
    """Each step is compared by its own seconds, but a run by when its last one ends."""
    log = read_steplog(logs / "fcfs-m.parquet")
    times, start = log.times.copy(), TIMES.index("start")
    if damage == "all at once":
        times[:, start] = 0.0
    elif damage == "overlapping":
        times[:, TIMES.index("seconds")] *= 1.1
    else:
        times[:, start] = times[::-1, start]
    write_steplog(replace(log, times=times), logs / "damaged.parquet")
    told = run(logs / "fcfs.parquet", logs / "damaged.parquet", code=2)
    assert "damaged.parquet: row 1 (from 0) begins at" in told
    told = command_line.run("report", logs / "damaged.parquet", "--json", code=2)
    assert "before the step ahead of it ends" in told
