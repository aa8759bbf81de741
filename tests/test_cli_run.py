"""`blendsim run`: a batch file answered by a small model as `transformers` answers it."""

import json
import shutil
from pathlib import Path

import command_line
import numpy as np
import pytest
import torch
from batch_worlds import (
    REQUESTS,
    Told,
    answers_of_transformers,
    body,
    line_of,
    make_folder,
    make_model,
    results,
    run,
    told,
    write_lines,
)
from safetensors.torch import load_file, save_file
from vllm_stand_in import StandInLLM, install

from blendrt import loading
from blendrt.vllm.following import SCHEDULER, Course
from blendsim.cli.status import INCOMPLETE
from blendsim.steplog import read_steplog

model = pytest.fixture(scope="module")(make_model)
folder = pytest.fixture(make_folder)
expected = pytest.fixture(scope="module")(answers_of_transformers)


def test_answers_are_those_of_transformers(
    model: Path, folder: Path, expected: dict[str, Told]
) -> None:
    done = run(model, "--json", "--log", "steps.parquet", "--token-budget", "128")
    assert done.exit_code == 0, done.output
    answers = results(folder)
    assert answers.keys() == {f"request-{i}" for i in range(REQUESTS)}
    assert {name: told(answers[name]) for name in expected} == expected
    assert {each[1] for each in expected.values()} == {"stop", "length"}
    result = json.loads(done.stdout)
    usages = [told(response)[2:] for response in answers.values()]
    assert result["input_tokens"] == sum(prompt for prompt, _ in usages)
    assert result["output_tokens"] == sum(output for _, output in usages)
    assert (result["answered"], result["refused"], result["first"]) == (REQUESTS, 0, 32)
    assert result["hit_tokens"] > 0
    log = read_steplog(folder / "steps.parquet")
    assert log.count("finished").sum() == REQUESTS - 32
    assert log.meta["policy"] == result["policy"]
    told_by = command_line.run("profile", "calibrate", "steps.parquet", "-o", "out", code=2)
    assert "cpu was measured; plan for the machine it is to run on" in told_by  # not "simulated"


def test_log_says_with_how_much_kv_memory_it_ran(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "kv_bytes_that_fit", lambda *_: 12_345_678)
    done = run(model, "--log", "steps.parquet")
    assert done.exit_code == 0, done.output
    assert read_steplog(folder / "steps.parquet").meta["settings"]["kv_bytes"] == 12_345_678


def test_a_request_is_answered_the_same_in_another_order(model: Path, folder: Path) -> None:
    assert run(model, "--planner", "dfs").exit_code == 0
    one = results(folder)
    (folder / "out.jsonl").unlink()
    assert run(model, "--planner", "random", "--token-budget", "64").exit_code == 0
    assert {name: told(each) for name, each in results(folder).items()} == {
        name: told(each) for name, each in one.items()
    }


def test_odd_ids_and_stops_are_served(model: Path, folder: Path) -> None:
    odd = line_of(1, stop=["\ud800"]) | {"custom_id": "a\u0000"}
    write_lines(folder / "batch.jsonl", [odd])
    assert run(model).exit_code == 0
    assert run(model, "--resume").exit_code == 0
    assert results(folder).keys() == {"a\u0000"}


def test_a_note_is_said_once(model: Path, folder: Path) -> None:
    directory = folder / "plain"
    directory.mkdir()
    for part in model.iterdir():
        (directory / part.name).write_bytes(part.read_bytes())
    (directory / "tokenizer_config.json").write_text("{}")
    done = run(directory, "--json")
    assert done.exit_code == 0, done.output
    notes = json.loads(done.stdout)["notes"]
    assert sum("chat template" in note for note in notes) == 1


@pytest.mark.parametrize(
    "device", ["NVIDIA GeForce RTX 4090", "NVIDIA H100 PCIe", "NVIDIA GH200 480GB"]
)
def test_a_gpu_without_a_profile_is_planned_for_another_with_a_word(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr("blendrt.machine.describe", lambda _: {"device": device})
    done = run(model, "--json", "--planner", "dfs")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["planned_for"], result["is_planned_for_it"]) == ("a100-80g", False)
    (note,) = (each for each in result["notes"] if device in each)
    assert "planned by that of a100-80g" in note
    assert "[settings]" in note


@pytest.mark.parametrize(
    ("device", "gpu"), [("NVIDIA H200", "h200"), ("NVIDIA A100-SXM4-80GB", "a100-80g")]
)
def test_a_gpu_of_the_table_is_planned_for_itself(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, device: str, gpu: str
) -> None:
    monkeypatch.setattr("blendrt.machine.describe", lambda _: {"device": device})
    done = run(model, "--json", "--planner", "dfs")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["planned_for"], result["is_planned_for_it"]) == (gpu, True)
    assert result["predicted_seconds"] > 0
    assert not any(device in note for note in result["notes"])


def test_a_prompt_without_room_for_an_answer_gets_an_error_line(model: Path, folder: Path) -> None:
    long = line_of(200, messages=[{"role": "user", "content": "z" * 600}])
    write_lines(folder / "batch.jsonl", [line_of(1), long, line_of(2)])
    done = run(model, "--json")
    assert done.exit_code == INCOMPLETE, done.output
    response = results(folder)["request-200"]
    assert response["status_code"] == 400
    assert "tokens and the model's context is 512" in response["body"]["error"]["message"]
    result = json.loads(done.stdout)
    assert (result["answered"], result["refused"]) == (2, 1)


def test_without_max_tokens_an_answer_may_fill_the_context(model: Path, folder: Path) -> None:
    write_lines(folder / "batch.jsonl", [line_of(1, max_tokens=None, logit_bias=None)])
    assert run(model).exit_code == 0
    prompt, output = told(results(folder)["request-1"])[2:]
    assert prompt + output <= 512


def test_stop_texts_are_honoured(model: Path, folder: Path, expected: dict[str, Told]) -> None:
    name, answer = max(expected.items(), key=lambda item: len(item[1][0]))
    stop = answer[0][2:4]
    write_lines(folder / "batch.jsonl", [line_of(int(name.split("-")[1]), stop=[stop])])
    assert run(model).exit_code == 0
    text, finish, _, tokens = told(results(folder)[name])
    assert text == answer[0][: answer[0].find(stop)]
    assert finish == "stop"
    assert tokens <= answer[3]


def test_seeds_of_lines_that_give_none_are_the_runs(model: Path, folder: Path) -> None:
    write_lines(folder / "batch.jsonl", [line_of(i, seed=None, temperature=1.5) for i in range(40)])
    found = []
    for seed in ("0", "0", "1"):
        assert run(model, "--seed", seed).exit_code == 0
        found.append({name: told(each) for name, each in results(folder).items()})
        (folder / "out.jsonl").unlink()
    assert found[0] == found[1]
    same = np.mean([found[0][name] == found[2][name] for name in found[0]])
    assert same < 0.5


def test_seeds_are_the_lines_own_whatever_stands_beside_them(model: Path, folder: Path) -> None:
    rows = [line_of(i, seed=None, temperature=1.5) for i in range(12)]
    found = []
    for first in (rows[0], line_of(0, n=2)):  # the second cannot be answered
        write_lines(folder / "batch.jsonl", [first, *rows[1:]])
        assert run(model).exit_code in (0, INCOMPLETE)
        found.append({name: each for name, each in results(folder).items() if name != "request-0"})
        (folder / "out.jsonl").unlink()
    assert all(told(found[0][name]) == told(found[1][name]) for name in found[0])


@pytest.fixture(scope="module")
def poisoned(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with one broken embedding, of token 7."""
    path = tmp_path_factory.mktemp("broken") / "poisoned"
    shutil.copytree(model, path)
    weights = load_file(path / "model.safetensors")
    weights["model.embed_tokens.weight"][7] = float("nan")
    save_file(weights, path / "model.safetensors")
    return path


@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_requests_whose_logits_are_no_numbers_fail_alone(
    poisoned: Path, folder: Path, top_p: float
) -> None:
    """Those whose prompt has the broken embedding get an error line, in the sample and after it;
    nothing changes for the others.
    """

    def row(i: int, token: int) -> dict[str, object]:
        asked = {"prompt": [token] * (9 + i % 5), "max_tokens": 12, "temperature": 1.0, "seed": i}
        return {"custom_id": f"r{i}", "url": "/v1/completions", "body": asked | {"top_p": top_p}}

    rows = [row(i, 7 if i % 4 == 0 else 50 + i) for i in range(80)]
    good = [each for i, each in enumerate(rows) if i % 4]
    found = []
    for batch in (good, rows):
        write_lines(folder / "batch.jsonl", batch)
        done = run(poisoned, "--json", "--sample", "0.5")
        assert done.exit_code in (0, INCOMPLETE), done.output
        failed = [r["status_code"] for r in results(folder).values() if r["status_code"] != 200]
        assert set(failed) <= {500}
        assert json.loads(done.stdout)["refused"] == len(failed)
        found.append(results(folder))
        (folder / "out.jsonl").unlink()
    for i in range(0, 80, 4):
        error = found[1].pop(f"r{i}")["body"]["error"]
        assert "the model's logits are no numbers there" in error["message"]
    # A few of the others draw that token themselves.
    told = [{n: r["body"].get("choices", r["body"]) for n, r in one.items()} for one in found]
    assert told[0] == told[1]
    assert sum("error" not in body for body in told[0].values()) > 50


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[StandInLLM]:
    """vLLM's stand-in, on a machine whose GPU is its CPU."""
    monkeypatch.setattr(loading, "find_device", lambda gpu: torch.device("cpu"))
    return install(monkeypatch)


def test_vllm_answers_on_one_engine_in_the_planned_order(
    model: Path, folder: Path, vllm: type[StandInLLM]
) -> None:
    done = run(model, "--gpu", "--engine", "vllm", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["runtime"] == "vllm"
    (engine,) = vllm.made
    assert engine.resets == 2  # of the sample, then of the rest
    assert engine.arguments["load_format"] == "auto"
    answers = results(folder)
    assert len(answers) == REQUESTS
    for i in range(REQUESTS):
        prompt, output = told(answers[f"request-{i}"])[2:]
        assert 1 <= output <= body(i)["max_tokens"]
        assert prompt in {len(ids) for ids, _ in engine.given}
    seeds = sorted(params["seed"] for _, params in engine.given)
    assert seeds == list(range(REQUESTS))
    assert engine.arguments["skip_tokenizer_init"] is True


def test_vllm_has_its_tokenizer_for_stop_texts_and_no_seeds_but_those_given(
    model: Path, folder: Path, vllm: type[StandInLLM]
) -> None:
    lines = [line_of(1, seed=None), line_of(2, stop=["never"])]
    write_lines(folder / "batch.jsonl", lines)
    assert run(model, "--gpu", "--engine", "vllm").exit_code == 0
    (engine,) = vllm.made
    assert engine.arguments["skip_tokenizer_init"] is False
    assert {params["seed"] for _, params in engine.given} == {None, 2}


def test_vllm_follows_the_plan_unless_it_is_to_be_plain(
    model: Path, folder: Path, vllm: type[StandInLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--gpu", "--engine", "vllm", "--planner", "blend", "--json")
    monkeypatch.setattr(Course, "note", lambda course: f"{course.steps} steps")
    followed = json.loads(run(model, *asked, "--log", "steps.parquet").stdout)
    steps = len(read_steplog(folder / "steps.parquet"))
    assert f"{steps} steps" in followed["notes"]
    meta = read_steplog(folder / "steps.parquet").meta
    assert meta["settings"]["engine"] == "vllm-planned"
    (folder / "out.jsonl").unlink()
    plain = json.loads(run(model, *asked, "--plain").stdout)
    assert not any(note.endswith(" steps") for note in plain["notes"])
    assert [one.arguments.get("scheduler_cls") for one in vllm.made] == [SCHEDULER, None]
    assert len(results(folder)) == REQUESTS


def test_a_batch_that_is_a_sample_as_a_whole_is_told_as_much(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blendrt.machine.describe", lambda _: {"device": "NVIDIA H100 PCIe"})
    write_lines(folder / "batch.jsonl", [line_of(1), line_of(2)])
    done = run(model, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["first"], result["policy"]) == (2, None)
    assert any("NVIDIA H100 PCIe" in each for each in result["notes"])
