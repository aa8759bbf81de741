"""Output lengths from an earlier run: OpenAI batch results, matched by custom_id; and what they say
of prompts, which tells whether the tokenizer is theirs.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blendsim.errors import InputError
from blendsim.request import MOST_TOKENS, Workload
from blendsim.soundness import is_whole
from blendsim.traces.content import TORN
from blendsim.traces.counts import require_rows, shown, whole
from blendsim.traces.jsonl import is_torn, json_object, lines_of
from blendsim.traces.seam import Told, silent
from blendsim.traces.tokens import TOKENS
from blendsim.wording import counted

_ALIKE = 0.05  # how far mean lengths of the same prompts may be apart


class Result(NamedTuple):
    """What one line says came of a request."""

    custom_id: str
    tokens: int | None  # generated; None if the request failed, or the line does not count them
    prompt: int | None = None  # tokens of its prompt, where the line has them
    is_answer: bool = False


class Results(NamedTuple):
    """What a file says of the requests that were answered, by custom_id."""

    lengths: dict[str, int]  # tokens generated
    prompts: dict[str, int]  # tokens of prompts, where they are counted
    failed: set[str]  # who has a line without an answer
    torn: list[str]  # `file, line n` of an end that was left out
    bare: set[str]  # who was answered without a count of tokens
    notes: list[str]  # what of the file is passed over, one sentence each


def read_results(path: Path, told: Told = silent, *, may_be_torn: bool = False) -> Results:
    """The results at `path`, failed requests left out; what a break left of the last line too, if
    it `may_be_torn`. Of several answers of one request the last that counts its tokens is taken,
    and any answer rather than an error. InputError for a file of another kind, and for one that
    counts no answer's tokens, unless it `may_be_torn` and so is asked who was answered.
    """
    found = Results({}, {}, set(), [], set(), [])
    answers: dict[str, int] = {}  # lines of each request
    first_bare, rows = "", 0
    for where, line in lines_of(path, told, TORN if may_be_torn else "strict"):
        if may_be_torn and rows and is_torn(line):
            found.torn.append(where)
            continue
        rows += 1
        custom_id, tokens, prompt, is_answer = _outcome(json_object(line, where), where)
        if not is_answer:
            found.failed.add(custom_id)
            continue
        answers[custom_id] = answers.get(custom_id, 0) + 1
        if tokens is None:
            first_bare = first_bare or where
            found.bare.add(custom_id)
        else:
            found.lengths[custom_id] = tokens
        if prompt is not None:
            found.prompts[custom_id] = prompt
    require_rows(rows, path)
    found.bare.difference_update(found.lengths)
    if found.bare and not found.lengths and not may_be_torn:
        raise _lacks_usage(first_bare)
    found.notes.extend(_passed_over(path, answers, found.bare))
    return found


def _passed_over(path: Path, answers: Mapping[str, int], bare: Collection[str]) -> list[str]:
    """Notes on requests with several answers, and on those without a count of tokens."""
    notes = []
    again = sum(count > 1 for count in answers.values())
    if again:
        have = "has" if again == 1 else "have"
        notes.append(
            f"{path}: {counted(again, 'request')} {have} more than one answer there; the last of "
            "each counts"
        )
    if bare:
        count = "counts" if len(bare) == 1 else "count"
        notes.append(
            f"{path}: {len(bare):,} of {counted(len(answers), 'answer')} {count} no generated "
            "tokens, so that no length is learned from "
            f"{'it' if len(bare) == 1 else 'them'}"
        )
    return notes


def result(row: dict[str, Any], where: str) -> Result:
    """One line's result, or InputError beginning with `where`, for an answer without a count of
    its tokens too.
    """
    found = _outcome(row, where)
    if found.is_answer and found.tokens is None:
        raise _lacks_usage(where)
    return found


def _outcome(row: dict[str, Any], where: str) -> Result:
    custom_id = row.get("custom_id")
    if not isinstance(custom_id, str):
        raise InputError(
            f"{where}, column 'custom_id': {shown(custom_id)} is not a name; results are lines of "
            "an OpenAI batch's results file"
        )
    response = row.get("response")
    if row.get("error") or not isinstance(response, dict):
        return Result(custom_id, None)
    if response.get("status_code", 200) != 200:
        return Result(custom_id, None)
    usage = _usage(response.get("body"), where)
    if usage is None:
        return Result(custom_id, None, is_answer=True)
    return Result(custom_id, _generated(usage, where), _prompt(usage), is_answer=True)


def with_lengths(workload: Workload, lengths: dict[str, int]) -> Workload:
    """`workload` with the output lengths it lacks taken from `lengths`, by id."""
    output_len, has_output = workload.output_len.copy(), workload.has_output.copy()
    for row in np.flatnonzero(~workload.has_output):
        tokens = lengths.get(str(workload.ids[row]))
        if tokens is not None:
            output_len[row], has_output[row] = tokens, True
    return replace(workload, output_len=output_len, has_output=has_output)


def other_prompts(workload: Workload, results: Results, path: Path) -> str | None:
    """A note where the results at `path` count prompts of other lengths than the workload's tokens,
    as those of another tokenizer or chat template have; None where they agree. Bytes, of which
    another note says that they are no tokens, are not compared.
    """
    names = workload.prompts.space_names
    is_tokens = np.array([name.startswith(TOKENS) for name in names], np.bool_)
    rows = np.flatnonzero(is_tokens[workload.prompts.space])
    reported = np.array([results.prompts.get(str(workload.ids[row]), 0) for row in rows], np.int64)
    rows, reported = rows[reported > 0], reported[reported > 0]
    if not len(rows):
        return None
    ours, theirs = float(workload.prompt_len[rows].mean()), float(reported.mean())
    off = ours / theirs - 1.0
    if abs(off) <= _ALIKE:
        return None
    return (
        f"{', '.join(workload.origin)}: prompts have {ours:,.0f} tokens in the mean, and by {path} "
        f"the model that answered counted {theirs:,.0f} ({off:+.0%} here): probably another "
        "tokenizer or chat template"
    )


def _usage(body: Any, where: str) -> dict[str, Any] | None:
    """What an answer counts, None where it does not; InputError where it is no answer."""
    if isinstance(body, dict) and body.get("usage") is None:
        return None
    usage = body["usage"] if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        raise _lacks_usage(where)
    return usage


def _lacks_usage(where: str) -> InputError:
    return InputError(
        f"{where}: response.body.usage counts no generated tokens; results need token counts"
    )


def _generated(usage: dict[str, Any], where: str) -> int | None:
    """Tokens of an answer, None where they are not counted or none was generated: what was refused
    says nothing of lengths, and is no fault of the file.
    """
    name = "completion_tokens" if "completion_tokens" in usage else "output_tokens"
    tokens = usage.get(name)
    if tokens is None or tokens == 0:
        return None
    return whole(tokens, "output", f"{where}, column 'response.body.usage.{name}'")


def _prompt(usage: dict[str, Any]) -> int | None:
    """Nothing is planned by it, so what is no count is passed over."""
    count = usage.get("prompt_tokens", usage.get("input_tokens"))
    return count if is_whole(count, 1, MOST_TOKENS) else None
