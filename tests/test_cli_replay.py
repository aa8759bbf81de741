"""`blendsim replay`: a plan's schedule on the tiny model, and everything that cannot be run."""

import builtins
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import refusal
from typer.testing import CliRunner
from vllm_stand_in import install

from blendrt import loading
from blendrt.config import TINY, DecoderConfig
from blendrt.executor.sequential import SequentialExecutor
from blendrt.vllm import feed
from blendrt.vllm.feed import write_config
from blendrt.vllm.following import Course
from blendsim.cli.app import app
from blendsim.live import replaying
from blendsim.serving.flavour import PREDICTED_PEAK
from blendsim.settings import Settings
from blendsim.specs import find_model
from blendsim.steplog import read_steplog

ROWS = [(40 + 7 * i % 60, 1 + i % 9) for i in range(40)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trace of 40 requests and a plan for it."""
    folder = tmp_path_factory.mktemp("replay")
    lines = ["num_prefill_tokens,num_decode_tokens", *(f"{p},{d}" for p, d in ROWS)]
    (folder / "trace.csv").write_text("\n".join(lines) + "\n")
    done = CliRunner().invoke(
        app,
        [
            *("plan", "--trace", str(folder / "trace.csv"), "--planner", "blend"),
            *("--token-budget", "256", "--sample", "0.2", "-o", str(folder / "plan.parquet")),
        ],
    )
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plan in a fresh working directory."""
    (tmp_path / "plan.parquet").write_bytes((home / "plan.parquet").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["replay", *arguments])


def complaint(*arguments: str) -> str:
    """The one line a failing replay says."""
    return refusal(run(*arguments))


def test_tiny_model_runs_the_steps_that_simulate_predicts(folder: Path) -> None:
    done = run("--model", "tiny", "-o", "measured.parquet", "--json")
    assert done.exit_code == 0, done.output
    simulated = CliRunner().invoke(app, ["simulate", "plan.parquet", "-o", "simulated.parquet"])
    assert simulated.exit_code == 0, simulated.output
    measured, expected = (
        read_steplog(folder / f"{name}.parquet") for name in ("measured", "simulated")
    )
    assert measured.counts.tolist() == expected.counts.tolist()
    result = json.loads(done.stdout)
    assert result["requests"] == len(ROWS)
    assert result["input_tokens"] == sum(p for p, _ in ROWS)
    assert result["output_tokens"] == sum(d for _, d in ROWS)
    assert result["steps"] == len(measured)
    assert result["seconds"] == pytest.approx(measured.times[-1, :2].sum())
    assert (result["model"], result["executor"]) == ("tiny", "sequential")
    assert result["estimate"] is None
    assert result["notes"] == [
        "tiny runs the schedule made for llama-3.1-8b on 1 × a100-80g: same steps, other times"
    ]


def test_log_says_what_it_was_measured_on(folder: Path) -> None:
    assert run("--model", "tiny", "-o", "steps.parquet").exit_code == 0
    meta = read_steplog(folder / "steps.parquet").meta
    assert meta["complete"] is True
    assert meta["policy"] == "blend"
    assert meta["engine"] == "nanoflow"
    assert (meta["runtime"], meta["weights"]) == ("blendrt", "random")
    assert meta["machine"]["device"] == "cpu"
    assert meta["machine"]["torch"] == torch.__version__
    assert meta["settings"]["token_budget"] == 256
    assert len(meta["plan_sha256"]) == 64


def test_reader_gets_sentences(folder: Path) -> None:
    done = run("--model", "tiny")
    assert done.exit_code == 0, done.output
    assert "40 requests of a blend plan ran in" in done.stdout
    assert "on tiny, cpu, sequential" in done.stdout.replace("\n  ", " ")
    assert "the plan predicted" in done.stdout
    assert "-o steps.parquet keeps the log" in done.stdout


def test_sampled_replay_tells_its_interval(folder: Path) -> None:
    done = run("--model", "tiny", "--sampled", "10", "-o", "steps.parquet", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    estimate = result["estimate"]
    assert estimate["measured"] == 10
    assert estimate["low"] <= estimate["seconds"] <= estimate["high"]
    assert result["steps"] == estimate["steps"] == len(read_steplog(folder / "steps.parquet"))
    assert "10 of the steps were measured" in run("--model", "tiny", "--sampled", "10").stdout


def test_full_is_every_step_and_no_sample_beside_it(folder: Path) -> None:
    done = run("--model", "tiny", "--full", "--json")
    assert json.loads(done.stdout)["estimate"] is None
    assert "give one of the two" in complaint("--model", "tiny", "--sampled", "10", "--full")


def test_executor_is_the_users_choice(folder: Path) -> None:
    done = run("--model", "tiny", "--executor", "overlap", "-o", "steps.parquet", "--json")
    assert json.loads(done.stdout)["executor"] == "overlap"
    assert read_steplog(folder / "steps.parquet").meta["halved"] == [], "a CPU's steps are small"


def test_directory_is_run_with_its_weights_or_with_random_ones(tmp_path: Path) -> None:
    write_config(replace(TINY, name="small", context=4_096), tmp_path)
    planned = find_model(str(tmp_path))
    choice = loading.choose_model(str(tmp_path), planned, gpu=False)
    assert choice.directory is None
    assert choice.config.hidden == TINY.hidden
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert loading.choose_model(str(tmp_path), planned, gpu=False).directory == tmp_path


WRONG: dict[str, tuple[list[str], list[str]]] = {
    "no model on the CPU": ([], ["llama-3.1-8b", "--model tiny", "--gpu"]),
    "no GPU": (["--gpu"], ["--gpu", "no GPU", "--model tiny"]),
    "another model": (
        ["--model", "llama-2-7b"],
        ["llama-2-7b", "llama-3.1-8b", "intermediate 11008 instead of 14336", "plan again"],
    ),
    "unknown model": (["--model", "lama"], ["unknown model 'lama'", "llama-2-7b"]),
    "no plan": (["other.parquet", "--model", "tiny"], ["other.parquet", "no such file"]),
    "no room for a log": (["--model", "tiny", "-o", "no/steps.parquet"], ["no", "does not exist"]),
    "sample of nothing": (["--model", "tiny", "--sampled", "0"], ["--sampled 0", "at least 1"]),
    "sample too small": (["--model", "tiny", "--sampled", "2"], ["--sampled 2", "at least 8"]),
    "vLLM on a CPU": (["--engine", "vllm"], ["--engine vllm", "--gpu"]),
    "vLLM, sampled": (["--engine", "vllm", "--gpu", "--sampled", "9"], ["--sampled", "drop it"]),
    "vLLM's executor": (
        ["--engine", "vllm", "--gpu", "--executor", "overlap"],
        ["--executor", "drop it"],
    ),
    "plain, not vLLM": (["--plain"], ["--plain is for --engine vllm, not blendrt", "drop it"]),
    "unknown engine": (["--engine", "orca"], ["'orca'", "blendrt", "vllm"]),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_run_is_one_line(folder: Path, kind: str) -> None:
    if "--gpu" in WRONG[kind][0] and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    arguments, words = WRONG[kind]
    said = complaint(*arguments)
    for word in words:
        assert word in said, said
    assert not (folder / "steps.parquet").exists()


def test_weights_too_large_for_the_machine_are_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "free_bytes", lambda device: 10**9)
    said = complaint("--model", "llama-3.1-8b")
    assert "needs 32.1 GB for weights and 1.0 GB are free on cpu" in said


def test_missing_torch_says_which_extra_brings_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = builtins.__import__

    def bare(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("blendrt"):
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return plain(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", bare)
    said = complaint("--model", "tiny")
    assert "needs torch: pip install 'blendsim[runtime]'" in said


def test_crash_leaves_the_steps_so_far(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run("--model", "tiny", "-o", "whole.parquet")
    assert whole.exit_code == 0
    plain, steps = SequentialExecutor.run, iter(range(4))

    def breaking(self: SequentialExecutor, inputs: Any) -> Any:
        if next(steps, None) is None:
            raise RuntimeError("the device is gone")
        return plain(self, inputs)

    monkeypatch.setattr(SequentialExecutor, "run", breaking)
    done = run("--model", "tiny", "-o", "steps.parquet")
    assert done.exit_code == 1
    assert isinstance(done.exception, RuntimeError)
    log = read_steplog(folder / "steps.parquet")
    assert log.counts.tolist() == read_steplog(folder / "whole.parquet").counts[:4].tolist()
    assert log.meta["complete"] is False


def test_crash_before_the_first_step_leaves_no_log(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking(self: SequentialExecutor, inputs: Any) -> Any:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(SequentialExecutor, "run", breaking)
    assert run("--model", "tiny", "-o", "steps.parquet").exit_code == 1
    assert not (folder / "steps.parquet").exists()


def test_plan_with_cascade_attention_is_refused(folder: Path, home: Path) -> None:
    asked = ("plan", "--trace", str(home / "trace.csv"), "--planner", "dfs", "--cascade")
    done = CliRunner().invoke(app, [*asked, "-o", "cascade.parquet"])
    assert done.exit_code == 0, done.output
    assert "replay has no cascade attention" in complaint("cascade.parquet", "--model", "tiny")


def test_plan_for_another_workload_is_refused(folder: Path) -> None:
    other = folder / "other.csv"
    other.write_text("num_prefill_tokens,num_decode_tokens\n" + "100,10\n" * len(ROWS))
    said = complaint("plan.parquet", "--workload", str(other), "--model", "tiny")
    assert "workload" in said


def test_help_names_the_choices() -> None:
    shown = CliRunner().invoke(app, ["replay", "-h"]).output
    for word in ("--gpu", "blendrt", "vllm", "DIR|tiny", "--sampled", "sequential", "overlap"):
        assert word in shown


def test_plans_own_model_runs_on_a_gpu_without_being_named() -> None:
    spec = find_model("llama-3.1-8b")
    choice = loading.ModelChoice(DecoderConfig.from_spec(spec), None)
    assert loading.choose_model(None, spec, gpu=True) == choice
    assert loading.choose_model("llama-3.1-8b", spec, gpu=False) == choice


def test_vllm_follows_the_plan_and_the_log_says_how_far(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "find_device", lambda gpu: torch.device("cpu"))
    install(monkeypatch)
    asked = ("--engine", "vllm", "--gpu", "--model", "tiny", "-o", "steps.parquet", "--json")
    followed = json.loads(run(*asked).stdout)
    log = read_steplog(folder / "steps.parquet")
    assert (followed["scheduler"], log.meta["scheduler"]) == ("plan", "plan")
    assert log.meta["followed"] == [asdict(Course(steps=len(log)))]
    plain = json.loads(run(*asked, "--plain").stdout)
    assert plain["scheduler"] == "vllm"
    assert "followed" not in read_steplog(folder / "steps.parquet").meta


def test_a_followed_plan_admits_by_the_rule_of_the_engine_it_is_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of nanoflow here, where requests enter while their predicted peak fits."""
    monkeypatch.setattr(loading, "find_device", lambda gpu: torch.device("cpu"))
    install(monkeypatch)
    rules = []
    own = feed.leading_core

    def noted(job: Any, *rest: Any) -> Any:
        rules.append(job.flavour)
        return own(job, *rest)

    monkeypatch.setattr(feed, "leading_core", noted)
    assert run("--engine", "vllm", "--gpu", "--model", "tiny").exit_code == 0
    (flavour,) = rules
    assert (flavour.name, flavour.admission) == ("vllm", PREDICTED_PEAK)


@pytest.mark.parametrize(
    ("device", "is_told"),
    [("NVIDIA H200", False), ("NVIDIA GH200 480GB", True), ("NVIDIA H100 80GB HBM3", True)],
)
def test_a_plan_for_another_gpu_is_told_so(device: str, is_told: bool) -> None:
    told = replaying._notes("llama-3.1-8b", Settings(gpu="h200"), device)
    assert told == ([f"the plan is for h200; its times are not those of {device}"] * is_told)
