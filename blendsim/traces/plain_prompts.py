"""Prompts as JSON Lines: what goes into the body of an OpenAI batch's line, by itself. Prompts are
made into tokens as there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from blendsim.errors import InputError
from blendsim.request import Workload
from blendsim.traces.chat import Chat, chat_of
from blendsim.traces.counts import shown, whole
from blendsim.traces.encoded import Encoded
from blendsim.traces.jsonl import line_of, require_new
from blendsim.traces.length_names import OUTPUT
from blendsim.traces.openai_batch import (
    BatchRequest,
    draws_several,
    fixed_of,
    limit_of,
    model_of,
    read_requests,
    workload_of,
)
from blendsim.traces.prompt_forms import PLAIN_NAMES, content
from blendsim.traces.seam import Head, ReadOptions, Told, silent
from blendsim.traces.tokens import encoder

_IDS = ("custom_id", "request_id", "id")  # of which the first that is there counts


@dataclass(frozen=True, slots=True)
class PlainPrompts:
    """A prompt a line, with its limit and its output length where they are given."""

    name: str = "prompts-jsonl"
    expects: str = "JSONL prompt or messages"

    def matches(self, head: Head) -> bool:
        """Whether the first object has a prompt of its own, not in a body."""
        return not head.keys.isdisjoint(PLAIN_NAMES) and "body" not in head.keys

    def read(self, path: Path, options: ReadOptions, told: Told = silent) -> Workload:
        """The requests with their prompts as tokens; those without an id are called by line."""
        chat = chat_of(options.tokenizer)
        first: dict[str, str] = {}

        def made(row: dict[str, Any], where: str) -> BatchRequest:
            line = line_of(where)
            name = _name(row, line, where)
            require_new(name.id, first, f"{where}, column {name.column!r}")
            first[name.id] = line
            return _request(name.id, row, chat, where)

        lines = read_requests(path, made, told, options.skip_unusable)
        encode = Encoded(encoder(options.tokenizer))
        return lines.noted(workload_of(path, lines.requests, encode, chat, told))

    def id_in(self, row: dict[str, Any], where: str) -> str | None:
        """The request's id, None where it is the line's number; or InputError beginning with
        `where`.
        """
        has_own = any(row.get(name) is not None for name in _IDS)
        return _name(row, "", where).id if has_own else None


PROMPTS_JSONL = PlainPrompts()


class _Name(NamedTuple):
    id: str
    column: str  # that it is from


def _name(row: dict[str, Any], line: str, where: str) -> _Name:
    column = next((name for name in _IDS if row.get(name) is not None), None)
    if column is None:
        return _Name(line, _IDS[-1])
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError(
            f"{where}, column {column!r}: {shown(value)} is not a name; give a text or a number, "
            "or leave it out"
        )
    return _Name(str(value), column)


def _request(name: str, row: dict[str, Any], chat: Chat, where: str) -> BatchRequest:
    given = {column: value for column, value in row.items() if value is not None}
    limit = limit_of(given, where, "")
    prompt = content(given, chat, where, "", PLAIN_NAMES)
    if not prompt.text and not prompt.tokens:
        raise InputError(f"{where}: the prompt is empty; remove the row")
    return BatchRequest(
        name,
        limit,
        prompt,
        _output(given, where),
        model_of(given),
        fixed_of(given, limit),
        draws_several(given),
    )


def _output(given: dict[str, Any], where: str) -> int:
    """Tokens that were generated, 0 where the row does not say."""
    found = [column for column in given if column.lower() in OUTPUT]
    if len(found) > 1:
        raise InputError(
            f"{where}: columns {found[0]!r} and {found[1]!r} could both be the length of the "
            "output; rename or remove all but one"
        )
    return whole(given[found[0]], "output", f"{where}, column {found[0]!r}") if found else 0
