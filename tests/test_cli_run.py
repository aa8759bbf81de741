"""`blendsim run`: a batch file answered by a small model as `transformers` answers it, whatever
breaks off in between.
"""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import vllm_stand_in
from typer.testing import CliRunner

from blendrt import loading
from blendrt.clock import StepTime, WallClock
from blendrt.generate import answer as answer_module
from blendsim.cli.app import app
from blendsim.cli.course import Course
from blendsim.steplog import read_steplog

CHAT = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[answer]"
HEAD = "you answer questions about the quick brown fox in as few words as you can."
REQUESTS = 90


def body(i: int) -> dict[str, Any]:
    """Every third request draws its tokens, the others take the likeliest; prompts share a head."""
    asked = f"what does number {i} of the foxes do?" * (1 + i % 5)
    messages = [{"role": "system", "content": HEAD}, {"role": "user", "content": asked}]
    temperature = 1.0 if i % 3 == 0 else 0.0
    return {
        "model": "fox",
        "messages": messages,
        "max_tokens": 5 + i * 7 % 60,
        "temperature": temperature,
        "seed": i,
    }


def line_of(i: int, **changes: Any) -> dict[str, Any]:
    return {
        "custom_id": f"request-{i}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": body(i) | changes,
    }


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random 2-layer Llama with a tokenizer of bytes and a few words, as it would be shared."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([HEAD, "what does number of the foxes do?"] * 20, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    words = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHAT}
    (directory / "tokenizer_config.json").write_text(json.dumps(words))
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=0,
        # More ends than a model has, so that answers of a random one end by themselves.
        eos_token_id=[1, *range(20, 34)],
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the batch."""
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "batch.jsonl", [line_of(i) for i in range(REQUESTS)])
    return tmp_path


class LateClock(WallClock):
    """Tells of a step when the next one has been issued, as a GPU does that is busy."""

    def ended(self, pending: int) -> Iterator[StepTime]:
        while len(self._ended) > pending:
            yield self._ended.popleft()


def run(model: Path, *arguments: str, batch: str = "batch.jsonl") -> Any:
    return CliRunner().invoke(
        app, ["run", batch, "-o", "out.jsonl", "--model", str(model), *arguments]
    )


def complaint(model: Path, *arguments: str, batch: str = "batch.jsonl") -> str:
    """The one line of a run that is refused."""
    done = run(model, *arguments, batch=batch)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def results(folder: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    found = {row["custom_id"]: row["response"] for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.fixture(scope="module")
def expected(model: Path) -> dict[str, tuple[str, str, int, int]]:
    """Text, finish reason and token counts of the likeliest answers, by `transformers`."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    theirs = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    answers = {}
    for i in range(REQUESTS):
        if body(i)["temperature"] > 0:
            continue
        prompt = tokenizer.apply_chat_template(
            body(i)["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokens = theirs.generate(
                prompt, do_sample=False, pad_token_id=0, max_new_tokens=body(i)["max_tokens"],
                attention_mask=torch.ones_like(prompt),
            )[0, prompt.shape[1] :].tolist()  # fmt: skip
        is_over = tokens[-1] in theirs.config.eos_token_id
        text = tokenizer.decode(tokens[:-1] if is_over else tokens, skip_special_tokens=True)
        answers[f"request-{i}"] = (
            text, "stop" if is_over else "length", prompt.shape[1], len(tokens),
        )  # fmt: skip
    return answers


def told(response: dict[str, Any]) -> tuple[str, str, int, int]:
    choice, usage = response["body"]["choices"][0], response["body"]["usage"]
    return (
        choice["message"]["content"],
        choice["finish_reason"],
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )


def test_answers_are_those_of_transformers(
    model: Path, folder: Path, expected: dict[str, tuple[str, str, int, int]]
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


def test_a_request_is_answered_the_same_in_another_order(model: Path, folder: Path) -> None:
    assert run(model, "--planner", "dfs").exit_code == 0
    one = results(folder)
    (folder / "out.jsonl").unlink()
    assert run(model, "--planner", "random", "--token-budget", "64").exit_code == 0
    assert {name: told(each) for name, each in results(folder).items()} == {
        name: told(each) for name, each in one.items()
    }


@pytest.mark.parametrize("after", [0, 10, 50])
def test_a_run_that_breaks_off_goes_on(
    model: Path,
    folder: Path,
    expected: dict[str, tuple[str, str, int, int]],
    after: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take = Course.take
    taken = 0

    def breaks(course: Course, row: int, answer: Any) -> None:
        nonlocal taken
        if taken == after:
            raise KeyboardInterrupt
        taken += 1
        take(course, row, answer)

    with monkeypatch.context() as patch:
        patch.setattr(Course, "take", breaks)
        broken = run(model)
    assert broken.exit_code == 130
    if after:
        assert f"out.jsonl has {after} of 90 answers; --resume goes on" in broken.stderr
    path = folder / "out.jsonl"
    kept = path.read_text() if path.exists() else ""
    assert len(kept.splitlines()) == after
    path.write_text(kept + '{"id": "batch_req_1')  # and half a line
    done = run(model, "--resume", "--json")
    assert done.exit_code == 0, done.output
    assert path.read_text().startswith(kept)
    answers = results(folder)
    assert {name: told(answers[name]) for name in expected} == expected
    assert len(answers) == REQUESTS
    result = json.loads(done.stdout)
    assert result["answered_before"] == after
    assert result["first"] == max(0, 32 - after)


def test_what_was_told_before_an_interrupt_is_right(
    model: Path,
    folder: Path,
    expected: dict[str, tuple[str, str, int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A GPU has a step under way then, whose tokens come behind those that nobody looked at."""
    monkeypatch.setattr(answer_module, "clock_for", lambda _: LateClock())
    take = Course.take
    for after in (3, 20, 40, 41, 42):
        count = 0

        def once(course: Course, row: int, answer: Any, after: int = after) -> None:
            nonlocal count
            count += 1
            if count == after:
                raise KeyboardInterrupt
            take(course, row, answer)

        with monkeypatch.context() as patch:
            patch.setattr(Course, "take", once)
            assert run(model).exit_code == 130
        answers = results(folder)
        assert len(answers) == after - 1
        assert all(told(answers[name]) == expected[name] for name in answers.keys() & expected)
        (folder / "out.jsonl").unlink()


def test_what_fits_the_model_but_not_the_memory_is_refused(model: Path, folder: Path) -> None:
    size = 2 * 2 * 2 * 16 * 2  # bytes of K and V of a token: layers, heads of 16, bfloat16
    (folder / "small.toml").write_text(f"[settings]\nkv_bytes = {16 * 9 * size}\n")
    done = run(model, "--config", "small.toml", "--json")
    assert done.exit_code == 0, done.output
    answers = results(folder)
    assert 0 < json.loads(done.stdout)["refused"] < REQUESTS
    for i in range(REQUESTS):
        response = answers[f"request-{i}"]
        if response["status_code"] == 400:
            assert "KV memory has room for 144" in response["body"]["error"]["message"]
        elif told(response)[1] == "length":
            assert told(response)[3] == body(i)["max_tokens"]
    assert run(model, "--resume").exit_code == 0
    assert all(response["status_code"] == 200 for response in results(folder).values())


@pytest.mark.parametrize("log", ["out.jsonl", "batch.jsonl", "./out.jsonl"])
def test_files_are_not_written_over_each_other(model: Path, folder: Path, log: str) -> None:
    kept = (folder / "batch.jsonl").read_bytes()
    assert "are to be different files" in complaint(model, "--log", log)
    assert (folder / "batch.jsonl").read_bytes() == kept


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


def test_a_run_that_is_done_has_nothing_left_to_do(model: Path, folder: Path) -> None:
    assert run(model).exit_code == 0
    kept = (folder / "out.jsonl").read_bytes()
    done = run(model, "--resume")
    assert done.exit_code == 0, done.output
    assert f"answers to {REQUESTS} of {REQUESTS} requests, {REQUESTS} of them before" in done.stdout
    assert (folder / "out.jsonl").read_bytes() == kept


def test_answers_of_before_are_not_written_over(model: Path, folder: Path) -> None:
    (folder / "out.jsonl").write_text("mine\n")
    assert "give --resume to go on, or another -o" in complaint(model)
    assert (folder / "out.jsonl").read_text() == "mine\n"


def test_a_prompt_without_room_for_an_answer_gets_an_error_line(model: Path, folder: Path) -> None:
    long = line_of(200, messages=[{"role": "user", "content": "z" * 600}])
    write_lines(folder / "batch.jsonl", [line_of(1), long, line_of(2)])
    done = run(model, "--json")
    assert done.exit_code == 0, done.output
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


def test_stop_texts_are_honoured(
    model: Path, folder: Path, expected: dict[str, tuple[str, str, int, int]]
) -> None:
    name, answer = max(expected.items(), key=lambda item: len(item[1][0]))
    stop = answer[0][2:4]
    write_lines(folder / "batch.jsonl", [line_of(int(name.split("-")[1]), stop=[stop])])
    assert run(model).exit_code == 0
    text, finish, _, tokens = told(results(folder)[name])
    assert text == answer[0][: answer[0].find(stop)]
    assert finish == "stop"
    assert tokens <= answer[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sample", "1"), "--sample 1.0: run answers a share of the requests first"),
        (("--sample", "auto"), "--sample auto: run answers a share of the requests first"),
        (("--gpu",), "--gpu: torch"),
        (("--engine", "vllm"), "--engine vllm runs on a GPU only; add --gpu"),
        (("--planner", "best"), "unknown planner 'best'"),
        (("--log", "nowhere/steps.parquet"), "the directory nowhere does not exist"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(
    model: Path, folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    if arguments == ("--gpu",) and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert message in complaint(model, *arguments)
    assert not (folder / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("model.safetensors", "no *.safetensors there"),
        ("tokenizer.json", "tokenizer.json: no such file"),
        ("config.json", "config.json: no such file"),
    ],
)
def test_a_directory_that_is_no_whole_model_is_refused(
    model: Path, folder: Path, missing: str, message: str
) -> None:
    directory = folder / "model"
    directory.mkdir()
    for part in model.iterdir():
        if part.name != missing:
            (directory / part.name).write_bytes(part.read_bytes())
    assert message in complaint(directory)
    assert not (folder / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("ends", "message"),
    [(None, "so that no answer would end"), ("</s>", "is no token id"), ([], "no answer would")],
)
def test_ends_that_are_no_tokens_are_refused(
    model: Path, folder: Path, ends: object, message: str
) -> None:
    directory = folder / "model"
    directory.mkdir()
    for part in model.iterdir():
        if part.name.endswith(".json") and "token" not in part.name:
            said = json.loads(part.read_text()) | {"eos_token_id": ends}
            (directory / part.name).write_text(json.dumps(said))
        else:
            (directory / part.name).write_bytes(part.read_bytes())
    assert message in complaint(directory)


def test_requests_ask_only_for_what_can_be_done(model: Path, folder: Path) -> None:
    write_lines(folder / "batch.jsonl", [line_of(1), line_of(2, logprobs=True)])
    assert "line 2, column 'body.logprobs'" in complaint(model)
    assert not (folder / "out.jsonl").exists()


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


def test_vllm_answers_on_one_engine_in_the_planned_order(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm = vllm_stand_in.install(monkeypatch)
    monkeypatch.setattr(loading, "find_device", lambda gpu: torch.device("cpu"))
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
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm = vllm_stand_in.install(monkeypatch)
    monkeypatch.setattr(loading, "find_device", lambda gpu: torch.device("cpu"))
    lines = [line_of(1, seed=None), line_of(2, stop=["never"])]
    write_lines(folder / "batch.jsonl", lines)
    assert run(model, "--gpu", "--engine", "vllm").exit_code == 0
    (engine,) = vllm.made
    assert engine.arguments["skip_tokenizer_init"] is False
    assert {params["seed"] for _, params in engine.given} == {None, 2}
