"""Pipelines from end to end: what a user types, and what comes out."""

from pathlib import Path

import pytest
from command_line import run, run_json
from test_cli_errors import complaint
from test_cli_export import batch
from test_cli_plan import write_csv

from blendsim.cli.servers import server_json
from blendsim.plan import read_plan
from blendsim.search import Settings
from blendsim.specs import GPUS, MODELS
from blendsim.steplog import read_steplog
from blendsim.system import System

PLAN = ("plan", "--trace", "trace.csv", "--gpu", "h100", "--engine", "vllm")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a trace in it."""
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "trace.csv")
    return tmp_path


def test_a_plan_for_a_pipeline_is_planned_simulated_and_reported(folder: Path) -> None:
    told = run(*PLAN, "--tp", "2", "--pp", "2", "-o", "plan.parquet")
    assert "llama-3.1-8b on 4 × h100 in 2 stages, engine vllm" in " ".join(told.split())
    assert "or in a pipeline was held against it" in " ".join(told.split())
    assert read_plan(folder / "plan.parquet").meta["settings"]["pp"] == 2
    row = run_json("simulate", "plan.parquet", "-o", "steps.parquet")
    assert row["gpus"] == 4
    assert row["seconds"] == pytest.approx(read_steplog(folder / "steps.parquet").end)
    run("report", "steps.parquet", "-o", "page.html")
    page = (folder / "page.html").read_text()
    assert "4 × h100 in 2 stages" in page
    assert "losses are told for replicas of one GPU, and this one has 4" in page


def test_the_shape_of_a_replica_is_chosen_among_several(folder: Path) -> None:
    lines = run(*PLAN, "--tp", "1,2", "--pp", "1,2", "--planner", "dfs").splitlines()
    head = next(line.split() for line in lines if line.startswith("gpu"))
    assert head[:4] == ["gpu", "tp", "pp", "dp"]
    cells = [line.lstrip("* ").split() for line in lines if line.lstrip("* ").startswith("h100 ")]
    shapes = {tuple(row[1:4]) for row in cells if row[1].isdigit()}
    assert shapes == {("1", "1", "1"), ("1", "2", "1"), ("2", "1", "1"), ("2", "2", "1")}
    told = run_json(*PLAN, "--tp", "1,2", "--pp", "1,2", "--planner", "dfs")
    assert [row["gpus"] for row in told["rows"]] == [row["tp"] * row["pp"] for row in told["rows"]]
    one = run_json(*PLAN, "--pp", "2", "--planner", "dfs")
    alike = [row for row in told["rows"] if (row["tp"], row["pp"]) == (1, 2)]
    assert [row["predicted_seconds"] for row in alike] == [one["predicted_seconds"]]


def test_what_a_server_needs_for_it_is_exported(tmp_path: Path) -> None:
    source, plan = batch(tmp_path / "batch.jsonl"), tmp_path / "plan.parquet"
    given = ("--trace", source, "--engine", "vllm", "--pp", "2", "--gpu", "h100")
    arguments = run_json("plan", *given, "-o", plan)["server"]["args"]
    at = arguments.index("--pipeline-parallel-size")
    assert arguments[at + 1] == "2"
    run("export", plan, "-o", tmp_path / "served.csv")
    config = tmp_path / "config.toml"
    config.write_text("[settings]\nkv_bytes = 8_000_000_000\n")
    arguments = run_json("plan", *given, "--config", config)["server"]["args"]
    of_gpu = arguments[arguments.index("--kv-cache-memory-bytes") + 1]
    assert of_gpu == "4000000000"  # half of the layers of every request


def test_a_server_has_every_kv_block_of_the_plan_where_stages_are_uneven() -> None:
    """Bytes of a GPU are those of as many whole blocks on the stage with most layers."""
    blocks, one = 1_169, System(MODELS["llama-3.1-70b"], GPUS["h100"], tp=2, pp=6)
    asked = Settings(
        model="llama-3.1-70b",
        gpu="h100",
        tp=2,
        pp=6,
        engine="vllm",
        kv_bytes=blocks * one.block_tokens * one.kv_bytes_per_token,
    )
    server = server_json(asked)
    assert server is not None
    of_gpu = server["args"][server["args"].index("--kv-cache-memory-bytes") + 1]
    of_layer = one.block_tokens * one.kv_bytes_per_token // (80 * 2)
    assert int(of_gpu) == blocks * of_layer * max(one.stage_layers)


def test_what_has_no_pipeline_says_so(folder: Path) -> None:
    run(*PLAN, "--pp", "2", "--planner", "dfs", "-o", "plan.parquet")
    assert "replay has no pipeline of 2 stages" in complaint(
        folder, "replay", "plan.parquet", "--model", "tiny"
    )
    told = complaint(folder, "plan", "--trace", "trace.csv", "--pp", "2")
    assert "nanoflow is none; use --engine vllm" in told
    told = complaint(folder, *PLAN, "--pp", "0")
    assert "--pp 0 must be at least 1" in told
    told = complaint(folder, *PLAN, "--pp", "2", "--topology", "1P1D")
    assert "--pp 2 with 1P1D is not modelled" in told


def test_a_comparison_leaves_out_what_has_no_pipeline(folder: Path) -> None:
    told = run_json("compare", "--trace", "trace.csv", "--gpu", "h100", "--pp", "2")
    names = [row["policy"] for row in told["rows"]]
    assert names
    assert all(name.startswith("vLLM") for name in names)
    assert any("NanoFlow-DFS" in note and "left out" in note for note in told["notes"])


def test_plans_that_a_pipeline_cannot_follow_are_noted(folder: Path) -> None:
    planned = [*PLAN[:-1], "vllm-planned", "--pp", "2"]
    notes = " ".join(run_json(*planned, "--planner", "paced")["notes"])
    assert "does not run in a pipeline" in notes
    assert "steps are not paced in a pipeline (--pp 2)" in notes
