"""A plan that names no traces, or a policy that is gone: what the commands that read one say."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import run_json
from test_cli_errors import complaint
from test_cli_plan import folder
from test_model_config import SHAPE

from blendsim import search
from blendsim.cli.options import Asked
from blendsim.cli.planned import read_planned
from blendsim.plan import read_plan, write_plan
from blendsim.settings import Settings
from blendsim.traces.load import load_pool
from blendsim.traces.seam import ReadOptions

__all__ = ["folder"]

READERS = pytest.mark.parametrize("command", [("simulate",), ("replay", "--model", "tiny")])


@pytest.fixture
def written(folder: Path) -> Path:
    """A folder with a plan that was written from Python."""
    settings = Settings(planner="dfs")
    problem = search.prepare(load_pool(["trace.csv"], ReadOptions()), settings)
    write_plan(search.plan_policy(problem, "dfs"), folder / "plan.parquet")
    return folder


@READERS
def test_a_plan_without_traces_asks_for_the_workload(
    written: Path, command: tuple[str, ...]
) -> None:
    line = complaint(written, *command, "plan.parquet")
    assert "plan.parquet: does not say which traces it is for; name them with --workload" in line


def test_an_engine_that_does_not_exist_does_not_wait_for_traces(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Asked, "load", lambda *_: pytest.fail("traces are read"))
    asked = ("simulate", "plan.parquet", "--workload", "trace.csv")
    assert "unknown engine 'vlm'; nearest known: vllm" in complaint(
        written, *asked, "--engine", "vlm"
    )


def test_a_plan_without_traces_runs_on_the_workload_named(written: Path) -> None:
    told = run_json("simulate", "plan.parquet", "--workload", "trace.csv", "-o", "steps.parquet")
    planned = run_json("plan", "--trace", "trace.csv", "--planner", "dfs")
    assert told["seconds"] == planned["seconds"]
    page = run_json("report", "steps.parquet", "--plan", "plan.parquet")
    assert page["losses"] is not None, "its log says where the pool is"


def test_a_plan_without_traces_is_read_as_plan_reads_by_itself(written: Path) -> None:
    """All that `simulate` and `replay` know of the pool."""
    asked = read_planned(written / "plan.parquet", written / "trace.csv").asked
    assert asked.traces == [str(written / "trace.csv")]
    assert asked.read == ReadOptions()
    assert not asked.skip_oversize


def test_a_plan_without_settings_needs_more_than_the_workload(written: Path) -> None:
    plan = read_plan(written / "plan.parquet")
    write_plan(replace(plan, meta={}), written / "bare.parquet")
    line = complaint(written, "simulate", "bare.parquet", "--workload", "trace.csv")
    assert "bare.parquet: does not say by which settings it was made" in line


@READERS
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"planner": "spf"}, "unknown planner 'spf'; nearest known: "),
        ({"dp": 0}, "--dp 0 must be at least 1"),
        ({"colour": 1}, "settings: no setting 'colour'"),
    ],
)
def test_settings_that_are_not_known_name_the_file(
    written: Path, command: tuple[str, ...], changes: dict[str, object], words: str
) -> None:
    plan = read_plan(written / "plan.parquet")
    settings = {**plan.meta["settings"], **changes}
    write_plan(replace(plan, meta={**plan.meta, "settings": settings}), written / "old.parquet")
    line = complaint(written, *command, "old.parquet", "--workload", "trace.csv")
    assert line.startswith(f"error: old.parquet: {words}")
    assert line.endswith("; plan again with -o")


def says(**more: Any) -> None:
    """Have the files of the model `m` say this."""
    Path("m").mkdir(exist_ok=True)
    Path("m/config.json").write_text(json.dumps(SHAPE | more))


@pytest.fixture
def of_files(folder: Path) -> Path:
    """A folder with a plan for a model by its directory."""
    says()
    options = ("--model", "m", "--gpu", "h100", "--planner", "dfs")
    run_json("plan", "--trace", "trace.csv", *options, "-o", "plan.parquet")
    return folder


@READERS
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, "weights fp8, not bf16"),
        ({"vocab_size": 1_024}, "vocab 1024, not 1000"),
    ],
)
def test_a_plan_is_of_the_model_that_its_files_were(
    of_files: Path, command: tuple[str, ...], more: dict[str, Any], words: str
) -> None:
    says(**more)
    line = complaint(of_files, *command, "plan.parquet")
    assert line == (
        f"error: plan.parquet: settings: m is another model now ({words}); plan again with -o"
    )


def test_a_log_is_of_the_model_that_its_files_were(of_files: Path) -> None:
    """Formats that were asked for do not hang on the files."""
    kept = ("simulate", "plan.parquet", "--quantization", "fp8", "-o", "steps.parquet")
    assert run_json(*kept)["seconds"] > 0
    assert run_json("report", "steps.parquet")["losses"] is not None
    says(quantization_config={"quant_method": "fp8"})
    assert run_json("report", "steps.parquet")["losses"] is not None
    says(num_hidden_layers=2)
    page = run_json("report", "steps.parquet")
    assert page["losses"] is None
    assert any("m is another model now (layers 2, not 4)" in note for note in page["notes"])


def test_a_plan_that_does_not_know_its_model_goes_by_the_files(of_files: Path) -> None:
    plan = read_plan(of_files / "plan.parquet")
    meta = {key: value for key, value in plan.meta.items() if key != "model_spec"}
    write_plan(replace(plan, meta=meta), of_files / "old.parquet")
    says(num_hidden_layers=2)
    told = run_json("simulate", "old.parquet")
    assert told["seconds"] < plan.meta["predicted_seconds"]


def test_a_model_of_the_tables_is_not_written_out(written: Path) -> None:
    assert "model_spec" not in read_plan(written / "plan.parquet").meta
