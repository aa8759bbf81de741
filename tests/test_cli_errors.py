"""Bad input gets one clear line and exit 2, and nothing half-written is left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blendsim.cli.app import app
from blendsim.settings import MOST_REPLICAS, Settings

HEADER = "num_prefill_tokens,num_decode_tokens\n"
GOOD = HEADER + "".join(f"{100 + i},{10 + i}\n" for i in range(40))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.csv").write_text(GOOD)
    return tmp_path


def complaint(folder: Path, *arguments: str) -> str:
    """The one line a failing command says; the folder must be as it was."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("compiling")]
    lines = [line for line in lines if not line.endswith("…")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before
    return lines[0]


BAD_TRACES = {
    "missing": (None, ["trace.csv", "no such file"]),
    "unknown format": (
        b"colour,weight\nred,3\n",
        ["trace.csv", "unknown format", "input_tokens,output_tokens"],
    ),
    "negative": (HEADER.encode() + b"10,5\n-3,5\n", ["trace.csv", "line 3", "-3"]),
    "not a number": (HEADER.encode() + b"10,nan\n", ["trace.csv", "line 2", "nan"]),
    "absurd": (HEADER.encode() + b"10,1e15\n", ["trace.csv", "line 2", "1e15"]),
    "missing number": (HEADER.encode() + b"10,5\n10,\n", ["trace.csv", "line 3"]),
    "no rows": (HEADER.encode(), ["trace.csv", "no requests"]),
    "no bytes": (b"", ["trace.csv", "empty"]),
    "binary": (bytes(range(256)) * 4, ["trace.csv"]),
    "half a gzip": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x4b", ["trace.csv"]),
    "oversize": (
        HEADER.encode() + b"10,5\n200000,10\n",
        ["1 of 2 requests", "68,938 too many", "--skip-oversize"],
    ),
}


@pytest.mark.parametrize("kind", BAD_TRACES)
@pytest.mark.parametrize("command", ["plan", "compare"])
def test_bad_trace_is_one_line(folder: Path, command: str, kind: str) -> None:
    content, words = BAD_TRACES[kind]
    if content is not None:
        (folder / "trace.csv").write_bytes(content)
    output = ["-o", "plan.parquet"] if command == "plan" else []
    line = complaint(folder, command, "--trace", "trace.csv", *output)
    assert [word for word in words if word not in line] == [], line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "llama-3-8b"], ["unknown model", "llama-3.1-8b"]),
        (["--gpu", "a100"], ["unknown GPU", "a100-80g"]),
        (["--engine", "vlm"], ["unknown engine", "vllm"]),
        (["--planner", "bland"], ["unknown planner", "blend"]),
        (["--overlap", "tabel"], ["unknown overlap", "table"]),
        (["--overlap", "fit"], ["measured"]),
        (["--format", "azur"], ["unknown format", "azure"]),
        (["--tp", "3"], ["--tp 3"]),
        (["--tp", "0"], ["--tp 0"]),
        (["--dp", "0"], ["--dp 0"]),
        (["--dp", "41"], ["41 ranks", "40 requests"]),
        (["--dp", "1000000000"], ["--dp 1000000000", "above 4,096", "give fewer"]),
        (["--dp", "1,4097"], ["--dp 4097", "above 4,096"]),
        (["--dp", "1..100000"], ["--dp 1..100000", "more than 1,024 values"]),
        (["--tp", "1000000000"], ["--tp 1000000000 does not divide the 32 heads"]),
        (["--topology", "0P1D"], ["0P1D lacks a pool"]),
        (["--topology", "41P1D"], ["41P1D", "requests, 40"]),
        (["--topology", "4000P97D"], ["4000P97D", "more than 4,096 replicas"]),
        (["--topology", "1P1D", "--link", "nvlnk3"], ["nvlnk3", "nvlink3"]),
        (["--topology", "1P1D", "--model", "llama-3.1-70b"], ["no KV cache", "--tp"]),
        (["--seed", "-1"], ["--seed -1"]),
        (["--sample", "0"], ["--sample 0"]),
        (["--sample", "nan"], ["--sample nan"]),
        (["--sample", "some"], ["--sample some", "or auto"]),
        (["--token-budget", "0"], ["token budget 0"]),
        (["--max-running", "0"], ["--max-running 0", "leave it out"]),
        (
            ["--token-budget", "256", "--max-running", "320"],
            ["token budget 256", "running limit 320", "raise the budget or lower the limit"],
        ),
        (["--token-budget", "100000000"], ["profile covers", "100000000"]),
        (["--model", "llama-3.1-70b"], ["no KV cache", "--tp"]),
        (["--config", "no.toml"], ["no.toml", "no such file"]),
        (["--lengths", "no.jsonl"], ["no.jsonl", "no such file"]),
        (["--trace", "demo:nothing"], ["nothing", "mixed"]),
        (["-o", "no/plan.parquet"], ["no/plan.parquet", "does not exist"]),
        (["-o", "."], ["directory"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_option_is_one_line(folder: Path, arguments: list[str], words: list[str]) -> None:
    line = complaint(folder, "plan", "--trace", "good.csv", *arguments)
    assert [word for word in words if word not in line] == [], line


def test_unknown_setting_names_the_file_and_the_nearest(folder: Path) -> None:
    (folder / "c.toml").write_text("[settings]\nsampel = 0.1\n")
    line = complaint(folder, "plan", "--trace", "good.csv", "--config", "c.toml")
    assert "c.toml: [settings]: no setting 'sampel'; nearest known: sample" in line


@pytest.mark.parametrize(
    ("name", "words"), [("dp", "is above 4,096"), ("tp", "does not divide the 32 heads")]
)
@pytest.mark.parametrize("command", ["plan", "compare", "search"])
def test_too_many_gpus_in_a_config_file_are_one_line(
    folder: Path, command: str, name: str, words: str
) -> None:
    (folder / "c.toml").write_text(f"[settings]\n{name} = 1000000000\n")
    line = complaint(folder, command, "--trace", "good.csv", "--config", "c.toml")
    assert f"--{name} 1000000000 {words}" in line


def test_as_many_replicas_as_are_simulated_may_be_asked_for() -> None:
    assert Settings(dp=MOST_REPLICAS).replicas == MOST_REPLICAS
    assert Settings(topology=f"{MOST_REPLICAS - 1}P1D").replicas == MOST_REPLICAS


@pytest.fixture
def planned(folder: Path) -> Path:
    arguments = ["plan", "--trace", "good.csv", "-o", "plan.parquet"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    return folder


def test_plan_for_another_workload_is_refused(planned: Path) -> None:
    (planned / "other.csv").write_text(GOOD.replace("100,10", "101,10"))
    line = complaint(
        planned, "simulate", "plan.parquet", "--workload", "other.csv", "-o", "steps.parquet"
    )
    assert "made for another workload" in line


def test_plan_for_fewer_requests_is_refused(planned: Path) -> None:
    (planned / "other.csv").write_text(GOOD + "5,5\n")
    line = complaint(planned, "simulate", "plan.parquet", "--workload", "other.csv")
    assert "the plan is for 40 requests, the workload has 41" in line


def test_traces_of_the_plan_may_be_gone(planned: Path) -> None:
    (planned / "good.csv").unlink()
    assert "good.csv: no such file" in complaint(planned, "simulate", "plan.parquet")


@pytest.mark.parametrize("name", ["no.parquet", "good.csv"])
def test_what_is_no_plan_is_refused(planned: Path, name: str) -> None:
    assert name in complaint(planned, "simulate", name)


def test_step_log_is_no_plan(planned: Path) -> None:
    arguments = ["simulate", "plan.parquet", "-o", "steps.parquet"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert "holds 'steplog'; a plan file is needed" in complaint(
        planned, "simulate", "steps.parquet"
    )


def test_plan_that_forgot_its_traces_says_so(planned: Path) -> None:
    from dataclasses import replace

    from blendsim.plan import read_plan, write_plan

    plan = read_plan(planned / "plan.parquet")
    write_plan(replace(plan, meta={}), planned / "bare.parquet")
    assert "does not say which traces it is for" in complaint(planned, "simulate", "bare.parquet")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("watermark = 1.0", "watermark = 1.0 must be at least 0 and below 1"),
        ("prefill_schedule_interval = 0", "prefill_schedule_interval = 0 must be at least 1"),
        ("long_prefill_token_threshold = -1", "long_prefill_token_threshold = -1 must be at least"),
        ("max_num_active_seqs = 0", "max_num_active_seqs = 0 must be at least 1"),
        ("max_num_active_seqs = 5000", "max_num_active_seqs = 5000 is above the running limit"),
        ("watermarks = 0.1", "no setting 'watermarks'; nearest known: watermark"),
        ('watermark = "much"', "watermark = 'much' is not of type float"),
        (
            "prefill_schedule_interval = 2\nlong_prefill_token_threshold = 64",
            "prefill_schedule_interval with long_prefill_token_threshold is not modelled",
        ),
    ],
)
def test_bad_knob_is_one_line(folder: Path, line: str, message: str) -> None:
    (folder / "c.toml").write_text(f"[settings.knobs]\n{line}\n")
    arguments = ("--trace", "good.csv", "--config", "c.toml", "--engine", "vllm")
    assert message in complaint(folder, "plan", *arguments)


def test_knob_of_an_engine_without_it_is_one_line(folder: Path) -> None:
    (folder / "c.toml").write_text("[settings.knobs]\nwatermark = 0.1\n")
    line = complaint(folder, "plan", "--trace", "good.csv", "--config", "c.toml")
    assert "nanoflow has no watermark" in line
    assert "engine vllm" in line


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('eviction = "fifo"', "unknown eviction 'fifo'; nearest known: lru, plan"),
        ("host_memory_bytes = 5", "host_memory_bytes = 5 holds no KV block of 16 tokens"),
        ('host_memory_bytes = 10000000\nhost_link = "pcie3"', "unknown link 'pcie3'; nearest"),
        ('host_memory_bytes = "all"', "host_memory_bytes = 'all' is not of type int; mend it"),
        ("host_memory_bytes = 2.5e0", "host_memory_bytes = 2.5 is not of type int; mend it"),
        ("kv_bytes = 40e9", "kv_bytes = 40000000000.0 is not of type int; write 40_000_000_000"),
    ],
)
def test_bad_setting_of_the_kv_cache_is_one_line(folder: Path, lines: str, message: str) -> None:
    (folder / "c.toml").write_text(f"[settings]\n{lines}\n")
    assert message in complaint(folder, "plan", "--trace", "good.csv", "--config", "c.toml")


def test_files_given_by_the_wrong_option_are_told(folder: Path) -> None:
    row = {"custom_id": "a", "body": {"prompt": "hello", "max_tokens": 9}}
    (folder / "batch.jsonl").write_text(json.dumps(row) + "\n")
    answer = {"custom_id": "a", "response": {"body": {"usage": {"completion_tokens": 4}}}}
    (folder / "results.jsonl").write_text(json.dumps(answer) + "\n")
    (folder / "plan.parquet").write_bytes(b"PAR1\x15\x04")
    (folder / "empty.jsonl").write_bytes(b"")
    for name, words in (
        ("batch.jsonl", "batch.jsonl: holds no results (it is a batch file)"),
        ("plan.parquet", "plan.parquet: is a Parquet file, not results"),
        ("empty.jsonl", "empty.jsonl: holds no results"),
    ):
        for command in (("plan", "--trace"), ("trace", "info")):
            assert words in complaint(folder, *command, "batch.jsonl", "--lengths", name)
    for command in (("plan", "--trace"), ("trace", "info"), ("plan", "--trace", "good.csv")):
        more = ("--trace",) if "good.csv" in command else ()
        told = complaint(folder, *command, *more, "results.jsonl")
        assert "results.jsonl: looks like the results of a batch; give them with --lengths" in told


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('sample = "half"', "--sample half must be above 0"),
        ("dp = 0", "--dp 0 must be at least 1"),
        ('planner = "dsf"', "unknown planner 'dsf'; nearest known: dfs"),
        ('gpu = ["h100", "h200"]', "gpu = ['h100', 'h200']: lists are for options alone"),
        ("tp = [1, 2]", "tp = [1, 2]: lists are for options alone"),
        ('model = ["llama-2-7b"]', "model = ['llama-2-7b'] is not of type str"),
    ],
)
def test_a_wrong_setting_is_told_with_its_file_and_key(folder: Path, line: str, words: str) -> None:
    (folder / "c.toml").write_text(f"[settings]\n{line}\n")
    told = complaint(folder, "plan", "--trace", "good.csv", "--config", "c.toml")
    assert told.startswith(f"error: c.toml: [settings]: {words}")


@pytest.mark.parametrize("command", ["compare", "search"])
@pytest.mark.parametrize(
    ("option", "value"),
    [("gpu", "h100,h200"), ("tp", "1,2"), ("dp", "1..8"), ("quantization", "none,fp8")],
)
def test_a_list_of_systems_is_said_to_be_for_plan(
    folder: Path, command: str, option: str, value: str
) -> None:
    told = complaint(folder, command, "--trace", "good.csv", f"--{option}", value)
    assert f"'--{option}': {value} is a list, which `blendsim plan` alone takes; give one" in told


@pytest.mark.parametrize("value", ["h100,h200", "none,fp8"])
def test_a_plan_is_simulated_on_one_system(folder: Path, value: str) -> None:
    option = "--gpu" if "h100" in value else "--quantization"
    told = complaint(folder, "simulate", "p.parquet", option, value)
    assert f"{value} is a list, which `blendsim plan` alone takes" in told


def test_a_number_of_gpus_is_a_whole_one(folder: Path) -> None:
    told = complaint(folder, "compare", "--trace", "good.csv", "--tp", "two")
    assert "'--tp': two is no whole number" in told


def test_a_config_file_may_begin_with_a_byte_order_mark(folder: Path) -> None:
    (folder / "c.toml").write_text('[settings]\ngpu = "none"\n', encoding="utf-8-sig")
    told = complaint(folder, "plan", "--trace", "good.csv", "--config", "c.toml")
    assert told.startswith("error: unknown GPU 'none'")


@pytest.mark.parametrize("command", ["plan", "compare", "search"])
def test_a_current_directory_that_is_gone_is_one_line(tmp_path: Path, command: str) -> None:
    """In a process of its own: libraries look at the directory while they are loaded."""
    here = tmp_path / "gone"
    here.mkdir()
    (tmp_path / "good.csv").write_text(GOOD)
    asked = [command, "--trace", str(tmp_path / "good.csv")]
    script = (
        "import os, sys; os.rmdir(os.getcwd()); from blendsim.cli import main; "
        f"sys.argv = ['blendsim', *{asked!r}]; main()"
    )
    roots = os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=here,
        env={**os.environ, "PYTHONPATH": roots},
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if not line.endswith("…")]
    if done.returncode == 0:  # no library that was loaded looks at it
        assert "requests" in done.stdout
        return
    assert done.returncode == 2, done.stderr
    assert said == ["error: the current directory no longer exists; change to one that does"]


def test_a_current_directory_that_goes_while_a_command_runs_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = folder / "gone"
    here.mkdir()
    monkeypatch.chdir(here)

    def went(*_: object) -> None:
        here.rmdir()
        os.stat("relative")

    monkeypatch.setattr("blendsim.cli.options.resolve", went)
    result = CliRunner().invoke(app, ["plan", "--trace", str(folder / "good.csv")])
    monkeypatch.chdir(folder)
    assert result.exit_code == 2
    said = [line for line in result.stderr.splitlines() if not line.startswith("compiling")]
    assert said == ["error: the current directory no longer exists; change to one that does"]


def test_an_unknown_engine_is_told_before_a_trace_is_read(folder: Path) -> None:
    line = complaint(folder, "plan", "--trace", "absent.csv", "--engine", "vlm")
    assert "unknown engine 'vlm'" in line
