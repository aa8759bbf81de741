"""Conversations as dumps of ShareGPT hold them: a JSON array, or JSON Lines, of objects with turns.

A conversation is one request, as the benchmarks of vLLM and SGLang take it: its first turn is the
prompt, as bare text, and the tokens of its second are the output length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from blendsim.errors import InputError
from blendsim.request import Workload
from blendsim.traces.chat import PlainChat
from blendsim.traces.content import text_lines
from blendsim.traces.counts import shown
from blendsim.traces.encoded import CHUNK, Encoded
from blendsim.traces.jsonl import objects, parsed
from blendsim.traces.openai_batch import BatchRequest, workload_of
from blendsim.traces.prompt_forms import Content
from blendsim.traces.seam import Head, ReadOptions, Told, head, silent
from blendsim.traces.tokens import encoder

_KEY = "conversations"
_LOOK = b'"' + _KEY.encode() + b'"'


class _Exchange(NamedTuple):
    id: object  # as it stands in the file
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class ShareGPT:
    """The first question and answer of every conversation."""

    name: str = "sharegpt"
    expects: str = "JSONL conversations"

    def matches(self, head: Head) -> bool:
        """Whether the first object has conversations."""
        return _KEY in head.keys or _LOOK in head.array

    def read(self, path: Path, options: ReadOptions, told: Told = silent) -> Workload:
        """The requests with their prompts as tokens. Conversations without an answer are left out,
        which a note counts.
        """
        encode = Encoded(encoder(options.tokenizer))
        total, asked = 0, []
        for where, row in _rows(path, told):
            total += 1
            found = _exchange(row, where)
            if found is not None:
                asked.append(found)
        names = [one.id for one in asked]
        are_names = all(isinstance(name, str) and name for name in names)
        is_named = are_names and len(set(names)) == len(names)
        lengths = _lengths(asked, encode, path, told)
        requests = [
            BatchRequest(
                str(one.id) if is_named else str(i), 0, Content(one.question, None), tokens
            )
            for i, (one, tokens) in enumerate(zip(asked, lengths, strict=True), start=1)
        ]
        workload = workload_of(path, requests, encode, PlainChat(), told)
        notes = list(workload.notes)
        if total > len(asked):
            notes.append(
                f"{path}: {total - len(asked):,} of {total:,} conversations have no question with "
                "an answer and were left out"
            )
        if not encode.is_model:
            notes.append(f"{path}: answers are counted as prompts are, about 4 times too long")
        return replace(workload, notes=tuple(notes))


SHAREGPT = ShareGPT()


def _rows(path: Path, told: Told) -> Iterator[tuple[str, dict[str, Any]]]:
    """(words that say where it stands, conversation) of the whole file."""
    if not head(path).array:
        yield from objects(path, told)
        return
    told(f"reading {path}", 0.0)
    with text_lines(path) as text:
        rows = parsed(text.read(), str(path), "mend the file")
    for number, row in enumerate(rows, start=1):
        where = f"{path}, conversation {number}"
        if not isinstance(row, dict):
            raise InputError(f"{where}: {shown(row)} is not a JSON object; each one must be")
        yield where, row


def _exchange(row: dict[str, Any], where: str) -> _Exchange | None:
    """The first two turns, or None where they are not there or say nothing."""
    where = f"{where}, column {_KEY!r}"
    turns = row.get(_KEY)
    if not isinstance(turns, list):
        raise InputError(f"{where}: {shown(turns)} is not a list of turns; mend or remove it")
    values = []
    for turn in turns[:2]:
        value = turn.get("value") if isinstance(turn, dict) else None
        if not isinstance(value, str):
            raise InputError(f"{where}: {shown(turn)} is not a turn with a text under 'value'")
        values.append(value)
    return _Exchange(row.get("id"), *values) if len(values) == 2 and all(values) else None


def _lengths(asked: Sequence[_Exchange], encode: Encoded, path: Path, told: Told) -> list[int]:
    """Tokens of every answer, without those that a tokenizer puts around a text; at least 1."""
    lengths: list[int] = []
    for start in range(0, len(asked), CHUNK):
        told(f"counting the tokens of the answers of {path}", start / len(asked))
        some = [Content(one.answer, None, has_special=True) for one in asked[start : start + CHUNK]]
        lengths += [max(1, len(ids)) for ids in encode.of(some)]
    return lengths
