"""Output lengths from an earlier run: OpenAI batch results, matched by custom_id."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blendsim.errors import InputError
from blendsim.request import Workload
from blendsim.traces.counts import require_rows, shown, whole
from blendsim.traces.jsonl import line_of, objects, require_new


class Result(NamedTuple):
    """What one line says came of a request."""

    custom_id: str
    tokens: int | None  # generated; None if the request failed


def read_results(path: Path) -> dict[str, int]:
    """Tokens generated for each custom_id; failed requests are left out."""
    lengths: dict[str, int] = {}
    first: dict[str, str] = {}
    rows = 0
    for where, row in objects(path):
        rows += 1
        custom_id, tokens = result(row, where)
        require_new(custom_id, first, f"{where}, column 'custom_id'")
        if tokens is not None:
            first[custom_id], lengths[custom_id] = line_of(where), tokens
    require_rows(rows, path)
    return lengths


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
    return Result(custom_id, _generated(response.get("body"), where))


def with_lengths(workload: Workload, lengths: dict[str, int]) -> Workload:
    """`workload` with the output lengths it lacks taken from `lengths`, by id."""
    output_len, has_output = workload.output_len.copy(), workload.has_output.copy()
    for row in np.flatnonzero(~workload.has_output):
        tokens = lengths.get(str(workload.ids[row]))
        if tokens is not None:
            output_len[row], has_output[row] = tokens, True
    return replace(workload, output_len=output_len, has_output=has_output)


def _generated(body: Any, where: str) -> int:
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        raise InputError(f"{where}: response.body.usage is missing; results need token counts")
    name = "completion_tokens" if "completion_tokens" in usage else "output_tokens"
    return whole(usage.get(name), "output", f"{where}, column 'response.body.usage.{name}'")
