"""`plan --rest` and what comes after it: a batch whose run broke off, to its end."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from command_line import invoke, refusal, run, run_json
from test_cli_export import written
from test_cli_range import results
from test_rest import ANSWERED, N, half_done, rows, without_answered
from test_traces_openai import lines

from blendsim.plan import read_plan
from blendsim.traces import load

LEFT = [f"r{k}" for k in range(N) if k not in ANSWERED]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Options of a batch that is half done, by names without a folder."""
    half_done(tmp_path)
    monkeypatch.chdir(tmp_path)
    return ("--trace", "batch.jsonl", "--lengths", "results.jsonl", "--rest")


def ids(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in written(path)]


def test_the_lines_that_are_left_are_written_in_the_order_of_the_plan(
    tmp_path: Path, asked: tuple[str, ...]
) -> None:
    cut = without_answered(tmp_path)
    told = run_json("plan", *asked, "--planner", "blend", "-o", "plan.parquet")
    note = "72 of 120 requests are answered in results.jsonl and left out; what is left is expected"
    assert any(note in one for one in told["notes"])
    assert not any("planned again" in one or "planning looks" in one for one in told["notes"])
    assert told["visible"] == 0
    done = run_json("export", "plan.parquet", "-o", "rest.jsonl")
    assert done["requests"] == len(LEFT)
    assert any(note in one for one in done["notes"])
    run("export", "plan.parquet", "-o", "served.parquet")
    order = ids(tmp_path / "rest.jsonl")
    assert order == pq.read_table("served.parquet")["id"].to_pylist()
    assert sorted(order) == sorted(LEFT)
    assert order != LEFT, "or this says nothing"
    mine = {json.loads(line)["custom_id"]: line for line in written(tmp_path / "rest.jsonl")}
    assert set(mine.values()) == set(written(tmp_path / "cut" / "batch.jsonl"))
    assert load("rest.jsonl").prompt_len.sum() == cut.prompt_len.sum()


def test_a_plan_in_one_line_has_the_order_of_a_batch_without_the_answered(
    tmp_path: Path, asked: tuple[str, ...]
) -> None:
    """Prefix order asks for no lengths."""
    without_answered(tmp_path)
    for trace, plan in ((asked, "a"), (("--trace", "cut/batch.jsonl"), "b")):
        run("plan", *trace, "--planner", "dfs", "-o", plan)
        run("export", plan, "-o", f"{plan}.jsonl")
    assert ids(tmp_path / "a.jsonl") == ids(tmp_path / "b.jsonl")


def test_a_plan_of_the_rest_is_simulated_and_reported(asked: tuple[str, ...]) -> None:
    told = run_json("plan", *asked, "-o", "plan.parquet")
    assert read_plan(Path("plan.parquet")).meta["source"]["read"]["rest"] is True
    again = run_json("simulate", "plan.parquet", "--worlds", 2, "-o", "steps.parquet")
    assert again["predicted_seconds"] == told["predicted_seconds"]
    assert len(again["worlds"]) == 2
    assert any("are answered in results.jsonl" in one for one in again["notes"])
    run_json("report", "steps.parquet", "-o", "page.html")
    assert "are answered in results.jsonl" in Path("page.html").read_text()


def test_answers_that_came_since_make_another_pool(asked: tuple[str, ...]) -> None:
    run("plan", *asked, "--planner", "dfs", "-o", "plan.parquet")
    results(Path("results.jsonl"), {f"r{k}": 10 for k in ANSWERED[1:]})
    for command in (("simulate", "plan.parquet"), ("export", "plan.parquet", "-o", "rest.jsonl")):
        assert "the plan is for 48 requests, the workload has 49" in refusal(invoke(*command))
    assert not Path("rest.jsonl").exists()


def test_replicas_have_their_own_lines_of_what_is_left(
    tmp_path: Path, asked: tuple[str, ...]
) -> None:
    run("plan", *asked, "--planner", "blend", "--dp", 2, "-o", "plan.parquet")
    run("export", "plan.parquet", "-o", "part.jsonl")
    parts = [ids(tmp_path / f"part-{k}.jsonl") for k in (0, 1)]
    assert min(map(len, parts)) > 10
    assert sorted(parts[0] + parts[1]) == sorted(LEFT)


def test_a_saved_trace_and_one_of_two_traces_give_their_lines(
    tmp_path: Path, asked: tuple[str, ...]
) -> None:
    run("trace", "save", "batch.jsonl", "-o", "pool.parquet")
    lines(tmp_path / "more.jsonl", *({"id": f"m{k}", "prompt": [3] * 9} for k in range(4)))
    saved = ("--trace", "pool.parquet", *asked[2:])
    for given, more in (((*saved,), []), ((*asked, "--trace", "more.jsonl"), ["more"])):
        run("plan", *given, "--planner", "dfs", "-o", "plan.parquet")
        run("export", "plan.parquet", "-o", "rest.jsonl")
        found = [json.loads(line) for line in written(tmp_path / "rest.jsonl")]
        names = sorted(row.get("custom_id", "more") for row in found)
        assert names == sorted(LEFT + more * 4)


def test_other_commands_that_read_pools_take_it_too(asked: tuple[str, ...]) -> None:
    assert run_json("trace", "info", *asked[1:])["sources"]["batch"]["requests"] == len(LEFT)
    shown = " ".join(run("compare", *asked, "--engines", "sequential").split())
    assert "72 of 120 requests are answered in results.jsonl" in shown
    found = run_json("search", *asked, "--evaluations", 3, "-o", "plan.parquet")
    assert any("72 of 120 requests are answered" in one for one in found["notes"])
    assert len(read_plan(Path("plan.parquet"))) == len(LEFT)
    rented = run_json("plan", *asked, "--planner", "dfs", "--gpu", "h200,a100-80g")
    assert any("72 of 120 requests are answered" in one for one in rented["notes"])


def test_it_may_stand_in_the_config_file(asked: tuple[str, ...]) -> None:
    Path("c.toml").write_text('[read]\nlengths = "results.jsonl"\nrest = true\n')
    run("plan", *asked[:2], "--config", "c.toml", "--planner", "dfs", "-o", "plan.parquet")
    assert len(read_plan(Path("plan.parquet"))) == len(LEFT)


def test_plans_without_it_are_as_they_were(asked: tuple[str, ...]) -> None:
    told = run_json("plan", *asked[:-1], "--planner", "dfs", "-o", "plan.parquet")
    assert "rest" not in read_plan(Path("plan.parquet")).meta["source"]["read"]
    assert len(read_plan(Path("plan.parquet"))) == N
    assert any("like the others: --rest plans what is left" in one for one in told["notes"])


def test_what_makes_no_sense_is_refused_in_a_line(asked: tuple[str, ...]) -> None:
    given = (*asked[:2], "--rest")
    for command in (("plan", *given), ("trace", "info", *given[1:])):
        assert "name the results of the run that broke off" in refusal(invoke(*command))
    results(Path("results.jsonl"), {f"r{k}": 10 for k in range(N)})
    assert "has an answer to all 120 requests of batch.jsonl" in refusal(invoke("plan", *asked))
    lines(Path("one.jsonl"), *rows([0]))
    done = invoke("plan", "--trace", "one.jsonl", *asked[2:])
    assert "has an answer to the only request of one.jsonl" in refusal(done)
