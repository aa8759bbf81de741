"""plan, simulate and compare from end to end, on small traces made here."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import run, run_json
from typer.testing import CliRunner

from blendsim.baselines import named_baselines
from blendsim.cli.app import app
from blendsim.errors import UnknownName
from blendsim.plan import read_plan
from blendsim.steplog import read_steplog

KEYS = {
    "requests",
    "input_tokens",
    "output_tokens",
    "policy",
    "seconds",
    "predicted_seconds",
    "tokens_per_second",
    "optimum_seconds",
    "share_of_optimum",
    "reachable_seconds",
    "share_of_reachable",
    "sharing_ratio",
    "sharing_optimum",
    "density",
    "density_profile",
    "preempted_tokens",
    "kv_use",
}
REQUESTS = 150


DISTSERVE = [f"DistServe-{pools}" for pools in ("1P1D", "1P2D", "2P1D", "1P3D")]


def write_csv(path: Path, output_scale: int = 1) -> None:
    """Long prompts with short answers and the other way round; outputs are a fixed random draw."""
    rng = np.random.default_rng(5)
    rows = [
        (2000 + int(rng.integers(500)), 20 + int(rng.integers(20)))
        if i % 2
        else (50 + int(rng.integers(50)), 600 + int(rng.integers(300)))
        for i in range(REQUESTS)
    ]
    lines = [f"{p},{d * output_scale}" for p, d in rows]
    path.write_text("\n".join(["num_prefill_tokens,num_decode_tokens", *lines]) + "\n")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a trace in it."""
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "trace.csv")
    return tmp_path


def test_plan_tells_the_chosen_row_and_all_rows(folder: Path) -> None:
    told = run_json("plan", "--trace", "trace.csv")
    assert set(told) >= KEYS | {"rows", "advice", "notes"}
    assert told["requests"] == REQUESTS
    assert [row["policy"] for row in told["rows"] if row["chosen"]] == [told["policy"]]
    assert all(set(row) >= KEYS for row in told["rows"])
    assert told["predicted_seconds"] == min(row["predicted_seconds"] for row in told["rows"])
    assert told["optimum_seconds"] <= told["reachable_seconds"] <= told["seconds"]
    assert sorted(path.name for path in folder.iterdir()) == ["trace.csv"]


@pytest.mark.usefixtures("folder")
def test_table_marks_the_chosen_row_and_fits_the_terminal() -> None:
    lines = run("plan", "--trace", "trace.csv").splitlines()
    chosen = run_json("plan", "--trace", "trace.csv")["policy"]
    assert [line.split()[1] for line in lines if line.startswith("* ")] == [chosen]
    assert max(map(len, lines)) <= 120


def test_one_policy_can_be_asked_for(folder: Path) -> None:
    told = run_json("plan", "--trace", "trace.csv", "--planner", "dfs", "-o", "plan.parquet")
    assert told["policy"] == "dfs"
    assert told["plan"] == "plan.parquet"
    assert "rows" not in told
    assert read_plan(folder / "plan.parquet").policy == "dfs"


def test_same_seed_same_plan_bytes(folder: Path) -> None:
    for name in ("a", "b"):
        run("plan", "--trace", "trace.csv", "--seed", "3", "-o", name)
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()


def test_unsampled_lengths_leave_the_plan_as_it_is(folder: Path) -> None:
    run("plan", "--trace", "trace.csv", "-o", "a")
    visible = set(read_plan(folder / "a").order[read_plan(folder / "a").is_visible].tolist())
    assert 0 < len(visible) < REQUESTS
    lines = (folder / "trace.csv").read_text().splitlines()
    for row in range(REQUESTS):
        if row not in visible:
            prompt, output = lines[row + 1].split(",")
            lines[row + 1] = f"{prompt},{3 * int(output) + 1}"
    (folder / "trace.csv").write_text("\n".join(lines) + "\n")
    run("plan", "--trace", "trace.csv", "-o", "b")
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()


def test_simulating_a_plan_gives_the_seconds_it_was_chosen_by(folder: Path) -> None:
    made = run_json("plan", "--trace", "trace.csv", "-o", "plan.parquet")
    told = run_json("simulate", "plan.parquet", "-o", "steps.parquet")
    for key in KEYS:
        assert told[key] == made[key], key
    log = read_steplog(folder / "steps.parquet")
    assert float((log.time("start") + log.time("seconds")).max()) == told["seconds"]
    assert int(log.count("finished").sum()) == REQUESTS


@pytest.mark.usefixtures("folder")
def test_simulating_on_a_serial_engine_takes_longer() -> None:
    run("plan", "--trace", "trace.csv", "-o", "plan.parquet")
    overlapped = run_json("simulate", "plan.parquet")
    serial = run_json("simulate", "plan.parquet", "--engine", "sequential")
    assert serial["seconds"] > overlapped["seconds"]
    assert serial["optimum_seconds"] == overlapped["optimum_seconds"]


@pytest.mark.usefixtures("folder")
def test_simulate_says_what_it_did() -> None:
    run("plan", "--trace", "trace.csv", "-o", "plan.parquet")
    assert "-o steps.parquet keeps the log" in run("simulate", "plan.parquet")
    assert "steps written to s" in run("simulate", "plan.parquet", "-o", "s")


def test_workload_can_be_given_from_elsewhere(folder: Path) -> None:
    run("plan", "--trace", "trace.csv", "-o", "plan.parquet")
    before = run_json("simulate", "plan.parquet")
    (folder / "trace.csv").rename(folder / "moved.csv")
    after = run_json("simulate", "plan.parquet", "--workload", "moved.csv")
    assert after["seconds"] == before["seconds"]


@pytest.mark.usefixtures("folder")
def test_compare_shows_every_baseline() -> None:
    from blendsim.baselines import BASELINES

    told = run_json("compare", "--trace", "trace.csv")
    assert [row["policy"] for row in told["rows"]] == [baseline.name for baseline in BASELINES]
    best = max(row["tokens_per_second_per_gpu"] for row in told["rows"])
    assert told["tokens_per_second_per_gpu"] == best
    assert [row["token_budget"] for row in told["common"]] == [2_048] * len(BASELINES)
    text = run("compare", "--trace", "trace.csv")
    assert "llama-3.1-8b on 1 × a100-80g." in text, "every row has its own engine"
    assert all(baseline.name in text for baseline in BASELINES)
    (served,) = [note for note in told["notes"] if "of systems without that" in note]
    rates = {row["policy"]: row["tokens_per_second_per_gpu"] for row in told["rows"]}
    alone = {name: rates[name] for name in rates if not name.startswith(("Nano", "Blend", "Paced"))}
    own = max(alone, key=alone.__getitem__)
    assert served.endswith(
        f"{own} is the best, and {told['policy']} is {best / alone[own]:.2f} times as fast as it"
    )
    assert served in " ".join(text.split())
    theirs = run_json("compare", "--trace", "trace.csv", "--engines", "vllm,vllm-planned")
    assert not any("of systems without that" in note for note in theirs["notes"])
    below = "Each at the token budget that is best for it by prediction"
    assert below in text
    same = ("--engines", "sequential", "--token-budget", "1024")
    assert below not in run("compare", "--trace", "trace.csv", *same)


@pytest.mark.usefixtures("folder")
def test_baselines_say_which_engine_serves_them_unless_their_names_do() -> None:
    lines = run("compare", "--trace", "trace.csv", "--token-budget", 2_048).splitlines()
    assert max(map(len, lines)) <= 120
    names = [line[2:].split("  ")[0].strip() for line in lines]
    for name in ("BlendServe (nanoflow)", "Paced (nanoflow)", "DistServe-1P1D (sglang)"):
        assert name in names
    assert {"vLLM-DFS", "SGLang-DFS", "NanoFlow-DFS"} < set(names)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("option", ["--engines", "--engine"])
def test_compare_takes_the_engines_asked_for(option: str) -> None:
    told = run_json("compare", "--trace", "trace.csv", option, "vllm, sequential")
    assert {row["engine"] for row in told["rows"]} == {"vllm", "sequential"}


@pytest.mark.parametrize(
    ("engines", "names"),
    [
        ("sglang", ["SGLang-DFS"]),
        ("vllm,distserve", ["vLLM-FCFS", "vLLM-DFS", "vLLM-DFS-Longest", *DISTSERVE]),
        ("sequential", ["sequential-dfs", "sequential-blend"]),
        (" distserve,distserve ", DISTSERVE),
        ("vLLM,DistServe,vllm", ["vLLM-FCFS", "vLLM-DFS", "vLLM-DFS-Longest", *DISTSERVE]),
    ],
)
def test_pools_are_compared_only_where_they_are_asked_for(engines: str, names: list[str]) -> None:
    assert [row.name for row in named_baselines(engines)] == names


@pytest.mark.parametrize("name", ["distserv", "", "vlm"])
def test_an_engine_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UnknownName, match=f"unknown engine '{name}'; nearest known: .*(dist|vllm)"):
        named_baselines(f"vllm,{name}")


@pytest.mark.parametrize("command", ["plan", "compare", "search"])
def test_a_profile_may_be_an_option(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The same as in a file, and it wins over that."""
    (folder / "c.toml").write_text('[settings]\nprofile = "elsewhere"\n')
    asked = ("--trace", "trace.csv", "--gpu", "a100-80g", "--config", "c.toml")
    done = CliRunner().invoke(app, [command, *asked])
    assert done.exit_code == 2
    assert "profile 'elsewhere': no elsewhere/a100-80g/llama-3.1-8b/tp1" in done.stderr
    done = CliRunner().invoke(app, [command, *asked, "--profile", "measured"])
    assert done.exit_code == 2
    assert "profile 'measured': no " in done.stderr


def test_a_measured_profile_plans_as_the_setting_does(folder: Path) -> None:
    (folder / "c.toml").write_text('[settings]\nprofile = "measured"\n')
    asked = ("plan", "--trace", "trace.csv", "--gpu", "h200", "--planner", "dfs")
    run(*asked, "--config", "c.toml", "-o", "a.parquet")
    run(*asked, "--profile", "measured", "-o", "b.parquet")
    run(*asked, "-o", "c.parquet")
    made = [(folder / name).read_bytes() for name in ("a.parquet", "b.parquet", "c.parquet")]
    assert made[0] == made[1] != made[2]


def test_options_win_over_the_config_file(folder: Path) -> None:
    (folder / "c.toml").write_text('[settings]\nplanner = "dfs"\ngpu = "h200"\n')
    told = run_json("plan", "--trace", "trace.csv", "--config", "c.toml", "-o", "a")
    assert told["policy"] == "dfs"
    assert read_plan(folder / "a").meta["settings"]["gpu"] == "h200"
    told = run_json("plan", "--trace", "trace.csv", "--config", "c.toml", "--planner", "fcfs")
    assert told["policy"] == "fcfs"


def test_oversize_requests_are_dropped_and_counted_when_asked(folder: Path) -> None:
    with (folder / "trace.csv").open("a") as file:
        file.write("200000,10\n")
    told = run_json("plan", "--trace", "trace.csv", "--skip-oversize", "-o", "plan.parquet")
    assert told["requests"] == REQUESTS
    assert any("left out" in note for note in told["notes"])
    assert run_json("simulate", "plan.parquet")["requests"] == REQUESTS


def test_pool_of_two_traces_is_planned_as_one(folder: Path) -> None:
    write_csv(folder / "other.csv")
    told = run_json("plan", "--trace", "trace.csv", "--trace", "other.csv")
    assert told["requests"] == 2 * REQUESTS


def batch_line(name: str, limit: int) -> str:
    body = {"messages": [{"role": "user", "content": "say " + name}], "max_tokens": limit}
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1", "body": body})


def test_requests_without_lengths_have_a_prediction_only(folder: Path) -> None:
    lines = [batch_line(f"r{i}", 64) for i in range(40)]
    (folder / "batch.jsonl").write_text("\n".join(lines))
    told = run_json("plan", "--trace", "batch.jsonl")
    assert told["seconds"] is None
    assert told["output_tokens"] is None
    assert told["predicted_seconds"] > 0
    assert any("of max_tokens is expected" in note for note in told["notes"])
    run("plan", "--trace", "batch.jsonl", "-o", "plan.parquet")
    *of_pool, of_engine = told["notes"]
    assert of_engine.startswith("these are times of nanoflow")
    for command in (("simulate", "plan.parquet"), ("compare", "--trace", "batch.jsonl")):
        notes = run_json(*command)["notes"]
        assert [note for note in notes if "of systems without that" not in note] == of_pool
    assert "–" in run("plan", "--trace", "batch.jsonl")


def test_settings_of_the_kv_cache_reach_the_simulation(folder: Path) -> None:
    """Memory for a few requests, and a host that keeps whoever is thrown out."""
    common = '[settings]\nkv_bytes = 900000000\nplanner = "fcfs"\nengine = "sequential"\n'
    (folder / "none.toml").write_text(common)
    (folder / "host.toml").write_text(common + "host_memory_bytes = 8000000000\n")
    (folder / "plan.toml").write_text(common + 'eviction = "plan"\n')
    told = {
        name: run_json("plan", "--trace", "trace.csv", "--config", f"{name}.toml", "-o", name)
        for name in ("none", "host", "plan")
    }
    assert told["none"]["preempted_tokens"] > 0
    assert told["host"]["seconds"] < told["none"]["seconds"]
    assert told["plan"]["seconds"] < told["none"]["seconds"], "who waits finds its own blocks"
    assert read_plan(folder / "plan").meta["settings"]["eviction"] == "plan"
    for engine in ("vllm", "vllm-planned"):  # whose cache evicts by last use
        simulated = run_json("simulate", "plan", "--engine", engine, "-o", "steps.parquet")
        assert simulated["engine"] == engine
        assert read_steplog(folder / "steps.parquet").meta["settings"]["eviction"] is None
    again = run_json("simulate", "host", "-o", "steps.parquet")
    assert again["seconds"] == told["host"]["seconds"], "the plan remembers its settings"
    log = read_steplog(folder / "steps.parquet")
    assert log.count("loaded_blocks").sum() > 0
    assert log.time("link_seconds").sum() > 0


def test_cascade_attention_reaches_the_simulation(folder: Path) -> None:
    """Prompts of blocks that others share, and answers of a hundred tokens."""
    asked = ("plan", "--trace", "demo:mooncake?n=150", "--planner", "dfs", "--skip-oversize", "-o")
    plain, other = run_json(*asked, "plain"), run_json(*asked, "other", "--cascade")
    assert other["seconds"] < plain["seconds"]
    assert run_json("simulate", "other", "-o", "steps.parquet")["seconds"] == other["seconds"]
    assert read_steplog(folder / "steps.parquet").count("shared_reads").sum() > 0
    without = run_json("simulate", "other", "--no-cascade", "-o", "steps.parquet")
    assert without["seconds"] == plain["seconds"], "prefix order is the same for both"
    assert not read_steplog(folder / "steps.parquet").count("shared_reads").any()


def test_vllms_knobs_reach_the_simulation(folder: Path) -> None:
    """Memory for a few requests; a watermark admits fewer, so that fewer are thrown out."""
    common = '[settings]\nkv_bytes = 900000000\nplanner = "fcfs"\nengine = "vllm"\n'
    (folder / "none.toml").write_text(common)
    (folder / "free.toml").write_text(common + "[settings.knobs]\nwatermark = 0.2\n")
    (folder / "one.toml").write_text(common + "[settings.knobs]\nmax_num_active_seqs = 1\n")
    told = {
        name: run_json("plan", "--trace", "trace.csv", "--config", f"{name}.toml", "-o", name)
        for name in ("none", "free", "one")
    }
    assert told["free"]["preempted_tokens"] < told["none"]["preempted_tokens"]
    assert told["one"]["seconds"] > told["none"]["seconds"]
    again = run_json("simulate", "one", "-o", "steps.parquet")
    assert again["seconds"] == told["one"]["seconds"], "the plan remembers its settings"


@pytest.mark.parametrize(
    ("arguments", "is_told"),
    [
        (("--gpu", "h200"), False),
        (("--gpu", "h200", "--profile", "imported"), True),
        (("--gpu", "h200", "--profile", "imported", "--overlap", "sum"), False),
        (("--gpu", "h200", "--config", "measured.toml"), False),
        (("--gpu", "h200", "--profile", "measured"), False),
        ((), False),
    ],
)
def test_who_was_measured_is_told_where_something_else_prices(folder, arguments, is_told):
    (folder / "measured.toml").write_text('[settings]\nprofile = "measured"\n')
    notes = json.loads(run("plan", "--trace", "trace.csv", "--json", *arguments))["notes"]
    assert any("as they were measured" in note for note in notes) is is_told


def test_a_single_request_is_told_of_in_the_singular(tmp_path: Path) -> None:
    row = {"custom_id": "a", "body": {"prompt": "hello", "max_tokens": 2}}
    (tmp_path / "batch.jsonl").write_text(json.dumps(row) + "\n")
    given = ("--trace", str(tmp_path / "batch.jsonl"), "--planner", "dfs")
    said = " ".join(run("plan", *given).split())
    assert said.startswith("1 request, 5 prompt and")
    assert "1 request has no output length to learn from" in said
