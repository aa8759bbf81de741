"""What a request gives as its prompt: messages, text or token ids, under one of three names in the
body of an OpenAI batch's line, or one of two in a plain line.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from blendsim.errors import InputError
from blendsim.request import MOST_TOKENS
from blendsim.traces.chat import Chat, Message
from blendsim.traces.counts import shown
from blendsim.traces.tool_calls import tools_of, with_calls
from blendsim.wording import listing

PROMPT_NAMES = ("messages", "prompt", "input")  # of which the first that is there counts
PLAIN_NAMES = ("messages", "prompt")


class Content(NamedTuple):
    """One prompt, as text or as token ids."""

    text: str  # empty when the prompt is given as tokens
    tokens: list[int] | None
    is_chat: bool = False
    has_special: bool = False  # whether the text has its special tokens in it
    has_media: bool = False  # whether there was content that is neither


def content(
    body: dict[str, Any],
    chat: Chat,
    where: str,
    root: str = "body.",
    names: Sequence[str] = PROMPT_NAMES,
) -> Content:
    """The prompt of a request's body, under one of `names`, its messages written by `chat`. Errors
    begin with `where` and call columns by `root` and their name.
    """
    name = next((name for name in names if name in body), names[-1])
    found = _content(body, chat, where, root, name)
    if found is None:
        raise InputError(
            f"{where}, column '{root}{name}': {shown(body.get(name))} is neither text, messages "
            f"nor token ids of one prompt; give {listing(names, 'or')}"
        )
    size = len(found.text)
    if size > MOST_TOKENS // 4:  # where characters are of up to four bytes, tokens by themselves
        size = len(found.text.encode("utf-8", "surrogatepass"))
    if size > MOST_TOKENS:
        raise InputError(
            f"{where}, column '{root}{name}': a prompt of {size:,} bytes; no request has more than "
            f"{MOST_TOKENS:,} tokens; remove the row"
        )
    return found


def _content(body: dict[str, Any], chat: Chat, where: str, root: str, name: str) -> Content | None:
    prompt = body.get(name)
    tools = tools_of(body, f"{where}, column '{root}tools'")
    chat = chat.with_tools(tools) if tools else chat
    settings = body.get("chat_template_kwargs")
    chat = chat.with_settings(settings) if isinstance(settings, dict) else chat
    where = f"{where}, column '{root}{name}'"
    if name == "messages":
        return _chat(prompt, chat, where)
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int | dict):
        prompt = prompt[0]
    lead = body.get("instructions") if name == "input" else None
    before = [{"role": "system", "content": lead}] if isinstance(lead, str) else []
    if isinstance(prompt, str) and not before and not (name == "input" and tools):
        return Content(prompt, None)
    if isinstance(prompt, str):
        return _chat([*before, {"role": "user", "content": prompt}], chat, where)
    if isinstance(prompt, list) and all(isinstance(item, dict) for item in prompt):
        return _chat(before + prompt if prompt else prompt, chat, where)
    if isinstance(prompt, list) and all(_is_token(item) for item in prompt):
        return Content("", prompt)
    return None


def _chat(messages: object, chat: Chat, where: str) -> Content:
    if not isinstance(messages, list) or not messages:
        raise InputError(
            f"{where}: {shown(messages)} is not a list of messages; give one with at least one"
        )
    plain: list[Message] = []
    has_media = False
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role", "user"), str):
            raise InputError(
                f"{where}: {shown(message)} is not a message with role and content; mend the row"
            )
        role, said = message.get("role", "user"), message.get("content")
        if isinstance(said, list):
            texts = [text for text in map(_text_of, said) if text is not None]
            has_media |= len(texts) < len(said)
            said = _of_parts(texts, is_whole=role == "tool" or not chat.takes_parts)
        elif said is not None and not isinstance(said, str):
            raise InputError(
                f"{where}: content {shown(said)} is neither text nor parts; mend the row"
            )
        plain.append(with_calls({**message, "role": role, "content": said or ""}))
    text = chat.write(plain, where)
    return Content(text, None, True, chat.has_special, has_media)


def _text_of(part: object) -> str | None:
    """What a part of a message's content says, None if it is no text."""
    text = part.get("text") if isinstance(part, dict) else part
    return text if isinstance(text, str) else None


def _of_parts(texts: list[str], is_whole: bool) -> str | list[dict[str, str]]:
    """Content that was given in parts, as vLLM gives it to a template; what a tool gave is always
    one text there.
    """
    return "\n".join(texts) if is_whole else [{"type": "text", "text": text} for text in texts]


def _is_token(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**31
