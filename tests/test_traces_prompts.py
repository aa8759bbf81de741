"""Plain lines with a prompt each, as far as they differ from an OpenAI batch's."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_traces_openai import prompt, request, tokenizer

from blendsim.errors import InputError
from blendsim.request import Workload
from blendsim.traces import ReadOptions, load
from blendsim.traces.load import format_of


def read(directory: Path, *rows: object, **options: Any) -> Workload:
    path = directory / "log"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load(str(path), ReadOptions(**options))


def test_plain_lines_read_as_the_bodies_of_a_batch(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hi"}]
    bodies: list[dict[str, Any]] = [
        {"messages": chat, "max_tokens": 7},
        {"prompt": "What?", "max_completion_tokens": 8},
        {"prompt": [5, 6], "max_output_tokens": 9},
        {"prompt": chat},
    ]
    batch = read(tmp_path, *(request(str(i), **body) for i, body in enumerate(bodies)))
    plain = read(tmp_path, *(body | {"id": str(i)} for i, body in enumerate(bodies)))
    for name in ("ids", "prompt_len", "output_limit", "has_output", "output_len", "arrival"):
        assert getattr(plain, name).tolist() == getattr(batch, name).tolist()
    assert [prompt(plain, row) for row in range(4)] == [prompt(batch, row) for row in range(4)]
    assert plain.notes == batch.notes
    assert plain.prompts.space_names == batch.prompts.space_names


def test_a_tokenizer_counts_as_for_a_batch(tmp_path: Path) -> None:
    made = tokenizer(tmp_path)
    workload = read(tmp_path, {"prompt": "what is a prefix"}, tokenizer=str(made))
    assert workload.prompt_len.tolist() == [4]


def test_ids_are_of_three_names_or_the_line(tmp_path: Path) -> None:
    rows = [{"id": "a"}, {"custom_id": "b", "id": "x"}, {"request_id": 7}, {}, {"id": None}]
    workload = read(tmp_path, *(row | {"prompt": "x"} for row in rows))
    assert workload.ids.tolist() == ["a", "b", "7", "4", "5"]


def test_output_lengths_are_the_truth_where_they_are_given(tmp_path: Path) -> None:
    rows = [{"output_tokens": 3}, {"output_len": 4}, {}, {"output_tokens": None}]
    workload = read(tmp_path, *(row | {"prompt": "x"} for row in rows))
    assert workload.output_len.tolist() == [3, 4, 0, 0]
    assert workload.has_output.tolist() == [True, True, False, False]
    assert "2 of 4 requests have no output length" in workload.notes[-1]


def test_what_is_null_is_not_there(tmp_path: Path) -> None:
    workload = read(tmp_path, {"messages": None, "prompt": "abc", "n": None})
    assert prompt(workload, 0) == b"abc"


def test_results_of_an_earlier_run_fit_by_id(tmp_path: Path) -> None:
    body = {"usage": {"completion_tokens": 11}}
    results = tmp_path / "results.jsonl"
    results.write_text(json.dumps({"custom_id": "a", "response": {"body": body}}) + "\n")
    workload = read(tmp_path, {"id": "a", "prompt": "x"}, {"prompt": "y"}, lengths=results)
    assert workload.output_len.tolist() == [11, 0]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"custom_id": "a", "body": {"prompt": "x"}}, "openai-batch"),
        ({"custom_id": "a", "prompt": "x"}, "prompts-jsonl"),
        ({"prompt": "x", "input_tokens": 1, "output_tokens": 2}, "prompts-jsonl"),
        ({"prompt": "x", "input_length": 1, "output_length": 2}, "prompts-jsonl"),
        (
            {"prompt": "x", "input_length": 1, "output_length": 2, "timestamp": 3},
            "mooncake-jsonl",
        ),
    ],
)
def test_the_first_line_tells(tmp_path: Path, row: dict[str, object], name: str) -> None:
    path = tmp_path / "log"
    path.write_text(json.dumps(row) + "\n")
    assert format_of(path).name == name


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": "a", "prompt": "x"}, "line 2, column 'id': 'a' was given before in line 1"),
        ({"id": "1", "prompt": ""}, "line 2: the prompt is empty; remove"),
        ({"id": [], "prompt": "x"}, r"line 2, column 'id': \[\] is not a name; give a text"),
        ({"id": True, "prompt": "x"}, "line 2, column 'id': True is not a name"),
        ({"id": "", "prompt": "x"}, "line 2, column 'id': '' is not a name"),
        ({"text": "x"}, "line 2, column 'prompt': nothing is neither .*; give messages or prompt"),
        ({"input": "x"}, "line 2, column 'prompt': nothing is neither"),
        ({"prompt": 5}, "line 2, column 'prompt': 5 is neither text"),
        ({"prompt": ["a", "b"]}, "line 2, column 'prompt': .* of one prompt; give"),
        ({"messages": "x"}, "line 2, column 'messages': 'x' is not a list of messages"),
        ({"prompt": "x", "n": 2}, "line 2, column 'n': 2 answers of one request"),
        ({"prompt": "x", "n": True}, "line 2, column 'n': True answers of one request"),
        ({"prompt": "x", "max_tokens": "many"}, "line 2, column 'max_tokens': 'many' is not a num"),
        ({"prompt": "x", "output_len": 0}, "line 2, column 'output_len': 0 is zero: nothing was"),
        (
            {"prompt": "x", "output_len": 1, "output_tokens": 2},
            "line 2: columns 'output_len' and 'output_tokens' could both be the length",
        ),
        (7, "line 2: 7 is not a JSON object"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, row: object, words: str) -> None:
    with pytest.raises(InputError, match=f"log, {words}") as caught:
        read(tmp_path, {"id": "a", "prompt": "x"}, row)
    assert "\n" not in str(caught.value)
