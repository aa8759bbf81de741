"""Tools, calls of them, and content in parts: what vLLM writes of them counts in prompts."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_traces_chat import USER, ids, model, read, text, theirs
from test_traces_openai import lines, prompt, request

from blendsim.errors import InputError
from blendsim.prefix import shareable_tokens, sort_prompts
from blendsim.traces import ReadOptions, load
from blendsim.traces.chat import ModelChat, chat_of
from blendsim.traces.tool_calls import tools_of, with_calls

pytest.importorskip("jinja2", reason="the tokenizers extra is not installed")
__all__ = ["theirs"]  # a fixture

CALLING = """\
{%- if tools %}
    {{- '<|start|>tools\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson + '\\n' }}
    {%- endfor %}
    {{- '<|eot|>' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|start|>' + message.role + '\\n' + message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '<' + call.function.name + '>' }}
        {%- for name, value in call.function.arguments | items %}
            {{- name + '=' + value | string + ';' }}
        {%- endfor %}
    {%- endfor %}
    {{- '<|eot|>' }}
{%- endfor %}
{{- '<|start|>assistant\\n' }}
"""
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "What it is like – now.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"town": 5}'}}
TURNS = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "wet"},
]


def test_tools_are_written_as_transformers_writes_them(tmp_path: Path, theirs: Any) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    directory = model(tmp_path, CALLING)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(directory))
    expected = tokenizer.apply_chat_template(
        [USER], tools=[WEATHER], add_generation_prompt=True, return_dict=False
    )
    assert ids(read(directory, request("a", messages=[USER], tools=[WEATHER])), 0) == expected
    for none in (None, []):
        workload = read(directory, request("a", messages=[USER], tools=none))
        assert ids(workload, 0) == theirs(directory, [USER])


def test_requests_with_the_same_tools_share_them(tmp_path: Path) -> None:
    directory = model(tmp_path, CALLING)
    chats = [[{"role": "user", "content": f"{k} and more"}] for k in range(3)]
    with_tools = read(
        directory, *(request(f"{k}", messages=chats[k], tools=[WEATHER]) for k in range(3))
    )
    without = read(directory, *(request(f"{k}", messages=chats[k]) for k in range(3)))
    shared, before = (shareable_tokens(each, sort_prompts(each)) for each in (with_tools, without))
    assert shared - before == 2 * (with_tools.prompt_len[0] - without.prompt_len[0])


def test_a_models_template_for_tools_is_theirs_alone(tmp_path: Path) -> None:
    several = [
        {"name": "default", "template": "plain {{ think }}"},
        {"name": "tool_use", "template": "{{ tools | length }} tools {{ think }}"},
    ]
    rows = [
        request("a", messages=[USER], tools=[WEATHER], chat_template_kwargs={"think": "yes"}),
        request("b", messages=[USER], chat_template_kwargs={"think": "no"}),
    ]
    listed = model(tmp_path, several)
    assert [text(listed, read(listed, *rows), row) for row in (0, 1)] == ["1 tools yes", "plain no"]
    filed = model(tmp_path, several[0]["template"])
    (filed / "additional_chat_templates").mkdir()
    (filed / "additional_chat_templates/tool_use.jinja").write_text(
        several[1]["template"] + "{{ strftime_now('') }}"
    )
    workload = read(filed, *rows)
    assert [text(filed, workload, row) for row in (0, 1)] == ["1 tools yes", "plain no"]
    assert any("tool_use.jinja: the chat template can write the date" in n for n in workload.notes)


def test_the_plain_template_writes_tools_and_calls_as_json(tmp_path: Path) -> None:
    batch = lines(
        tmp_path / "batch.jsonl",
        request("a", messages=TURNS, tools=[WEATHER]),
        request("b", input="Hi", tools=[{"type": "function", **WEATHER["function"]}]),
        request("c", input="Hi", tools=[]),
    )
    workload = load(str(batch))
    tools = f"<|tools|>\n{json.dumps([WEATHER], ensure_ascii=False)}\n"
    call = CALL | {"function": {"name": "weather", "arguments": {"town": 5}}}
    assert prompt(workload, 0).decode() == (
        f"{tools}<|user|>\n{USER['content']}\n<|assistant|>\n\n{json.dumps([call])}\n"
        "<|tool|>\nwet\n<|assistant|>\n"
    )
    assert prompt(workload, 1).decode() == f"{tools}<|user|>\nHi\n<|assistant|>\n"
    assert prompt(workload, 2) == b"Hi"


def test_functions_have_the_keys_that_vllm_gives_them() -> None:
    given = [
        {"function": {"strict": True, "parameters": {}, "name": "f"}, "type": "function"},
        {"type": "function", "name": "f", "strict": True, "parameters": {}},
        {"type": "web_search"},
        5,
    ]
    full = {"name": "f", "description": None, "parameters": {}, "strict": True}
    function = {"type": "function", "function": full}
    made = tools_of({"tools": given}, "here")
    assert json.dumps(made) == json.dumps([function, function, {"type": "web_search"}, 5])
    assert tools_of({}, "here") == tools_of({"tools": None}, "here") == []


def test_tools_that_are_no_list_are_refused(tmp_path: Path) -> None:
    batch = lines(tmp_path / "batch.jsonl", request("a", messages=[USER], tools="weather"))
    with pytest.raises(InputError, match=r"line 1, column 'body\.tools': 'weather' is not a list"):
        load(str(batch))


def test_arguments_are_objects_for_the_template(tmp_path: Path) -> None:
    directory = model(tmp_path, CALLING)
    workload = read(directory, request("a", messages=TURNS, tools=[WEATHER]))
    assert "<|start|>assistant\n<weather>town=5;<|eot|><|start|>tool\nwet<|eot|>" in text(
        directory, workload, 0
    )


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ('{"a": [1]}', {"a": [1]}),
        ("", {}),
        (" ", {}),
        ("{", "{"),
        ("[1]", "[1]"),
        ("5", "5"),
        ("[" * 100_000, "[" * 100_000),
        ({"a": 1}, {"a": 1}),
        (None, None),
    ],
)
def test_arguments_that_are_no_object_stay_as_they_are(given: object, made: object) -> None:
    message = {"tool_calls": [{"function": {"name": "f", "arguments": given}}]}
    assert with_calls(message) == {"tool_calls": [{"function": {"name": "f", "arguments": made}}]}
    assert message["tool_calls"][0]["function"]["arguments"] == given, "the row is not changed"


def test_calls_that_are_none_are_not_there() -> None:
    for calls in (None, []):
        assert with_calls({"content": "x", "tool_calls": calls}) == {"content": "x"}
    for calls in (["f"], [{"function": "f"}], "f"):
        assert with_calls({"tool_calls": calls}) == {"tool_calls": calls}


PARTS = {
    "a loop over content": (
        "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}",
        True,
    ),
    "by item": (
        "{% for m in messages %}{% for p in m['content'] %}{{ p }}{% endfor %}{% endfor %}",
        True,
    ),
    "through names, filters and slices": (
        "{% set rest = messages[1:] %}{% set chats = rest | list %}"
        "{% for m in chats | list %}{% for p in m.content | list %}{{ p }}{% endfor %}{% endfor %}",
        True,
    ),
    "where content is no text": (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}",
        True,
    ),
    "content alone": ("{% for m in messages %}{{ m.content }}{% endfor %}", False),
    "a loop over calls": (
        "{% for m in messages %}{% for c in m.tool_calls %}{{ c }}{% endfor %}{% endfor %}",
        False,
    ),
    "the content of something else": (
        "{% for m in tools %}{% for p in m.content %}{{ p }}{% endfor %}{% endfor %}",
        False,
    ),
    "in a macro, which vLLM does not see": (
        "{% macro say(content) %}{% for p in content %}{{ p }}{% endfor %}{% endmacro %}"
        "{% for m in messages %}{{ say(m.content) }}{% endfor %}",
        False,
    ),
    "another item": (
        "{% for m in messages %}{% for p in m[0] %}{{ p }}{% endfor %}{% endfor %}",
        False,
    ),
    "several targets": ("{% for a, b in messages %}{{ a }}{% endfor %}", False),
    "no loop": ("{% set messages = messages %}{{ messages[0].content }}", False),
}


@pytest.mark.parametrize("kind", PARTS)
def test_a_template_takes_parts_where_it_loops_over_content(kind: str, tmp_path: Path) -> None:
    template, takes_parts = PARTS[kind]
    chat = chat_of(str(model(tmp_path, template)))
    assert isinstance(chat, ModelChat)
    assert chat.takes_parts is takes_parts


def test_parts_reach_a_template_that_takes_them(tmp_path: Path) -> None:
    parts = [{"type": "input_text", "text": "a"}, "b", {"type": "image_url", "image_url": {}}]
    template = (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for part in m.content %}[{{ part.type }} {{ part.text }}]{% endfor %}{% endif %}"
        "|{% endfor %}"
    )
    directory = model(tmp_path, template)
    chat = [{"content": parts}, {"content": "c"}, {"role": "tool", "content": parts[:2]}]
    workload = read(directory, request("a", messages=chat))
    assert text(directory, workload, 0) == "[text a][text b]|c|a\nb|"
    assert any("parts of 1 request are not text" in note for note in workload.notes)


def test_parts_are_lines_of_one_text_elsewhere(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "a"}, "b"]
    batch = lines(tmp_path / "batch.jsonl", request("a", messages=[{"content": parts}]))
    assert prompt(load(str(batch), ReadOptions()), 0) == b"<|user|>\na\nb\n<|assistant|>\n"
