"""OpenAI batch files: one JSONL request a line, with its text, which has to be made into tokens.

With a model's directory as the tokenizer the tokens are the model's own, its chat template
included. Otherwise they are near them; what requests share, they share either way.
"""

import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blendsim.arrays import Ints
from blendsim.errors import InputError
from blendsim.printable import listed
from blendsim.request import Prompts, Workload
from blendsim.soundness import is_whole
from blendsim.traces.chat import Chat, chat_of
from blendsim.traces.counts import require_rows, shown, whole
from blendsim.traces.encoded import CHUNK, Encoded
from blendsim.traces.jsonl import json_object, line_of, lines_of, require_new
from blendsim.traces.prompt_forms import Content, content
from blendsim.traces.seam import Head, ReadOptions, Told, silent, source_name
from blendsim.traces.tokens import GIVEN, encoder
from blendsim.wording import counted

_MOST_TOLD = 5  # lines and the like that are named at once
#: What a body calls the most tokens of its answer; the first that is given counts.
LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


class BatchRequest(NamedTuple):
    """What planning needs of one line."""

    custom_id: str
    limit: int  # tokens of the answer at most; 0 = none given
    prompt: Content
    output: int = 0  # tokens that were generated; 0 = not given
    model: str = ""  # that is to answer; empty = not given
    fixed: int = 0  # tokens of the answer whatever the model says; 0 = it ends by itself
    draws_several: bool = False  # of which the server returns the best


@dataclass(frozen=True, slots=True)
class OpenAIBatch:
    """OpenAI's batch input format."""

    name: str = "openai-batch"
    expects: str = "JSONL custom_id,body"

    def matches(self, head: Head) -> bool:
        """Whether the first object has an id and a body."""
        return head.keys >= {"custom_id", "body"}

    def read(self, path: Path, options: ReadOptions, told: Told = silent) -> Workload:
        """The requests with their prompts as tokens; output lengths are not in such a file."""
        chat = chat_of(options.tokenizer)
        first: dict[str, str] = {}

        def made(row: dict[str, Any], where: str) -> BatchRequest:
            custom_id = id_of(row, where)
            require_new(custom_id, first, f"{where}, column 'custom_id'")
            first[custom_id] = line_of(where)
            return request_of(row, chat, where)

        lines = read_requests(path, made, told, options.skip_unusable)
        encode = Encoded(encoder(options.tokenizer))
        return lines.noted(workload_of(path, lines.requests, encode, chat, told))

    def id_in(self, row: dict[str, Any], where: str) -> str | None:
        """The request's id, or InputError beginning with `where`."""
        return id_of(row, where)


OPENAI_BATCH = OpenAIBatch()


class Lines(NamedTuple):
    """A file's requests, and the lines that are none."""

    requests: list[BatchRequest]
    refused: list[str]  # numbers of lines that cannot be planned
    reason: str  # why the first of these cannot, beginning with where it stands

    def noted(self, workload: Workload) -> Workload:
        """The workload of the requests, with a note on the lines that are not in it."""
        if not self.refused:
            return workload
        count = len(self.refused)
        total = counted(count + len(self.requests), "line")
        note = (
            f"{', '.join(workload.origin)}: {count:,} of {total} cannot be planned and "
            f"{'was' if count == 1 else 'were'} left out, as from what `export` writes: "
            f"{listed(self.refused, _MOST_TOLD)}; the first is {self.reason}"
        )
        return replace(workload, notes=(*workload.notes, note))


def read_requests(
    path: Path,
    make: Callable[[dict[str, Any], str], BatchRequest],
    told: Told = silent,
    skip: bool = False,
) -> Lines:
    """What `make` makes of every line. InputError with what it says of the first line that it
    refuses, and how many there are; with `skip` only where nothing is left.
    """
    requests: list[BatchRequest] = []
    refused: list[str] = []
    reason, n = "", 0
    for where, line in lines_of(path, told):
        n += 1
        try:
            request = make(json_object(line, where), where)
        except InputError as error:
            reason = reason or str(error)
            refused.append(line_of(where))
        else:
            if skip or not refused:
                requests.append(request)
    if not refused or (skip and requests):
        return Lines(requests, refused, reason)
    which = f": {listed(refused, _MOST_TOLD)}; mend or remove all of them" * (len(refused) > 1)
    instead = "" if skip else "; --skip-unusable leaves such lines out"
    raise InputError(
        f"{reason} ({len(refused):,} of {counted(n, 'line')} cannot be planned{which}){instead}"
    )


def workload_of(
    path: Path,
    requests: Sequence[BatchRequest],
    encode: Encoded,
    chat: Chat,
    told: Told = silent,
) -> Workload:
    """The requests with their prompts as tokens; those that are not made yet are."""
    require_rows(len(requests), path)
    prompts, prompt_len = _prompts(requests, encode, path, told)
    given = np.array([request.output for request in requests], np.int64)
    fixed = np.array([request.fixed for request in requests], np.int64)
    output_len = np.where(given > 0, given, fixed)
    n = len(requests)
    return Workload(
        ids=np.array([request.custom_id for request in requests], np.str_),
        prompt_len=prompt_len,
        output_len=output_len,
        has_output=output_len > 0,
        output_limit=np.array([request.limit for request in requests], np.int64),
        is_known=(given == 0) & (fixed > 0),
        arrival=np.zeros(n),
        source=np.zeros(n, np.int32),
        source_names=(source_name(path),),
        prompts=prompts,
        origin=(str(path),),
        notes=_notes(path, requests, (encode.note, chat.note)),
    )


#: Ends of urls that answer with something else than text: OpenAI's, vLLM's and SGLang's.
_NO_TEXT = (
    *("/embeddings", "/moderations", "/images/generations", "/audio/speech"),
    *("/score", "/rerank", "/pooling", "/classify", "/encode"),
)


def id_of(row: dict[str, Any], where: str) -> str:
    """The id of one line, or InputError beginning with `where`."""
    custom_id = row.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        raise InputError(
            f"{where}, column 'custom_id': {shown(custom_id)} is not a name; give a text"
        )
    return custom_id


def request_of(row: dict[str, Any], chat: Chat, where: str) -> BatchRequest:
    """What planning needs of one line, or InputError beginning with `where`."""
    custom_id, body = id_of(row, where), row.get("body")
    if not isinstance(body, dict):
        raise InputError(
            f"{where}, column 'body': {shown(body)} is not a request object; mend or remove the row"
        )
    if str(row.get("url", "")).rstrip("/").endswith(_NO_TEXT):
        raise InputError(
            f"{where}, column 'url': {shown(row['url'])} generates no tokens; remove the row"
        )
    limit = limit_of(body, where, "body.")
    prompt = content(body, chat, where)
    if not prompt.text and not prompt.tokens:
        raise InputError(f"{where}, column 'body': the prompt is empty; remove the row")
    return BatchRequest(
        custom_id,
        limit,
        prompt,
        model=model_of(body),
        fixed=fixed_of(body, limit),
        draws_several=draws_several(body),
    )


def model_of(body: dict[str, Any]) -> str:
    """The model that a request asks for, empty where it gives no name."""
    model = body.get("model")
    return sys.intern(model) if isinstance(model, str) else ""


def fixed_of(body: dict[str, Any], limit: int) -> int:
    """Tokens of an answer that may have `limit` and ends there whatever the model says, 0 where it
    may end before. `min_tokens` and `ignore_eos` are vLLM's and SGLang's; before `min_tokens` no
    stop ends an answer there either.
    """
    is_least = limit > 0 and body.get("min_tokens") == limit
    can_stop = body.get("ignore_eos") is not True or body.get("stop") or body.get("stop_token_ids")
    return limit if is_least or not can_stop else 0


def draws_several(body: dict[str, Any]) -> bool:
    """Whether the one answer is to be the best of several."""
    return is_whole(body.get("best_of"), 2)


def limit_of(body: dict[str, Any], where: str, root: str) -> int:
    """Most tokens of a request's one answer, 0 = none given, or InputError that calls columns by
    `root` and their name.
    """
    if isinstance(body.get("n"), bool) or body.get("n") not in (None, 1):  # True == 1
        raise InputError(
            f"{where}, column '{root}n': {shown(body['n'])} answers of one request; write one "
            "request an answer"
        )
    for name in LIMITS:
        if body.get(name) is not None:
            return whole(body[name], "limit", f"{where}, column '{root}{name}'")
    return 0


def _prompts(
    requests: Sequence[BatchRequest], encode: Encoded, path: Path, told: Told
) -> tuple[Prompts, Ints]:
    """The requests' tokens as one set of prompts, in file order."""
    is_given = [request.prompt.tokens is not None for request in requests]
    making = f"making tokens of the prompts of {path}"
    units = array("i")  # grows in place: a pool's tokens fill memory once, not twice
    lengths = np.zeros(len(requests), np.int64)
    for start in range(0, len(requests), CHUNK):
        told(making, start / len(requests))
        lists = encode.of([request.prompt for request in requests[start : start + CHUNK]])
        lengths[start : start + len(lists)] = [len(ids) for ids in lists]
        units.frombytes(np.concatenate(lists).tobytes())
    told(making, 1.0)
    if not lengths.all():
        none = [shown(requests[row].custom_id) for row in np.flatnonzero(lengths == 0).tolist()]
        raise InputError(
            f"{path}: the tokenizer makes no tokens of {listed(none, _MOST_TOLD)} of its "
            f"{counted(len(requests), 'request')}; remove them"
        )
    # NOTE: ids in the file are some model's own; with the fallback they are no bytes.
    is_one = encode.is_model or not any(is_given)
    names = (encode.space,) if is_one else (encode.space, GIVEN)
    prompts = Prompts(
        offsets=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        units=np.frombuffer(units, np.int32),
        space=np.array([len(names) - 1 if given else 0 for given in is_given], np.int32),
        unit_tokens=np.ones(len(names), np.int32),
        space_names=names,
    )
    return prompts, lengths


def _notes(
    path: Path, requests: Sequence[BatchRequest], making: tuple[str, str]
) -> tuple[str, ...]:
    of_texts, of_chats = making
    prompts = [request.prompt for request in requests]
    notes = [f"{path}: {of_texts}"] if of_texts and any(p.text for p in prompts) else []
    if of_chats and any(prompt.is_chat for prompt in prompts):
        notes.append(f"{path}: {of_chats}")
    media = sum(prompt.has_media for prompt in prompts)
    if media:
        notes.append(
            f"{path}: parts of {counted(media, 'request')} are not text (images, files), and their "
            "tokens are not counted"
        )
    several = sum(request.draws_several for request in requests)
    if several:
        notes.append(
            f"{path}: {counted(several, 'request')} {'has' if several == 1 else 'have'} best_of "
            "above 1: a server that honours it generates that many answers each, and one is planned"
        )
    models = sorted({request.model for request in requests} - {""})
    if len(models) > 1:
        notes.append(
            f"{path}: {len(models):,} models are asked for: {listed(models, _MOST_TOLD)}; planned "
            "as one"
        )
    return tuple(notes)
