"""OpenAI batch files: one JSONL request a line, with its text. The only format whose prompts have
to be made into tokens.

Chat messages are written out in one plain template, `<|role|>\\ncontent\\n` for each message and
`<|assistant|>\\n` at the end. A model's own template differs by a few tokens a message; what
requests share, they share under both.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blendsim.errors import InputError
from blendsim.request import Ints, Prompts, Workload
from blendsim.traces.counts import require_rows, shown, whole
from blendsim.traces.jsonl import objects
from blendsim.traces.seam import Head, ReadOptions, source_name
from blendsim.traces.tokens import Tokens, encoder

_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


class _Request(NamedTuple):
    custom_id: str
    text: str  # empty when the prompt is given as tokens
    tokens: list[int] | None
    limit: int
    has_media: bool


@dataclass(frozen=True, slots=True)
class OpenAIBatch:
    """OpenAI's batch input format."""

    name: str = "openai-batch"
    expects: str = "JSONL with keys custom_id,body"

    def matches(self, head: Head) -> bool:
        """Whether the first object has an id and a body."""
        return head.keys >= {"custom_id", "body"}

    def read(self, path: Path, options: ReadOptions) -> Workload:
        """The requests with their prompts as tokens; output lengths are not in such a file."""
        requests = _requests(path)
        require_rows(len(requests), path)
        encode = encoder(options.tokenizer)
        tokens = encode.encode([request.text for request in requests])
        prompts, prompt_len = _prompts(requests, tokens, path)
        n = len(requests)
        return Workload(
            ids=np.array([request.custom_id for request in requests], np.str_),
            prompt_len=prompt_len,
            output_len=np.zeros(n, np.int64),
            has_output=np.zeros(n, np.bool_),
            output_limit=np.array([request.limit for request in requests], np.int64),
            is_known=np.zeros(n, np.bool_),
            arrival=np.zeros(n),
            source=np.zeros(n, np.int32),
            source_names=(source_name(path),),
            prompts=prompts,
            origin=(str(path),),
            notes=_notes(path, requests, encode.note),
        )


OPENAI_BATCH = OpenAIBatch()


def _requests(path: Path) -> list[_Request]:
    first: dict[str, str] = {}
    requests: list[_Request] = []
    for where, row in objects(path):
        request = _request(row, where)
        if request.custom_id in first:
            raise InputError(
                f"{where}, column 'custom_id': {shown(request.custom_id)} was given before in line "
                f"{first[request.custom_id]}; ids must be unique"
            )
        first[request.custom_id] = where.rsplit(" ", 1)[1]
        requests.append(request)
    return requests


def _request(row: dict[str, Any], where: str) -> _Request:
    custom_id, body = row.get("custom_id"), row.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        raise InputError(f"{where}, column 'custom_id': {shown(custom_id)} is not a name")
    if not isinstance(body, dict):
        raise InputError(f"{where}, column 'body': {shown(body)} is not a request object")
    if str(row.get("url", "")).rstrip("/").endswith(("/embeddings", "/moderations")):
        raise InputError(f"{where}, column 'url': {row['url']} generates no tokens; remove the row")
    if body.get("n", 1) != 1:
        raise InputError(
            f"{where}, column 'body.n': {shown(body['n'])} answers of one request; write one "
            "request an answer"
        )
    limit = 0
    for name in _LIMITS:
        if body.get(name) is not None:
            limit = whole(body[name], "limit", f"{where}, column 'body.{name}'")
            break
    text, tokens, has_media = _content(body, where)
    if not text and not tokens:
        raise InputError(f"{where}, column 'body': the prompt is empty; remove the row")
    return _Request(custom_id, text, tokens, limit, has_media)


def _content(body: dict[str, Any], where: str) -> tuple[str, list[int] | None, bool]:
    """Text, or token ids, and whether there is content that is neither."""
    if "messages" in body:
        return _chat(body["messages"], f"{where}, column 'body.messages'")
    name = "prompt" if "prompt" in body else "input"
    prompt = body.get(name)
    where = f"{where}, column 'body.{name}'"
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int | dict):
        prompt = prompt[0]
    if isinstance(prompt, str):
        lead = body.get("instructions")
        if isinstance(lead, str) and name == "input":
            messages = [{"role": "system", "content": lead}, {"role": "user", "content": prompt}]
            return _chat(messages, where)
        return prompt, None, False
    if isinstance(prompt, list) and all(isinstance(item, dict) for item in prompt):
        return _chat(prompt, where)
    if isinstance(prompt, list) and all(_is_token(item) for item in prompt):
        return "", prompt, False
    raise InputError(
        f"{where}: {shown(prompt)} is neither text, messages nor token ids of one prompt; give "
        "messages, prompt or input"
    )


def _chat(messages: object, where: str) -> tuple[str, None, bool]:
    if not isinstance(messages, list) or not messages:
        raise InputError(f"{where}: {shown(messages)} is not a list of messages")
    pieces, has_media = [], False
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role", "user"), str):
            raise InputError(f"{where}: {shown(message)} is not a message with role and content")
        content = message.get("content")
        if isinstance(content, list):
            parts = [part for part in content if isinstance(part, dict)]
            texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
            has_media |= len(texts) < len(content)
            content = "".join(texts)
        if content is not None and not isinstance(content, str):
            raise InputError(f"{where}: content {shown(content)} is neither text nor parts")
        pieces.append(f"<|{message.get('role', 'user')}|>\n{content or ''}\n")
    return "".join(pieces) + "<|assistant|>\n", None, has_media


def _is_token(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**31


def _prompts(requests: list[_Request], tokens: Tokens, path: Path) -> tuple[Prompts, Ints]:
    """Encoded texts and given token ids as one set of prompts, in file order."""
    given = [request.tokens for request in requests]
    lists = [
        np.asarray(tokens.lists[row] if ids is None else ids, np.int32)
        for row, ids in enumerate(given)
    ]
    lengths = np.array([len(ids) for ids in lists], np.int64)
    if not lengths.all():
        row = int(np.flatnonzero(lengths == 0)[0])
        raise InputError(
            f"{path}: the tokenizer makes no tokens of request {shown(requests[row].custom_id)}; "
            "remove the row"
        )
    # NOTE: ids in the file are some model's own; with the fallback they are no bytes.
    is_own = tokens.is_model or all(ids is None for ids in given)
    names = (tokens.space,) if is_own else (tokens.space, "tokens:given")
    space = np.array([len(names) - 1 if ids is not None else 0 for ids in given], np.int32)
    prompts = Prompts(
        offsets=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        units=np.concatenate(lists),
        space=space,
        unit_tokens=np.ones(len(names), np.int32),
        space_names=names,
    )
    return prompts, lengths


def _notes(path: Path, requests: list[_Request], encoding: str) -> tuple[str, ...]:
    notes = [f"{path}: {encoding}"] if encoding and any(r.text for r in requests) else []
    media = sum(request.has_media for request in requests)
    if media:
        notes.append(
            f"{path}: {media:,} requests have parts that are not text (images, files); their "
            "tokens are not counted"
        )
    return tuple(notes)
