"""What each request of an OpenAI batch file asks for besides its prompt, for those who answer it.

Planning needs none of this and reads the same files leniently. Here a request that asks for what
we cannot do is refused, with the reason, and the others are read: an answer to another question is
worse than none.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from blendsim.errors import InputError
from blendsim.request import Workload, from_lengths
from blendsim.traces.body_settings import require_doable, telling
from blendsim.traces.chat import Chat, chat_of
from blendsim.traces.counts import shown
from blendsim.traces.encoded import Encoded
from blendsim.traces.jsonl import line_of, objects, require_new
from blendsim.traces.openai_batch import (
    LIMITS,
    OPENAI_BATCH,
    BatchRequest,
    id_of,
    request_of,
    workload_of,
)
from blendsim.traces.plain_prompts import PROMPTS_JSONL
from blendsim.traces.prompt_forms import PROMPT_NAMES
from blendsim.traces.seam import head, source_name
from blendsim.traces.tokens import encoder
from blendsim.traces.unknown import reason
from blendsim.wording import Say

MOST_STOPS = 4  # as many as OpenAI takes
_SEEDS = range(-(2**63), 2**63)


class Kind(StrEnum):
    """Which endpoint a request is for, by the name of the object that answers it."""

    CHAT = "chat.completion"
    TEXT = "text_completion"
    RESPONSE = "response"


@dataclass(frozen=True, slots=True)
class Asked:
    """What one request asks for. The defaults are OpenAI's."""

    custom_id: str
    kind: Kind
    model: str = ""  # as the request calls it
    temperature: float = 1.0  # in [0, 2]
    top_p: float = 1.0  # in (0, 1]
    seed: int | None = None  # of 64 bits
    stop: tuple[str, ...] = ()  # at most MOST_STOPS, none empty
    limit: int = 0  # tokens of the answer at most; 0 = none given
    #: Of all that its answer hangs on (`digest_of`); "" = not told.
    digest: str = field(default="", compare=False)


class _Line(NamedTuple):
    """One line that can be planned."""

    where: str  # `file, line n`
    row: dict[str, Any]  # as it stands there
    request: BatchRequest


class _Read(NamedTuple):
    """One line that can be answered, without what stands there: a file has millions."""

    where: str  # `file, line n`
    request: BatchRequest
    asked: Asked


class Refusal(NamedTuple):
    """A request that cannot be answered."""

    line: int  # of the file, from 1
    custom_id: str
    why: str  # begins with the line and names its column
    digest: str = ""  # as `Asked` has it


@dataclass(frozen=True, slots=True, eq=False)
class BatchFile:
    """A batch file: `asked[i]` is of row i of the workload, which has what can be answered."""

    path: Path
    workload: Workload
    asked: tuple[Asked, ...]
    refused: tuple[Refusal, ...] = ()  # in the file's order

    def __len__(self) -> int:
        return len(self.asked) + len(self.refused)

    @property
    def digests(self) -> dict[str, str]:
        """What each request asks for, by its id; those that are refused last."""
        answered = {each.custom_id: each.digest for each in self.asked}
        return answered | {each.custom_id: each.digest for each in self.refused}

    def signed(self, model: str) -> "BatchFile":
        """The same with answers that call their model so, whatever was asked for."""
        return replace(self, asked=tuple(replace(each, model=model) for each in self.asked))


#: Endpoints' ends, the kind of answer, and where the prompt stands.
_ENDPOINTS = {
    "/chat/completions": (Kind.CHAT, "messages"),
    "/completions": (Kind.TEXT, "prompt"),
    "/responses": (Kind.RESPONSE, "input"),
}


def read_batch(
    path: Path,
    tokenizer: Path,
    vocab: int | None = None,
    say: Say = lambda _: None,
    is_strict: bool = False,
) -> BatchFile:
    """The requests in the model's own tokens and what they ask for, and those that cannot be
    answered. `tokenizer` is the model's directory; token ids that a request gives are below `vocab`
    where that is known.

    InputError for a file that is no batch: not JSON, a line without an id, an id twice; and if
    `is_strict` for the first request that cannot be answered.
    """
    beginning = head(path)
    if not beginning.keys & {"custom_id", "body"} or PROMPTS_JSONL.matches(beginning):
        why = None if beginning.keys else reason(beginning.line)
        raise InputError(
            f"{path}: is no OpenAI batch file ({OPENAI_BATCH.expects}); "
            f"{why or 'write one request a line, its prompt and settings under body'}"
        )
    chat = chat_of(str(tokenizer))
    encode = Encoded(encoder(str(tokenizer)))
    read, refused = _read_lines(path, chat, vocab)
    if is_strict:
        _require_none(path, refused)  # before prompts are made into tokens, which takes long

    def heard(done: int, n: int) -> None:
        if done:
            say(f"{done * 10 // n * 10} % of {n:,} prompts made into tokens")

    prompts = [line.request.prompt for line in read]
    encode.make(prompts, heard)
    kept = []
    for (where, request, asked), tokens in zip(read, encode.of(prompts), strict=True):
        if not len(tokens):
            why = f"{where}: the tokenizer makes no tokens of the prompt; remove the row"
            refused.append(_refusal(path, where, asked.custom_id, why, asked.digest))
        else:
            kept.append((request, asked))
    if is_strict:
        _require_none(path, refused)
    if kept or not refused:
        workload = workload_of(path, [request for request, _ in kept], encode, chat)
    else:
        workload = from_lengths([], [], source=source_name(path), origin=(str(path),))
    return BatchFile(path, workload, tuple(asked for _, asked in kept), tuple(sorted(refused)))


def _read_lines(path: Path, chat: Chat, vocab: int | None) -> tuple[list[_Read], list[Refusal]]:
    """Each line with what it asks for, or why it is refused."""
    first: dict[str, str] = {}
    read, refused = [], []
    for where, row in objects(path):
        custom_id = id_of(row, where)
        require_new(custom_id, first, f"{where}, column 'custom_id'")
        first[custom_id] = line_of(where)
        digest = digest_of(row)
        try:
            line = _Line(where, row, request_of(row, chat, where))
            read.append(_Read(where, line.request, _asked(line, vocab, digest)))
        except InputError as error:
            refused.append(_refusal(path, where, custom_id, str(error), digest))
    return read, refused


def _require_none(path: Path, refused: list[Refusal]) -> None:
    if refused:
        raise InputError(f"{path}, {refused[0].why}")


def _refusal(path: Path, where: str, custom_id: str, why: str, digest: str) -> Refusal:
    return Refusal(int(line_of(where)), custom_id, why.removeprefix(f"{path}, "), digest)


def digest_of(row: dict[str, Any]) -> str:
    """24 hex digits of a line's id, url and the settings of its body that its answer hangs on: of
    the prompt as it is given, since what a chat template writes of it may differ from day to day.
    """
    body = row.get("body")
    if isinstance(body, dict):
        body = telling(body)
    told = json.dumps([row.get("custom_id"), row.get("url"), body], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:24]


def _require_known(tokens: list[int], vocab: int | None, where: str) -> None:
    """A prompt given as ids, of which the model has so many."""
    if vocab is not None and max(tokens) >= vocab:
        raise InputError(
            f"{where}, column 'body': token id {max(tokens)} is beyond the model's vocabulary of "
            f"{vocab:,}; give ids of this model, or the prompt as text"
        )


def _asked(line: _Line, vocab: int | None, digest: str) -> Asked:
    body, where = line.row["body"], line.where
    for name, value in body.items():
        if value is not None:
            require_doable(name, value, where)
    _require_numbers(body, where)
    kind = _kind(line)
    if line.request.prompt.has_media:
        raise InputError(
            f"{where}, column 'body': the prompt has parts that are not text (images, files), "
            "which cannot be read; remove the row"
        )
    if line.request.prompt.tokens is not None:
        _require_known(line.request.prompt.tokens, vocab, where)
    return Asked(
        custom_id=line.request.custom_id,
        kind=kind,
        model=_model(body, where),
        temperature=_number(body, "temperature", where),
        top_p=_number(body, "top_p", where),
        seed=_seed(body.get("seed"), where),
        stop=_stop(body.get("stop"), where),
        limit=line.request.limit,
        digest=digest,
    )


def _kind(line: _Line) -> Kind:
    """By the url where there is one, else by how the prompt is given."""
    row, where = line.row, line.where
    given = next(name for name in PROMPT_NAMES if name in row["body"])
    url = row.get("url")
    ends = [end for end in _ENDPOINTS if not url or (isinstance(url, str) and _leads(url, end))]
    if not ends:
        raise InputError(
            f"{where}, column 'url': {shown(url)} is no endpoint that is answered; those are "
            f"{', '.join(f'/v1{end}' for end in _ENDPOINTS)}"
        )
    kinds = [kind for kind, name in map(_ENDPOINTS.__getitem__, ends) if name == given]
    if not kinds:
        wants = _ENDPOINTS[ends[0]][1]
        raise InputError(
            f"{where}, column 'url': {shown(url)} takes body.{wants}, not body.{given}; mend one"
        )
    if given == "input":
        _require_messages(row["body"]["input"], where)
    return kinds[0]


def _leads(url: str, end: str) -> bool:
    path = url.rstrip("/")
    return path.endswith(end) and not (end == "/completions" and path.endswith("/chat" + end))


def _require_messages(items: object, where: str) -> None:
    """The Responses API mixes messages with calls of tools and what they gave."""
    for item in items if isinstance(items, list) else ():
        kind = item.get("type", "message") if isinstance(item, dict) else "message"
        if kind != "message":
            raise InputError(
                f"{where}, column 'body.input': an item of type {shown(kind)} is no message; "
                "remove it"
            )


def _model(body: dict[str, Any], where: str) -> str:
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise InputError(f"{where}, column 'body.model': {shown(model)} is not a name")
    return model or ""


def _number(body: dict[str, Any], name: str, where: str) -> float:
    value = body.get(name)
    if value is None:
        return 1.0
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name == "temperature":
        is_fine, span = is_number and 0 <= value <= 2, "0 to 2"
    else:
        is_fine, span = is_number and 0 < value <= 1, "above 0 to 1"
    if not is_fine:
        raise InputError(
            f"{where}, column 'body.{name}': {shown(value)} is not a number from {span}; mend or "
            "remove it"
        )
    return float(value)


def _require_numbers(body: dict[str, Any], where: str) -> None:
    """Limits of the answer: planning reads a number in quotes as that number, OpenAI takes none."""
    for name in LIMITS:
        if isinstance(body.get(name), str):
            raise InputError(
                f"{where}, column 'body.{name}': {shown(body[name])} is a text; give a whole "
                "number of tokens"
            )


def _seed(value: object, where: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value not in _SEEDS:
        raise InputError(
            f"{where}, column 'body.seed': {shown(value)} is not a whole number of 64 bits; mend "
            "or remove it"
        )
    return value


def _stop(value: object, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise InputError(
            f"{where}, column 'body.stop': {shown(value)} is neither a text nor a list of texts, "
            "none of them empty; mend or remove it"
        )
    if len(texts) > MOST_STOPS:
        raise InputError(
            f"{where}, column 'body.stop': {len(texts)} texts; give at most {MOST_STOPS}"
        )
    return tuple(texts)
