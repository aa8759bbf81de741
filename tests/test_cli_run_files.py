"""`blendsim run` and its files: runs that break off and go on, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from batch_worlds import (
    REQUESTS,
    Told,
    answers_of_transformers,
    body,
    complaint,
    line_of,
    make_folder,
    make_model,
    results,
    run,
    told,
    write_lines,
)
from late_clock import LateClock

from blendrt.generate import answer as answer_module
from blendsim.cli.run import require_files
from blendsim.cli.status import INCOMPLETE
from blendsim.errors import InputError
from blendsim.live.course import Course

model = pytest.fixture(scope="module")(make_model)
folder = pytest.fixture(make_folder)
expected = pytest.fixture(scope="module")(answers_of_transformers)


@pytest.mark.usefixtures("capfd")
def test_answers_do_not_go_where_the_summary_goes(folder: Path) -> None:
    """One would be written over the other."""
    shown = Path("/proc/self/fd/1")
    with pytest.raises(InputError, match="what the command says is written there, too; write to"):
        require_files(folder / "batch.jsonl", shown, None, None)
    (folder / "out.jsonl").touch()
    require_files(folder / "batch.jsonl", folder / "out.jsonl", None, None)


@pytest.mark.parametrize("after", [0, 10, 50])
def test_a_run_that_breaks_off_goes_on(
    model: Path,
    folder: Path,
    expected: dict[str, Told],
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


def test_a_run_that_breaks_off_with_error_lines_alone_says_how_to_go_on(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any) -> None:
        raise KeyboardInterrupt

    write_lines(folder / "batch.jsonl", [line_of(1), line_of(2, n=2)])
    with monkeypatch.context() as patch:
        patch.setattr(Course, "take", breaks)
        broken = run(model)
    assert broken.exit_code == 130
    assert "out.jsonl has 0 of 2 answers; --resume goes on" in broken.stderr
    assert len((folder / "out.jsonl").read_text().splitlines()) == 1
    assert run(model, "--resume").exit_code == INCOMPLETE
    assert results(folder).keys() == {"request-1", "request-2"}


def test_what_was_told_before_an_interrupt_is_right(
    model: Path,
    folder: Path,
    expected: dict[str, Told],
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
    assert done.exit_code == INCOMPLETE, done.output
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sample", "1"), "--sample 1: run answers a share of the requests first"),
        (("--sample", "auto"), "--sample auto: run answers a share of the requests first"),
        (("--gpu",), "--gpu: torch"),
        (("--engine", "vllm"), "--engine vllm runs on a GPU only; add --gpu"),
        (("--planner", "best"), "unknown planner 'best'"),
        (("--log", "nowhere/steps.parquet"), "the directory nowhere does not exist"),
        (("--log", "steps.csv"), "steps.csv: is written as Parquet; name it .parquet"),
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


def test_a_log_does_not_replace_the_config_that_is_read(model: Path, folder: Path) -> None:
    (folder / "run.toml").write_text("[settings]\nseed = 1\n")
    told = complaint(model, "--config", "run.toml", "--log", "run.toml")
    assert "run.toml: is read by this command" in told
    assert (folder / "run.toml").read_text() == "[settings]\nseed = 1\n"
