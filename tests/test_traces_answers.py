"""Results: lines of OpenAI's shape, in a file that a run can go on with."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from test_traces_openai import lines, request, tokenizer

from blendsim.errors import InputError
from blendsim.traces import ReadOptions, load
from blendsim.traces import results_file as module
from blendsim.traces.answers import Reply, answer_line, error_line
from blendsim.traces.asked import Asked, BatchFile, Kind, read_batch
from blendsim.traces.results import read_results
from blendsim.traces.results_file import ResultsFile

NASTY = 'Zwölf "🙂"\u2028\n\r\x00\ud800 end'
IDS = dict.fromkeys("abcd", "")  # no digests


def answer(custom_id: str, tokens: int = 3, kind: Kind = Kind.CHAT, is_cut: bool = False) -> str:
    reply = Reply(NASTY, is_cut, prompt_tokens=5, completion_tokens=tokens)
    return answer_line(Asked(custom_id, kind, "m"), reply, created=1_700_000_000)


def body(kind: Kind, is_cut: bool = False) -> dict[str, Any]:
    row = json.loads(answer("a", kind=kind, is_cut=is_cut))
    assert row["response"]["status_code"] == 200
    found: dict[str, Any] = row["response"]["body"]
    return found


def test_a_line_is_of_the_batch_output_format() -> None:
    row = json.loads(answer("a"))
    assert set(row) == {"id", "custom_id", "response", "error"}
    assert set(row["response"]) == {"status_code", "request_id", "body"}
    assert row["id"].startswith("batch_req_")
    assert (row["custom_id"], row["error"]) == ("a", None)


def test_a_chat_is_answered_by_a_message() -> None:
    found = body(Kind.CHAT)
    assert found.pop("id").startswith("chatcmpl-")
    assert found == {
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": NASTY, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
    }


def test_a_text_is_answered_by_a_text() -> None:
    found = body(Kind.TEXT, is_cut=True)
    assert found["object"] == "text_completion"
    assert found["choices"] == [
        {"index": 0, "text": NASTY, "logprobs": None, "finish_reason": "length"}
    ]
    assert found["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


def test_a_response_has_its_text_in_parts() -> None:
    found = body(Kind.RESPONSE)
    assert (found["object"], found["status"], found["incomplete_details"]) == (
        "response",
        "completed",
        None,
    )
    (message,) = found["output"]
    assert (message["type"], message["role"]) == ("message", "assistant")
    assert message["content"] == [{"type": "output_text", "text": NASTY, "annotations": []}]
    assert found["usage"] == {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8}


def test_a_response_that_is_cut_is_incomplete() -> None:
    found = body(Kind.RESPONSE, is_cut=True)
    assert found["status"] == found["output"][0]["status"] == "incomplete"
    assert found["incomplete_details"] == {"reason": "max_output_tokens"}


def test_a_line_is_one_line_of_ascii_and_always_the_same() -> None:
    assert answer("a").isascii()
    assert len(answer("a").splitlines()) == 1
    assert answer("a\ud800") == answer("a\ud800") != answer("a")


def test_an_error_line_counts_as_no_answer(tmp_path: Path) -> None:
    row = json.loads(error_line("a", "too long"))
    assert row["response"]["status_code"] == 400
    assert row["response"]["body"]["error"]["message"] == "too long"
    path = tmp_path / "r.jsonl"
    path.write_text(f"{error_line('a', 'x')}\n{answer('b', 7)}\n{answer('c', 9, Kind.RESPONSE)}\n")
    assert read_results(path).lengths == {"b": 7, "c": 9}


def written(path: Path, *rows: str, resume: bool = False) -> dict[str, int]:
    with ResultsFile.open(path, IDS, resume=resume) as results:
        for row in rows:
            results.write(row)
    return results.done


def text(*rows: str) -> str:
    return "".join(f"{row}\n" for row in rows)


def test_results_are_appended_and_a_second_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    assert written(path, answer("a", 3), answer("b", 4)) == {}
    assert written(path, answer("c", 5), resume=True) == {"a": 3, "b": 4}
    assert written(path, resume=True) == read_results(path).lengths == {"a": 3, "b": 4, "c": 5}
    assert path.read_text() == text(answer("a", 3), answer("b", 4), answer("c", 5))
    assert os.listdir(tmp_path) == ["r.jsonl"]


def test_a_result_is_in_the_file_as_soon_as_it_is_written(tmp_path: Path) -> None:
    with ResultsFile.open(tmp_path / "r", IDS) as results:
        results.write(answer("a"))
        assert (tmp_path / "r").read_text() == text(answer("a"))


def test_closing_twice_is_closing(tmp_path: Path) -> None:
    with ResultsFile.open(tmp_path / "r", IDS) as results:
        results.close()


def test_going_on_with_no_file_or_an_empty_one_is_starting(tmp_path: Path) -> None:
    assert written(tmp_path / "r", resume=True) == {}
    assert written(tmp_path / "r") == {}
    assert written(tmp_path / "r", answer("a"), resume=True) == {}
    assert read_results(tmp_path / "r").lengths == {"a": 3}


def test_lengths_of_a_run_feed_the_next_plan(tmp_path: Path) -> None:
    written(tmp_path / "r.jsonl", answer("b", 12), answer("a", 3, Kind.TEXT))
    batch = lines(tmp_path / "batch.jsonl", request("a", prompt="x"), request("b", prompt="x"))
    workload = load(str(batch), ReadOptions(lengths=tmp_path / "r.jsonl"))
    assert workload.output_len.tolist() == [3, 12]


@pytest.mark.parametrize("before", [(), (answer("a", 3),), (answer("a", 3), error_line("c", "x"))])
def test_a_torn_last_line_is_cut_off_wherever_it_broke(
    before: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "r"
    kept = [row for row in before if row != error_line("c", "x")]
    last = text(answer("b", 4))
    for length in range(len(last) + 1):
        path.write_text(text(*before) + last[:length])
        is_whole = length >= len(last) - 1  # its end may be missing
        found = written(path, answer("d", 9), resume=True)
        assert found == ({"a": 3} if before else {}) | ({"b": 4} if is_whole else {})
        rows = [*kept, answer("b", 4), answer("d", 9)] if is_whole else [*kept, answer("d", 9)]
        assert path.read_text() == text(*rows)


def test_zeros_that_a_power_cut_leaves_are_cut_off(tmp_path: Path) -> None:
    (tmp_path / "r").write_text(text(answer("a")) + "\0" * 100)
    assert written(tmp_path / "r", resume=True) == {"a": 3}
    assert (tmp_path / "r").read_text() == text(answer("a"))


def test_failed_requests_are_taken_out_to_be_tried_again(tmp_path: Path) -> None:
    expired = json.dumps({"custom_id": "c", "response": None, "error": {"code": "expired"}})
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to(real)
    real.write_text(text(answer("a"), error_line("b", "x"), "", expired, answer("d")))
    assert written(link, answer("b"), resume=True) == {"a": 3, "d": 3}
    assert real.read_text() == text(answer("a"), "", answer("d"), answer("b"))
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


REFUSED = {
    "another batch": (text(answer("a"), answer("z")), r"line 2, .*'z' is not in the batch; give"),
    "another batch's error": (text(error_line("z", "x")), "line 1, .*'z' is not in the batch"),
    "twice": (text(answer("a"), answer("b"), answer("a")), "line 3, .*'a' was .* in line 1"),
    "no id": (text('{"response": {}}'), "line 1, column 'custom_id': nothing is not a name"),
    "no JSON": (text(answer("a"), "{", answer("b")), "line 2: is not JSON"),
    "no UTF-8": (text(answer("a")) + "\xff\n", "line 2: is not JSON"),
    "no object": (text("[]"), "line 1: .* is not a JSON object"),
    "no usage": (
        text('{"custom_id": "a", "response": {"body": {}}}'),
        "usage counts no generated tokens",
    ),
    "the batch": (text(json.dumps(request("a", prompt="x"))), "line 1: is no result of a request"),
    "the batch unended": (json.dumps(request("a", prompt="x")), "line 1: is no result"),
    "one line of notes": ("do not lose this", "line 1: is no result of a request; .* another -o"),
    "half an object": ('{"id": "something else', "line 1: is no result of a request"),
    "zeros": ("\0\0", "line 1: is no result of a request"),
    "gzip": ("\x1f\x8b\n\0", "line 1: is not JSON"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_results_of_this_batch_is_refused_and_left_as_it_is(
    kind: str, tmp_path: Path
) -> None:
    content, message = REFUSED[kind]
    path = tmp_path / "r.jsonl"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=message) as raised:
        written(path, resume=True)
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == content.encode("latin-1")
    assert os.listdir(tmp_path) == ["r.jsonl"]


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("x")
    with pytest.raises(InputError, match="r: holds something already; give --resume to go on, or"):
        written(tmp_path / "r")
    assert (tmp_path / "r").read_text() == "x"


@pytest.mark.parametrize("resume", [False, True])
def test_two_runs_do_not_write_one_file(resume: bool, tmp_path: Path) -> None:
    path = tmp_path / "r"
    with ResultsFile.open(path, IDS) as results:
        results.write(answer("a"))
        with pytest.raises(InputError, match="another run is writing it"):
            ResultsFile.open(path, IDS, resume=resume)
    assert read_results(path).lengths == {"a": 3}


def test_a_file_that_was_written_anew_is_locked_too(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_text(text(error_line("a", "x")))
    with (
        ResultsFile.open(path, IDS, resume=True),
        pytest.raises(InputError, match="another run is writing it"),
    ):
        ResultsFile.open(path, IDS, resume=True)


def test_a_file_replaced_while_it_was_opened_is_another_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r"

    def replaced(*_: object) -> None:
        (tmp_path / "new").write_text("")
        (tmp_path / "new").replace(path)

    monkeypatch.setattr(module.fcntl, "flock", replaced)
    with pytest.raises(InputError, match="another run is writing it"):
        ResultsFile.open(path, IDS)


def test_a_file_system_without_locks_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(module.fcntl, "flock", without)
    assert written(tmp_path / "r", answer("a")) == {}


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists() or not stat.S_ISCHR(full.stat().st_mode):
        pytest.skip("this system has no /dev/full")
    with module.FileIO(full, "w") as file:
        results = ResultsFile(tmp_path / "r", file, {})
        with pytest.raises(InputError, match=r"r: cannot be written \(No space left.*--resume"):
            results.write(answer("a"))


def test_failing_to_write_anew_keeps_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = text(answer("a"), error_line("b", "x"))
    (tmp_path / "r").write_text(old)

    def failing(*_: object) -> None:
        raise InputError("r: cannot be written")

    monkeypatch.setattr(module, "_append", failing)
    with pytest.raises(InputError, match="cannot be written"):
        written(tmp_path / "r", resume=True)
    assert (tmp_path / "r").read_text() == old
    assert os.listdir(tmp_path) == ["r"]


PLACES = {
    "nowhere": ("none/r", "the directory .* does not exist"),
    "a directory": (".", "is a directory"),
    "a pipe": ("pipe", "is a pipe or device; write to a file"),
    "a long name": ("n" * 300, "cannot write there"),
}


@pytest.mark.parametrize("kind", PLACES)
def test_a_place_that_cannot_be_written_is_named(kind: str, tmp_path: Path) -> None:
    name, message = PLACES[kind]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=message):
        written(tmp_path / name)


def test_a_batch_is_read_answered_and_gone_on_with(tmp_path: Path) -> None:
    rows = [request(name, messages=[{"role": "user", "content": "what"}]) for name in IDS]
    tokenizer(tmp_path)
    batch = read_batch(lines(tmp_path / "batch.jsonl", *rows), tmp_path)
    with ResultsFile.open(tmp_path / "r", batch.digests) as results:
        for one in batch.asked[:2]:
            results.write(answer_line(one, Reply("is", False, 1, 1), 0))
    with ResultsFile.open(tmp_path / "r", batch.digests, resume=True) as results:
        left = [one for one in batch.asked if one.custom_id not in results.done]
        for one in left:
            results.write(answer_line(one, Reply("is", False, 1, 1), 0))
    assert [one.custom_id for one in left] == ["c", "d"]
    assert list(read_results(tmp_path / "r").lengths) == list(IDS)


def prompted(folder: Path, text: str, **body: Any) -> BatchFile:
    tokenizer(folder)
    row = request("a", messages=[{"role": "user", "content": text}], **body)
    return read_batch(lines(folder / "batch.jsonl", row), folder)


@pytest.mark.parametrize("body", [{"seed": 3}, {"max_tokens": 9}, {"response_format": "x"}])
def test_an_answer_to_another_request_of_the_same_id_is_not_taken(
    body: dict[str, Any], tmp_path: Path
) -> None:
    before = prompted(tmp_path, "what")
    line = answer_line(before.asked[0], Reply("is", False, 1, 1), 0)
    written(tmp_path / "r", line)
    others = [prompted(tmp_path, "when"), prompted(tmp_path, "what", **body)]
    for other in others:
        message = "r, line 1, column 'custom_id': 'a' asks for something else in the batch now"
        with pytest.raises(InputError, match=message):
            ResultsFile.open(tmp_path / "r", other.digests, resume=True)
        assert (tmp_path / "r").read_text() == text(line)


def test_what_no_answer_hangs_on_may_change(tmp_path: Path) -> None:
    line = answer_line(prompted(tmp_path, "what").asked[0], Reply("is", False, 1, 1), 0)
    written(tmp_path / "r", line)
    same = prompted(tmp_path, "what", user="u", metadata={"k": "v"}, model="m", seed=None)
    with ResultsFile.open(tmp_path / "r", same.digests, resume=True) as results:
        assert results.done == {"a": 1}


DEFAULTS = {
    "one answer": {"n": 1},
    "numbers": {"temperature": 1, "top_p": 1.0, "presence_penalty": 0},
    "nothing": {"stop": [], "tools": [], "logit_bias": {}, "chat_template_kwargs": {}},
    "text": {"response_format": {"type": "text"}, "stream": False, "logprobs": False},
}


@pytest.mark.parametrize("kind", DEFAULTS)
@pytest.mark.parametrize("was_written", [True, False])
def test_defaults_may_be_put_into_words(kind: str, was_written: bool, tmp_path: Path) -> None:
    bodies: list[dict[str, Any]] = [{}, DEFAULTS[kind]]
    first, second = reversed(bodies) if was_written else bodies
    before = prompted(tmp_path, "what", **first)
    written(tmp_path / "r", answer_line(before.asked[0], Reply("is", False, 1, 1), 0))
    same = prompted(tmp_path, "what", **second)
    with ResultsFile.open(tmp_path / "r", same.digests, resume=True) as results:
        assert results.done == {"a": 1}


ALIKE = [({"temperature": 0}, {"temperature": 0.0}), ({"stop": "is"}, {"stop": ["is"]})]


@pytest.mark.parametrize("bodies", ALIKE)
def test_a_setting_may_be_written_in_another_way(
    bodies: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    first, second = (prompted(tmp_path, "what", **body) for body in bodies)
    assert first.digests == second.digests
    assert first.digests != prompted(tmp_path, "what").digests


UNLIKE = [{"n": 2}, {"n": 10**400}, {"temperature": 0}, {"top_p": 0.5}, {"logprobs": 0}]


@pytest.mark.parametrize("body", [*UNLIKE, {"temperature": True}, {"stop": ["x"]}, {"what": 1}])
def test_what_is_no_default_is_a_change(body: dict[str, Any], tmp_path: Path) -> None:
    assert prompted(tmp_path, "what", **body).digests != prompted(tmp_path, "what").digests


@pytest.mark.parametrize(("name", "value"), [("id", "batch_1"), ("request_id", None)])
def test_answers_that_do_not_tell_what_they_answer_are_taken(
    name: str, value: str | None, tmp_path: Path
) -> None:
    line = answer_line(prompted(tmp_path, "what").asked[0], Reply("is", False, 1, 1), 0)
    row = json.loads(line)
    (row if name == "id" else row["response"])[name] = value
    (tmp_path / "r").write_text(text(json.dumps(row)))
    with ResultsFile.open(tmp_path / "r", prompted(tmp_path, "when").digests, resume=True) as rest:
        assert rest.done == {"a": 1}
