"""Output lengths from an earlier run: OpenAI batch results, matched by custom_id; and what they say
of prompts, which tells whether the tokenizer is theirs.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blendsim.errors import InputError
from blendsim.request import MOST_TOKENS, Workload
from blendsim.soundness import is_whole
from blendsim.traces.content import TORN
from blendsim.traces.counts import require_rows, shown, whole
from blendsim.traces.jsonl import is_torn, json_object, line_of, lines_of, require_new
from blendsim.traces.seam import Told, silent
from blendsim.traces.tokens import TOKENS

_ALIKE = 0.05  # how far mean lengths of the same prompts may be apart


class Result(NamedTuple):
    """What one line says came of a request."""

    custom_id: str
    tokens: int | None  # generated; None if the request failed
    prompt: int | None = None  # tokens of its prompt, where the line has them


class Results(NamedTuple):
    """What a file says of the requests that were answered, by custom_id."""

    lengths: dict[str, int]  # tokens generated
    prompts: dict[str, int]  # tokens of prompts, where they are counted
    failed: set[str]  # who has a line without an answer
    torn: list[str]  # `file, line n` of an end that was left out


def read_results(path: Path, told: Told = silent, *, may_be_torn: bool = False) -> Results:
    """The results at `path`, failed requests left out; what a break left of the last line too, if
    it `may_be_torn`. InputError for a file of another kind.
    """
    found = Results({}, {}, set(), [])
    first: dict[str, str] = {}
    rows = 0
    for where, line in lines_of(path, told, TORN if may_be_torn else "strict"):
        if may_be_torn and rows and is_torn(line):
            found.torn.append(where)
            continue
        rows += 1
        custom_id, tokens, prompt = result(json_object(line, where), where)
        require_new(custom_id, first, f"{where}, column 'custom_id'")
        if tokens is not None:
            first[custom_id], found.lengths[custom_id] = line_of(where), tokens
        else:
            found.failed.add(custom_id)
        if prompt is not None:
            found.prompts[custom_id] = prompt
    require_rows(rows, path)
    return found


def result(row: dict[str, Any], where: str) -> Result:
    """One line's result, or InputError beginning with `where`."""
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
    return Result(custom_id, _generated(usage, where), _prompt(usage))


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
    counted = np.array([results.prompts.get(str(workload.ids[row]), 0) for row in rows], np.int64)
    rows, counted = rows[counted > 0], counted[counted > 0]
    if not len(rows):
        return None
    ours, theirs = float(workload.prompt_len[rows].mean()), float(counted.mean())
    off = ours / theirs - 1.0
    if abs(off) <= _ALIKE:
        return None
    return (
        f"{', '.join(workload.origin)}: prompts have {ours:,.0f} tokens in the mean, and by {path} "
        f"the model that answered counted {theirs:,.0f} ({off:+.0%} here): probably another "
        "tokenizer or chat template"
    )


def _usage(body: Any, where: str) -> dict[str, Any]:
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        raise InputError(f"{where}: response.body.usage is missing; results need token counts")
    return usage


def _generated(usage: dict[str, Any], where: str) -> int:
    name = "completion_tokens" if "completion_tokens" in usage else "output_tokens"
    return whole(usage.get(name), "output", f"{where}, column 'response.body.usage.{name}'")


def _prompt(usage: dict[str, Any]) -> int | None:
    """Nothing is planned by it, so what is no count is passed over."""
    count = usage.get("prompt_tokens", usage.get("input_tokens"))
    return count if is_whole(count, 1, MOST_TOKENS) else None
