"""Conversations of ShareGPT: the first question is the prompt, its answer's tokens the output."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_traces_openai import tokenizer

from blendsim.errors import InputError
from blendsim.request import Workload
from blendsim.traces import ReadOptions, load


def talk(*texts: str, **more: Any) -> dict[str, Any]:
    speakers = ("human", "gpt") * len(texts)
    turns = [{"from": who, "value": text} for who, text in zip(speakers, texts, strict=False)]
    return {"conversations": turns, **more}


def read(path: Path, rows: list[Any], indent: int | None = None, **options: Any) -> Workload:
    file = path / "talks.json"
    file.write_text(json.dumps(rows, indent=indent))
    return load(str(file), ReadOptions(**options))


def test_first_question_and_its_answer_are_the_request(tmp_path: Path) -> None:
    rows = [
        talk("what is a prefix", "a prefix is", "what is", "a", id="a_0"),
        talk("what is", "a", id="a_1"),
    ]
    workload = read(tmp_path, rows, tokenizer=str(tokenizer(tmp_path)))
    words = read(tmp_path, [talk("a", "a")], tokenizer=str(tokenizer(tmp_path)))
    around = int(words.prompt_len[0]) - 1  # tokens that the tokenizer puts around a prompt
    assert workload.ids.tolist() == ["a_0", "a_1"]
    assert workload.prompt_len.tolist() == [4 + around, 2 + around]
    assert workload.output_len.tolist() == [3, 1]
    assert workload.has_output.all()
    assert workload.notes == ()


@pytest.mark.parametrize("indent", [None, 2])
def test_array_and_lines_are_one(indent: int | None, tmp_path: Path) -> None:
    rows = [talk("Hi there", "Hello"), talk("Hi you", "Ho")]
    array = read(tmp_path, rows, indent)
    lines = tmp_path / "talks.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = load(str(lines))
    assert array.prompt_len.tolist() == other.prompt_len.tolist() == [8, 6]
    assert array.output_len.tolist() == other.output_len.tolist() == [5, 2]
    assert array.prompts.units.tolist() == other.prompts.units.tolist()
    assert any("answers are counted as prompts are" in note for note in array.notes)


def test_equal_beginnings_are_shared(tmp_path: Path) -> None:
    workload = read(tmp_path, [talk("Say: yes", "Y"), talk("Say: no", "N")])
    first, second = (workload.prompts.units[a:b] for a, b in ((0, 8), (8, 15)))
    assert first[:5].tolist() == second[:5].tolist()
    assert first[5] != second[5]


def test_conversations_without_an_answer_are_left_out(tmp_path: Path) -> None:
    rows = [talk("Hi"), talk("Hi", "Ho"), talk("", "Ho"), talk("Hi", ""), talk()]
    workload = read(tmp_path, rows)
    assert workload.output_len.tolist() == [2]
    assert any("4 of 5 conversations have no question" in note for note in workload.notes)


@pytest.mark.parametrize("ids", [["x", "x"], ["x", None], ["", "y"], [1, 2]])
def test_ids_that_are_not_names_of_their_own_give_way_to_numbers(
    ids: list[Any], tmp_path: Path
) -> None:
    workload = read(tmp_path, [talk("Hi", "Ho", id=name) for name in ids])
    assert workload.ids.tolist() == ["1", "2"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([talk("Hi")], "talks.json: "),
        ([talk("Hi", "Ho"), 5], "talks.json, conversation 2: 5 is not a JSON object"),
        ([{"conversations": "Hi"}], "conversation 1, column 'conversations': 'Hi' is not a list"),
        ([{"conversations": [5]}], "conversation 1, column 'conversations': 5 is not a turn"),
        ([{"conversations": [{"from": "human"}]}], "is not a turn with a text under 'value'"),
    ],
)
def test_what_is_wrong_is_named(rows: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, rows)


def test_broken_array_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "talks.json"
    path.write_text(json.dumps([talk("Hi", "Ho")], indent=1)[:-3])
    said = r"talks\.json: is not JSON \(.*line \d+, character \d+\); mend the file"
    with pytest.raises(InputError, match=said):
        load(str(path))


def test_other_arrays_are_told_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"input_tokens": 5, "output_tokens": 2}]')
    with pytest.raises(InputError, match="a JSON array; write JSON Lines"):
        load(str(path))
