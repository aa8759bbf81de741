"""Messages to one text: by the chat template that came with a model, or by a plain one.

A model's template is a Jinja program of its tokenizer's directory and is not trusted: it runs in
Jinja's sandbox. It is given what `transformers` gives it, so that the text is the same.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from blendsim.errors import InputError, Unavailable
from blendsim.traces.content_parts import loops_over_content
from blendsim.traces.counts import shown

if TYPE_CHECKING:
    from jinja2 import Environment, Template
    from jinja2.nodes import Node
    from jinja2.parser import Parser

Message = dict[str, Any]  # has a role, a text, and a content: text, or parts where they are taken

RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})

_FILE = "chat_template.jinja"
_MORE_FILES = "additional_chat_templates"
_CONFIG = "tokenizer_config.json"
_DEFAULT, _TOOL_USE = "default", "tool_use"  # names of templates, where a model has several
_DATED = "{}: the chat template can write the date, so prompts may differ from day to day"
_SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


class Chat(Protocol):
    """Writes messages as one text that ends where the answer begins."""

    @property
    def note(self) -> str:
        """What a reader of the workload must know about chats written this way."""
        ...

    @property
    def has_special(self) -> bool:
        """Whether the text has all its special tokens in it, the first one included."""
        ...

    @property
    def takes_parts(self) -> bool:
        """Whether content that is given in parts stays so, rather than being joined."""
        ...

    def with_tools(self, tools: Sequence[Any]) -> "Chat":
        """The same for a request with these tools, before its settings."""
        ...

    def with_settings(self, settings: dict[str, Any]) -> "Chat":
        """The same with what one request sets of the template's own, `RESERVED` names aside."""
        ...

    def write(self, messages: Sequence[Message], where: str) -> str:
        """The text, or InputError beginning with `where`."""
        ...


@dataclass(frozen=True, slots=True)
class PlainChat:
    """`<|role|>` and the content, each on a line of its own, for every message; tools and calls of
    them as JSON.
    """

    note: str = ""
    has_special: bool = False
    takes_parts: bool = False
    tools: Sequence[Any] = ()

    def with_tools(self, tools: Sequence[Any]) -> "PlainChat":
        """With tools before the first message."""
        return replace(self, tools=tools)

    def with_settings(self, settings: dict[str, Any]) -> "PlainChat":
        """Itself: there is nothing to set."""
        return self

    def write(self, messages: Sequence[Message], where: str) -> str:
        """The messages one after another, then the assistant's turn."""
        pieces = [f"<|tools|>\n{_tojson(self.tools)}\n"] if self.tools else []
        for message in messages:
            pieces.append(f"<|{message['role']}|>\n{message['content']}\n")
            if message.get("tool_calls"):
                pieces.append(f"{_tojson(message['tool_calls'])}\n")
        return "".join(pieces) + "<|assistant|>\n"


@dataclass(frozen=True, slots=True)
class ModelChat:
    """A model's own chat template."""

    template: "Template"
    given: dict[str, Any]  # special tokens' texts by names such as bos_token, and a request's own
    note: str = ""
    has_special: bool = True
    takes_parts: bool = False
    tools: Sequence[Any] = ()
    of_tools: "ModelChat | None" = None  # for requests with tools, where another template is

    def with_tools(self, tools: Sequence[Any]) -> "ModelChat":
        """By the template for requests with tools, which is the same one in most models."""
        return replace(self.of_tools or self, tools=tools)

    def with_settings(self, settings: dict[str, Any]) -> "ModelChat":
        """With more variables for the template."""
        return replace(self, given=self.given | settings)

    def write(self, messages: Sequence[Message], where: str) -> str:
        """What the template makes of the messages and tools, up to the answer."""
        from jinja2 import TemplateError

        # NOTE: a template computes with what the file holds: 'a' + 1 is its TypeError, not ours.
        wrong = (TemplateError, TypeError, ValueError, LookupError, AttributeError)
        try:
            return self.template.render(
                self.given
                | {
                    "messages": list(messages),
                    "tools": list(self.tools) or None,
                    "documents": None,
                    "add_generation_prompt": True,
                }
            )
        except (*wrong, ArithmeticError, RecursionError) as error:
            raise InputError(
                f"{where}: the model's chat template refuses it ({_one_line(error)}); mend the "
                "messages or remove the row"
            ) from error


def chat_of(tokenizer: str | None) -> PlainChat | ModelChat:
    """How chats are written for `--tokenizer PATH`: by the template in that directory, if any."""
    if tokenizer is None:
        return PlainChat()
    directory = Path(tokenizer)
    if not directory.is_dir():
        return PlainChat(
            "chats are written in a plain template; --tokenizer takes the model's directory, too, "
            "and with it the model's own"
        )
    config = _config(directory / _CONFIG)
    chat = _model_chat(directory, config, _DEFAULT)
    if chat is None:
        return PlainChat(f"{directory} has no chat template; chats are written in a plain one")
    of_tools = _model_chat(directory, config, _TOOL_USE)
    note = chat.note or (of_tools.note if of_tools else "")
    return replace(chat, note=note, of_tools=of_tools)


def _model_chat(directory: Path, config: dict[str, Any], name: str) -> ModelChat | None:
    """Chats by the template of this name, None if there is none."""
    source, where = _template(directory, config, name)
    if source is None:
        return None
    template = _compiled(source, where)
    note = _DATED.format(where) if "strftime_now" in source else ""
    takes_parts = loops_over_content(template.environment.parse(source))
    return ModelChat(template, _special(config), note, takes_parts=takes_parts)


def _config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{file}: is not JSON ({_one_line(error)}); give the one beside the model's weights"
        ) from error
    if not isinstance(config, dict):
        raise InputError(f"{file}: {shown(config)} is not a tokenizer's settings")
    return config


def _template(directory: Path, config: dict[str, Any], name: str) -> tuple[str | None, Path]:
    """The source of the template of this name, None if there is none, and where it stands."""
    file = directory / (_FILE if name == _DEFAULT else f"{_MORE_FILES}/{name}.jinja")
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8"), file
        except UnicodeDecodeError as error:
            raise InputError(f"{file}: is not UTF-8 text; save it as UTF-8") from error
    file, given = directory / _CONFIG, config.get("chat_template")
    if isinstance(given, list):
        named = [row for row in given if isinstance(row, dict) and row.get("name") == name]
        given = named[0].get("template") if named else None
    elif name != _DEFAULT:
        given = None
    if given is not None and not isinstance(given, str):
        raise InputError(f"{file}: chat_template {shown(given)} is not a template's text")
    return given, file


def _special(config: dict[str, Any]) -> dict[str, str]:
    """The special tokens that are set, by the names templates call them."""
    found = {}
    for name in (f"{short}_token" for short in _SPECIAL):
        token = config.get(name)
        if isinstance(token, dict):
            token = token.get("content")
        if isinstance(token, str):
            found[name] = token
    return found


def _compiled(source: str, where: Path) -> "Template":
    try:
        from jinja2 import TemplateSyntaxError
    except ImportError as error:
        raise Unavailable(
            f"{where}: the model's chat template needs the jinja2 package: "
            "pip install 'blendsim[tokenizers]'"
        ) from error
    try:
        return _environment().from_string(source)
    except TemplateSyntaxError as error:
        raise InputError(
            f"{where}: the chat template is no Jinja ({_one_line(error)}, its line {error.lineno})"
        ) from error


def _environment() -> "Environment":
    """The sandbox with what chat templates count on besides Jinja's own."""
    from jinja2 import nodes
    from jinja2.ext import Extension, LoopControlExtension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks answers for training; here it is only its content."""

        tags = {"generation"}  # noqa: RUF012 - Jinja's way of saying it

        def parse(self, parser: "Parser") -> "Node":
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, Generation]
    )
    # NOTE: one clock for all requests. A template that writes the time would otherwise part
    # prompts that are alike, and a day's end would part one file in two.
    now = datetime.now()
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = now.strftime
    return environment


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes for HTML, which no model was trained on."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
