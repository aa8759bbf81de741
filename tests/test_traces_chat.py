"""Chats by a model's own template: the same tokens as `transformers` makes of them."""

import json
import re
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from test_traces_openai import lines, request

from blendsim.errors import InputError, Unavailable
from blendsim.request import Workload
from blendsim.traces import ReadOptions, load
from blendsim.traces.chat import ModelChat, PlainChat, chat_of

pytest.importorskip("jinja2", reason="the tokenizers extra is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="the tokenizers extra is not installed")

LLAMA = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start|>system<|end|>\\n\\n" + system + "<|eot|>" }}
{%- for message in messages %}
    {{- '<|start|>' + message['role'] + '<|end|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|end|>\\n\\n' }}
{%- endif %}
"""
CHATML = """\
{% for message in messages %}
    {% if message.tool_calls is defined and not tools %}
{{ message.tool_calls | tojson }}
        {% continue %}
    {% endif %}
{{ '<|start|>' + message['role'] + '\\n' + message['content'] + '<|eot|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|start|>assistant\\n' }}
{% endif %}
"""
STRICT = """\
{{ bos_token }}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate\\nuser/assistant') }}
{% endif %}
{% if message['role'] == 'user' %}
[I] {{ message['content'] }} [/I]
{% else %}
{% generation %} {{ message['content'] }}{{ eos_token }}{% endgeneration %}
{% endif %}
{% endfor %}
"""
TEMPLATES = {"llama": LLAMA, "chatml": CHATML, "strict": STRICT}
SPECIAL = {"bos_token": "<|bos|>", "eos_token": "<|eot|>"}
MARKS = ["<|bos|>", "<|eot|>", "<|start|>", "<|end|>"]

USER = {"role": "user", "content": "  What's <b>5 & 7</b>?\n"}
REPLY = {"role": "assistant", "content": "Twelve – naïve 🙂."}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"name": "add", "of": ["é", "<"]}]}
CHATS = {
    "question": [USER],
    "turns": [USER, REPLY, USER],
    "system": [{"role": "system", "content": " Be brief. "}, USER],
    "call": [USER, CALL, {"role": "tool", "content": "12"}],
    "marks": [{"role": "user", "content": "say <|bos|> or <|eot|>"}],
}


def model(directory: Path, template: object = None, **config: Any) -> Path:
    """A model's directory with a byte tokenizer that puts <|bos|> before a text."""
    bytes_of = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {piece: i for i, piece in enumerate(sorted(bytes_of))}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(MARKS)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", made.token_to_id("<|bos|>"))]
    )
    made.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **SPECIAL, **config}
    if template is not None:
        settings["chat_template"] = template
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def read(directory: Path, *rows: object) -> Workload:
    batch = lines(directory / "batch.jsonl", *rows)
    return load(str(batch), ReadOptions(tokenizer=str(directory)))


def ids(workload: Workload, row: int) -> list[int]:
    prompts = workload.prompts
    return prompts.units[prompts.offsets[row] : prompts.offsets[row + 1]].tolist()


def text(directory: Path, workload: Workload, row: int) -> str:
    made = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    return made.decode(ids(workload, row), skip_special_tokens=False)


@pytest.fixture(scope="module")
def theirs() -> Callable[[Path, list[dict[str, Any]]], list[int] | None]:
    """`transformers`' tokens of a chat, None if its template raises."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from jinja2 import TemplateError

    def made(directory: Path, messages: list[dict[str, Any]]) -> list[int] | None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(directory))
        try:
            return tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except TemplateError:
            return None

    return made


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_tokens_are_those_of_transformers(
    name: str, chat: str, tmp_path: Path, theirs: Callable[..., list[int] | None]
) -> None:
    directory = model(tmp_path, TEMPLATES[name])
    expected = theirs(directory, CHATS[chat])
    if expected is None:
        with pytest.raises(InputError, match="Roles must alternate"):
            read(directory, request("a", messages=CHATS[chat]))
    else:
        assert ids(read(directory, request("a", messages=CHATS[chat])), 0) == expected


def test_some_chats_of_the_strict_template_raise_and_some_do_not(
    tmp_path: Path, theirs: Callable[..., list[int] | None]
) -> None:
    directory = model(tmp_path, STRICT)
    raises = {name for name, chat in CHATS.items() if theirs(directory, chat) is None}
    assert raises == {"system", "call"}


FORMS = {
    "a list": lambda d: model(
        d, [{"name": "tools", "template": "no"}, {"name": "default", "template": CHATML}]
    ),
    "a file": lambda d: (d / "chat_template.jinja").write_text(CHATML) and model(d),
    "a file first": lambda d: (d / "chat_template.jinja").write_text(CHATML) and model(d, "no"),
    "tokens as objects": lambda d: model(
        d, LLAMA, bos_token={"__type": "AddedToken", "content": "<|bos|>"}
    ),
    "no first token": lambda d: model(d, LLAMA, bos_token=None),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_template_is_found_where_transformers_finds_it(
    form: str, tmp_path: Path, theirs: Callable[..., list[int] | None]
) -> None:
    FORMS[form](tmp_path)
    workload = read(tmp_path, request("a", messages=CHATS["turns"]))
    assert ids(workload, 0) == theirs(tmp_path, CHATS["turns"])


def test_only_plain_prompts_get_the_tokenizers_own_special_tokens(tmp_path: Path) -> None:
    directory = model(tmp_path, LLAMA)
    workload = read(
        directory,
        request("a", messages=[USER]),
        request("b", prompt="Hi"),
        request("c", prompt=[7, 8]),
        request("d", messages=[USER]),
    )
    assert text(directory, workload, 0).count("<|bos|>") == 1
    assert text(directory, workload, 1) == "<|bos|>Hi"
    assert ids(workload, 2) == [7, 8]
    assert ids(workload, 3) == ids(workload, 0)
    assert workload.prompts.space.tolist() == [0, 0, 0, 0]
    assert workload.notes == load(str(directory / "batch.jsonl")).notes[1:]


def test_parts_are_joined_and_a_role_left_out_is_the_users(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    directory = model(tmp_path, CHATML)
    workload = read(
        directory,
        request("a", messages=[{"content": parts}, {"role": "assistant", "content": None}]),
        request("b", input=[{"content": "Hi"}], instructions="Be brief."),
    )
    for row, turns in (
        (0, "<|start|>user\na\nb<|eot|>\n\n<|start|>assistant\n<|eot|>\n\n"),
        (1, "<|start|>system\nBe brief.<|eot|>\n\n<|start|>user\nHi<|eot|>\n\n"),
    ):
        assert text(directory, workload, row) == turns + "<|start|>assistant\n\n"


PLAIN = {
    "none": (lambda d: model(d), "has no chat template"),
    "no default": (
        lambda d: model(d, [{"name": "tools", "template": "no"}, {"name": "default"}, 3]),
        "has no chat template",
    ),
    "no config": (
        lambda d: model(d).joinpath("tokenizer_config.json").unlink(),
        "has no chat template",
    ),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_without_a_template_chats_are_plain_and_a_note_says_so(kind: str, tmp_path: Path) -> None:
    make, message = PLAIN[kind]
    make(tmp_path)
    workload = read(tmp_path, request("a", messages=[{"role": "user", "content": "Hi"}]))
    assert text(tmp_path, workload, 0) == "<|bos|><|user|>\nHi\n<|assistant|>\n"
    assert message in workload.notes[0]


def test_a_tokenizer_file_alone_means_the_plain_template(tmp_path: Path) -> None:
    directory = model(tmp_path, LLAMA)
    batch = lines(tmp_path / "batch.jsonl", request("a", messages=[USER]))
    workload = load(str(batch), ReadOptions(tokenizer=str(directory / "tokenizer.json")))
    assert "<|user|>" in text(directory, workload, 0)
    assert "plain template; --tokenizer takes the model's directory" in workload.notes[0]


def test_nothing_is_said_of_templates_where_nobody_chats(tmp_path: Path) -> None:
    workload = read(model(tmp_path), request("a", prompt="Hi"))
    assert not any("template" in note for note in workload.notes)
    assert chat_of(None) == PlainChat()


def test_a_template_that_writes_the_date_is_noted_and_has_one_clock(tmp_path: Path) -> None:
    directory = model(tmp_path, "{{ strftime_now('%Y %f') }}{{ messages[0].content }}")
    workload = read(directory, *(request(name, messages=[USER]) for name in "ab"))
    assert "chat template can write the date" in workload.notes[0]
    assert ids(workload, 0) == ids(workload, 1)
    year = int(text(directory, workload, 0).split()[0])
    assert datetime.now().year - year in (0, 1)


RAISES = {
    "raise_exception": (STRICT, r"\(Roles must alternate user/assistant\)"),
    "TypeError": ("{{ 1 + messages[0].content }}", "unsupported operand"),
    "undefined": ("{{ messages[0].none.more }}", "has no attribute 'none'"),
    "arithmetic": ("{{ 1 // 0 }}", "zero"),
    "value": ("{{ messages[0].content.index('none') }}", "substring not found"),
    "lookup": ("{{ '{a}'.format(b=1) }}", r"\('a'\)"),
    "too deep": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "maximum recursion"),
    "sandbox": ("{{ messages.append(1) }}", "'append' of 'list' object is unsafe"),
    "escape": ("{{ strftime_now.__self__.year.x }}", "unsafe"),
}


@pytest.mark.parametrize("kind", RAISES)
def test_a_template_that_raises_names_the_line_of_the_file(kind: str, tmp_path: Path) -> None:
    template, message = RAISES[kind]
    directory = model(tmp_path, template)
    rows = [request("a", prompt="Hi"), request("b", messages=[{**USER, "role": "system"}])]
    with pytest.raises(InputError, match=message) as raised:
        read(directory, *rows)
    place = r"batch\.jsonl, line 2, column 'body\.messages': the model's chat template refuses it"
    assert re.search(place, str(raised.value))
    assert "\n" not in str(raised.value)


BROKEN = {
    "syntax": (lambda d: model(d, "\n{% if %}"), r"is no Jinja \(.*its line 2\)"),
    "no text": (lambda d: model(d, 5), "chat_template 5 is not a template's text"),
    "config no JSON": (
        lambda d: model(d).joinpath("tokenizer_config.json").write_text("{"),
        r"tokenizer_config\.json: is not JSON",
    ),
    "config no object": (
        lambda d: model(d).joinpath("tokenizer_config.json").write_text("[]"),
        "is not a tokenizer's settings",
    ),
    "file no UTF-8": (
        lambda d: model(d).joinpath("chat_template.jinja").write_bytes(b"\xff"),
        "is not UTF-8 text",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_template_that_cannot_be_used_is_refused(kind: str, tmp_path: Path) -> None:
    make, message = BROKEN[kind]
    make(tmp_path)
    with pytest.raises(InputError, match=message) as raised:
        read(tmp_path, request("a", messages=[USER]))
    assert "\n" not in str(raised.value)


def test_a_missing_jinja2_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(tmp_path, LLAMA)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(Unavailable, match=r"jinja2 package.*blendsim\[tokenizers\]"):
        chat_of(str(tmp_path))


def test_tojson_takes_its_options(tmp_path: Path) -> None:
    template = "{{ messages[0].x | tojson(indent=1, sort_keys=true, ensure_ascii=true) }}"
    made = chat_of(str(model(tmp_path, template)))
    assert isinstance(made, ModelChat)
    assert made.write([{"x": {"b": "é", "a": "<"}}], "here") == '{\n "a": "<",\n "b": "\\u00e9"\n}'
