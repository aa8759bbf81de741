"""What a batch file's requests ask for, and what is refused because we cannot do it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_traces_openai import BAD as BAD_FOR_PLANNING
from test_traces_openai import lines, request, tokenizer

from blendsim.errors import InputError
from blendsim.traces import ReadOptions, encoded, load
from blendsim.traces.asked import Asked, BatchFile, Kind, digest_of, read_batch
from blendsim.traces.body_settings import HONOURED, IDLE, REFUSED
from blendsim.traces.openai_batch import OPENAI_BATCH


def chat(**body: Any) -> dict[str, Any]:
    return request("b", **({"messages": [{"role": "user", "content": "what"}]} | body))


def at(url: object, **body: Any) -> dict[str, Any]:
    return {"custom_id": "b", "url": url, "body": body}


def read_some(directory: Path, *rows: object, vocab: int | None = None) -> BatchFile:
    tokenizer(directory)
    return read_batch(lines(directory / "batch.jsonl", *rows), directory, vocab)


def read(directory: Path, *rows: object) -> BatchFile:
    tokenizer(directory)
    return read_batch(lines(directory / "batch.jsonl", *rows), directory, is_strict=True)


def asked(directory: Path, row: object) -> Asked:
    return read(directory, row).asked[0]


def test_a_request_that_says_nothing_asks_for_openais_defaults(tmp_path: Path) -> None:
    assert asked(tmp_path, chat()) == Asked("b", Kind.CHAT)
    assert Asked("b", Kind.CHAT) == Asked("b", Kind.CHAT, "", 1.0, 1.0, None, (), 0)


def test_nothing_is_as_good_as_left_out(tmp_path: Path) -> None:
    nothing = dict.fromkeys({*HONOURED, *IDLE, *REFUSED} - {"messages", "prompt", "input"})
    assert asked(tmp_path, chat(**nothing)) == Asked("b", Kind.CHAT)


def test_all_that_is_asked_is_kept(tmp_path: Path) -> None:
    row = chat(
        model="m",
        temperature=0,
        top_p=0.5,
        seed=-7,
        stop=["a", "\n"],
        max_tokens=9,
        n=1,
        user="u",
        metadata={"k": "v"},
    )
    assert asked(tmp_path, row) == Asked("b", Kind.CHAT, "m", 0.0, 0.5, -7, ("a", "\n"), 9)


def test_a_stop_text_may_stand_alone(tmp_path: Path) -> None:
    assert asked(tmp_path, chat(stop="END")).stop == ("END",)


KINDS = {
    "chat": (at("/v1/chat/completions", messages=[{"content": "what"}]), Kind.CHAT),
    "completion": (at("/v1/completions", prompt="what"), Kind.TEXT),
    "response": (at("https://host/v1/responses/", input="what"), Kind.RESPONSE),
    "messages": (at(None, messages=[{"content": "what"}]), Kind.CHAT),
    "prompt": (at("", prompt=[1, 2]), Kind.TEXT),
    "input": (at(None, input=[{"type": "message", "content": "what"}]), Kind.RESPONSE),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_follows_from_the_url_or_else_from_the_prompt(name: str, tmp_path: Path) -> None:
    row, kind = KINDS[name]
    assert asked(tmp_path, row).kind == kind


def test_the_workload_is_the_readers_and_rows_agree(tmp_path: Path) -> None:
    rows = [
        request("x", messages=[{"role": "user", "content": "what is"}], max_tokens=3),
        at("/v1/completions", prompt="a prefix", seed=5),
        at("/v1/responses", input=[{"content": "is a suffix"}]) | {"custom_id": "z"},
    ]
    batch = read(tmp_path, *rows)
    plain = OPENAI_BATCH.read(tmp_path / "batch.jsonl", ReadOptions(tokenizer=str(tmp_path)))
    assert [one.custom_id for one in batch.asked] == batch.workload.ids.tolist() == ["x", "b", "z"]
    assert [one.limit for one in batch.asked] == batch.workload.output_limit.tolist() == [3, 0, 0]
    assert [one.seed for one in batch.asked] == [None, 5, None]
    batch.workload.check()
    assert batch.workload.notes == plain.notes
    assert batch.workload.origin == plain.origin
    for column in ("ids", "prompt_len", "output_limit", "has_output", "arrival", "source"):
        assert np.array_equal(getattr(batch.workload, column), getattr(plain, column))
    for column in ("offsets", "units", "space", "unit_tokens"):
        ours, theirs = batch.workload.prompts, plain.prompts
        assert np.array_equal(getattr(ours, column), getattr(theirs, column))
    assert batch.workload.prompts.space_names == plain.prompts.space_names


IMAGE = [{"type": "text", "text": "what"}, {"type": "image_url", "image_url": {"url": "u"}}]
PLANNED = {  # may be planned, cannot be answered
    "best_of": (chat(best_of=2), "body.best_of': 2 cannot be done, one answer"),
    "echo": (at(None, prompt="is", echo=True), "body.echo': True cannot be done"),
    "suffix": (at(None, prompt="is", suffix="x"), "body.suffix': 'x' cannot be done"),
    "stream": (chat(stream=True), "body.stream': True cannot be done"),
    "logprobs": (chat(logprobs=True), "body.logprobs': True cannot be done, probabilities"),
    "no logprobs": (at(None, prompt="is", logprobs=0), "body.logprobs': 0 cannot be done"),
    "top_logprobs": (chat(top_logprobs=2), "body.top_logprobs': 2 cannot be done"),
    "tools": (chat(tools=[{"type": "function"}]), "body.tools': .* tools cannot be called"),
    "tool_choice": (chat(tool_choice="required"), "body.tool_choice': 'required' cannot"),
    "functions": (chat(functions=[{"name": "f"}]), "body.functions': .* tools cannot"),
    "function_call": (chat(function_call={"name": "f"}), "body.function_call': .* cannot"),
    "json": (chat(response_format={"type": "json_object"}), "body.response_format': .* no set"),
    "schema": (
        chat(response_format={"type": "json_schema", "json_schema": {}}),
        "body.response_format': .* no set shape",
    ),
    "text schema": (
        at(None, input="is", text={"format": {"type": "json_schema"}}),
        "body.text': .* no set shape",
    ),
    "frequency": (chat(frequency_penalty=0.5), "body.frequency_penalty': 0.5 cannot"),
    "presence": (chat(presence_penalty=-1), "body.presence_penalty': -1 cannot"),
    "penalty's type": (chat(presence_penalty="0"), "body.presence_penalty': '0' cannot"),
    "logit_bias": (chat(logit_bias={"5": 1}), "body.logit_bias': {'5': 1} cannot"),
    "modalities": (chat(modalities=["text", "audio"]), "body.modalities': .* answers are text"),
    "audio": (chat(audio={"voice": "x"}), "body.audio': .* answers are text"),
    "effort": (chat(reasoning_effort="low"), "body.reasoning_effort': 'low' cannot be done"),
    "reasoning": (at(None, input="is", reasoning={"effort": "low"}), "body.reasoning': .* cannot"),
    "verbosity": (chat(verbosity="low"), "body.verbosity': 'low' cannot be done"),
    "include": (at(None, input="is", include=["x"]), r"body.include': \['x'\] cannot"),
    "background": (at(None, input="is", background=True), "body.background': True cannot"),
    "conversation": (at(None, input="is", conversation="c"), "body.conversation': 'c' cannot"),
    "previous": (
        at(None, input="is", previous_response_id="r"),
        "body.previous_response_id': 'r' cannot be done, answers to earlier",
    ),
    "truncation": (at(None, input="is", truncation="auto"), "body.truncation': 'auto' cannot"),
    "web": (chat(web_search_options={}), "body.web_search_options': {} cannot"),
    "unknown": (chat(top_k=5), "body.top_k': is no setting that is known; remove it"),
    "image": (
        chat(messages=[{"content": IMAGE}]),
        "body': the prompt has parts that are not text .*remove the row",
    ),
    "call": (
        at(None, input=[{"type": "function_call", "name": "f"}]),
        "body.input': an item of type 'function_call' is no message",
    ),
    "url": (at("/v1/images", prompt="is"), "url': '/v1/images' is no endpoint .*/v1/responses"),
    "url's type": (at(5, prompt="is"), "url': 5 is no endpoint"),
    "url of another": (
        at("/v1/completions", messages=[{"content": "is"}]),
        "url': '/v1/completions' takes body.prompt, not body.messages",
    ),
    "url of text": (
        at("/v1/chat/completions", prompt="is"),
        "url': '/v1/chat/completions' takes body.messages, not body.prompt",
    ),
    "model": (chat(model=5), "body.model': 5 is not a name"),
    "template settings": (
        chat(chat_template_kwargs=["x"]),
        "body.chat_template_kwargs': .* is not settings",
    ),
    "reserved": (
        chat(chat_template_kwargs={"tools": []}),
        "body.chat_template_kwargs': .* called add_generation_prompt, documents, messages, tools",
    ),
    "hot": (chat(temperature=2.1), "body.temperature': 2.1 is not a number from 0 to 2"),
    "cold": (chat(temperature=-0.1), "body.temperature': -0.1 is not a number from 0 to 2"),
    "no temperature": (chat(temperature=float("nan")), "body.temperature': nan is not"),
    "true temperature": (chat(temperature=True), "body.temperature': True is not"),
    "text temperature": (chat(temperature="1"), "body.temperature': '1' is not"),
    "no mass": (chat(top_p=0), "body.top_p': 0 is not a number from above 0 to 1"),
    "much mass": (chat(top_p=1.5), "body.top_p': 1.5 is not"),
    "text mass": (chat(top_p=[]), r"body.top_p': \[\] is not"),
    "text limit": (
        chat(max_tokens="5"),
        "body.max_tokens': '5' is a text; give a whole number of tokens",
    ),
    "text limit behind another": (
        chat(max_completion_tokens=5, max_tokens="7"),
        "body.max_tokens': '7' is a text",
    ),
    "seed": (chat(seed=1.5), "body.seed': 1.5 is not a whole number of 64 bits"),
    "true seed": (chat(seed=True), "body.seed': True is not"),
    "long seed": (chat(seed=2**63), "body.seed': 9223372036854775808 is not"),
    "stops": (chat(stop=list("abcde")), "body.stop': 5 texts; give at most 4"),
    "empty stop": (chat(stop=""), "body.stop': '' is neither"),
    "empty stop in a list": (chat(stop=["a", ""]), "body.stop': .* is neither"),
    "stop's type": (chat(stop={"a": 1}), "body.stop': {'a': 1} is neither"),
}


@pytest.mark.parametrize("kind", PLANNED)
def test_what_cannot_be_answered_is_refused_and_may_be_planned(kind: str, tmp_path: Path) -> None:
    row, message = PLANNED[kind]
    with pytest.raises(InputError, match=rf"batch\.jsonl, line 2, column '{message}") as raised:
        read(tmp_path, chat() | {"custom_id": "a"}, row)
    assert "\n" not in str(raised.value)
    assert len(load(str(tmp_path / "batch.jsonl"))) == 2


@pytest.mark.parametrize("kind", PLANNED)
def test_the_others_are_read_and_keep_their_order(kind: str, tmp_path: Path) -> None:
    row, message = PLANNED[kind]
    rows = (chat() | {"custom_id": "z"}, row, chat() | {"custom_id": "a"})
    batch = read_some(tmp_path, *rows)
    assert batch.workload.ids.tolist() == [each.custom_id for each in batch.asked] == ["z", "a"]
    ((line, custom_id, why, _),) = batch.refused
    assert (line, custom_id, len(batch)) == (2, row["custom_id"], 3)
    assert list(batch.digests) == ["z", "a", "b"]
    assert re.match(rf"line 2, column '{message}", why)


def test_a_batch_of_nothing_that_can_be_answered_is_a_batch(tmp_path: Path) -> None:
    batch = read_some(tmp_path, chat(tools=[1]), chat(n=2) | {"custom_id": "a"})
    batch.workload.check()
    assert (len(batch.workload), batch.asked, list(batch.digests)) == (0, (), ["b", "a"])
    assert [line for line, *_ in batch.refused] == [1, 2]


NAMELESS = {
    "not JSON": ("{", "line 2: is not JSON"),
    "NUL bytes": ("\0\0", "line 2: is not JSON .*it has NUL bytes, probably a damaged copy"),
    "no object": ([1], "line 2: .* is not a JSON object"),
    "no id": ({"body": {"prompt": "what"}}, "line 2, column 'custom_id': nothing is not a name"),
    "an id of no text": (chat() | {"custom_id": 3}, "line 2, column 'custom_id': 3 is not a name"),
    "an id twice": (chat(tools=[1]), "line 2, column 'custom_id': 'b' was given before in line 1"),
}


@pytest.mark.parametrize("kind", NAMELESS)
def test_a_line_that_no_result_could_name_is_no_batchs(kind: str, tmp_path: Path) -> None:
    row, message = NAMELESS[kind]
    tokenizer(tmp_path)
    path = lines(tmp_path / "batch.jsonl", chat())
    with path.open("a") as file:
        file.write(f"{row if isinstance(row, str) else json.dumps(row)}\n")
    with pytest.raises(InputError, match=message):
        read_batch(path, tmp_path)


def test_ids_that_the_model_has_not_are_that_lines_fault(tmp_path: Path) -> None:
    rows = [at(None, prompt=ids) | {"custom_id": str(ids)} for ids in ([1, 4], [1, 5], [2])]
    batch = read_some(tmp_path, *rows, vocab=5)
    assert batch.workload.ids.tolist() == ["[1, 4]", "[2]"]
    assert batch.refused[0].why == (
        "line 2, column 'body': token id 5 is beyond the model's vocabulary of 5; give ids of this "
        "model, or the prompt as text"
    )


def test_a_text_without_tokens_is_that_lines_fault(tmp_path: Path) -> None:
    batch = read_some(
        tmp_path,
        chat(tools=[1]) | {"custom_id": "a"},
        at(None, prompt=" "),
        chat() | {"custom_id": "c"},
    )
    assert [each.custom_id for each in batch.refused] == ["a", "b"]
    with pytest.raises(InputError, match=r"batch\.jsonl, line 1: the tokenizer makes no tokens"):
        read(tmp_path, at(None, prompt=" "))
    assert (
        batch.refused[1].why
        == "line 2: the tokenizer makes no tokens of the prompt; remove the row"
    )
    assert batch.workload.ids.tolist() == ["c"]


def test_it_is_told_how_many_prompts_are_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded, "CHUNK", 2)
    tokenizer(tmp_path)
    rows = [
        chat(messages=[{"role": "user", "content": f"what {i // 2}"}]) | {"custom_id": str(i)}
        for i in range(10)
    ]
    said: list[str] = []
    path = lines(tmp_path / "batch.jsonl", *rows)
    assert len(read_batch(path, tmp_path, say=said.append).asked) == 10
    assert said == [f"{share} % of 5 prompts made into tokens" for share in (40, 80, 100)]


def test_every_setting_that_is_refused_is_refused_above() -> None:
    named = {message.split("'")[0].removeprefix("body.") for _, message in PLANNED.values()}
    assert set(REFUSED) <= named


@pytest.mark.parametrize("kind", BAD_FOR_PLANNING)
def test_what_cannot_be_planned_cannot_be_answered(kind: str, tmp_path: Path) -> None:
    row, message = BAD_FOR_PLANNING[kind]
    with pytest.raises(InputError, match=rf"batch\.jsonl, line 2.*{message}"):
        read(tmp_path, at(None, prompt="what") | {"custom_id": "good"}, row)


@pytest.mark.parametrize("name", REFUSED)
def test_a_value_that_asks_for_nothing_is_no_reason_to_refuse(name: str, tmp_path: Path) -> None:
    rows = [
        chat(**{name: value}) | {"custom_id": str(i)}
        for i, value in enumerate((None, *REFUSED[name][1]))
    ]
    assert len(read(tmp_path, *rows).asked) == len(rows)


def test_a_setting_has_one_fate() -> None:
    assert len(HONOURED | IDLE | set(REFUSED)) == len(HONOURED) + len(IDLE) + len(REFUSED)


@pytest.mark.parametrize(
    "text",
    [
        "prompt_tokens,response_tokens\n1,2\n",
        '{"a": 1}\n',
        "x\n",
        '{"custom_id": "a", "prompt": "x"}\n',
        '{"id": 1, "messages": []}\n',
        '{"input_tokens": 1, "output_tokens": 2}\n',
    ],
)
def test_a_file_of_another_format_is_refused(text: str, tmp_path: Path) -> None:
    tokenizer(tmp_path)
    (tmp_path / "t").write_text(text)
    with pytest.raises(InputError, match=r"is no OpenAI batch file .*custom_id,body.*; write"):
        read_batch(tmp_path / "t", tmp_path)


def test_settings_of_a_chat_template_reach_it(tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="the tokenizers extra is not installed")
    template = "{% if think %}what{% else %}is a{% endif %}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    rows = [chat(chat_template_kwargs={"think": True}), chat() | {"custom_id": "c"}]
    assert read(tmp_path, *rows).workload.prompts.units.tolist() == [1, 2, 3]


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=8,
)
_NAMES = st.sampled_from(sorted(HONOURED | IDLE | set(REFUSED))) | st.text(max_size=5)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=st.dictionaries(_NAMES, _VALUES, max_size=3), url=st.none() | _VALUES)
def test_any_body_is_read_or_refused_in_one_line(
    tmp_path: Path, body: dict[str, Any], url: object
) -> None:
    row = chat(**body) | {"url": url}
    try:
        batch = read(tmp_path, row)
    except InputError as error:
        message = str(error)
        assert "batch.jsonl" in message
        assert "\n" not in message
        return
    batch.workload.check()
    one = batch.asked[0]
    assert 0 <= one.temperature <= 2
    assert 0 < one.top_p <= 1
    assert all(one.stop)
    assert len(one.stop) <= 4


def test_a_request_to_another_endpoint_is_another_request() -> None:
    """What it asks for is told by its url, too."""
    row = request("a", prompt="x", max_tokens=5)
    other = row | {"url": "/v1/completions"}
    assert digest_of(row) != digest_of(other)
    assert digest_of(row) == digest_of(dict(reversed(row.items())))
