"""Requests at odds with a limit: oversize ones, longer than the model's context or than what the
KV cache can hold, those that may become so, and outputs longer than their own `max_tokens`.
"""

from dataclasses import replace

import numpy as np

from blendsim.arrays import Ints
from blendsim.errors import OversizeError
from blendsim.request import Workload, select
from blendsim.wording import counted

_LISTED = 5  # ids an error names


def oversize(workload: Workload, longest: int) -> Ints:
    """Rows whose prompt and output together exceed `longest` tokens; without a given output, one
    token of it counts.
    """
    tokens = workload.prompt_len + np.maximum(workload.output_len, 1)
    return np.flatnonzero(tokens > longest).astype(np.int64)


def without_oversize(workload: Workload, longest: int, skip: bool) -> Workload:
    """`workload` if nothing is oversize; else OversizeError, or with `skip` the rest and a note. A
    note, too, on those that fit unless their answers are as long as they may be.
    """
    rows = oversize(workload, longest)
    if len(rows) == 0:
        return _with_limits_told(workload, longest)
    named = _named(workload, rows, longest)
    count = f"{len(rows):,} of {len(workload):,} requests"
    if not skip:
        raise OversizeError(
            f"{count} are longer than the {longest:,} tokens that fit: {named}; drop them with "
            "--skip-oversize (in Python without_oversize(…, skip=True) of blendsim.traces) or "
            "choose a larger model context or GPU"
        )
    if len(rows) == len(workload):
        raise OversizeError(
            f"all {len(rows):,} requests are longer than the {longest:,} tokens that fit: {named}; "
            "choose a larger model context or GPU"
        )
    kept = np.ones(len(workload), np.bool_)
    kept[rows] = False
    note = f"{count} were longer than {longest:,} tokens and were left out: {named}"
    fitting = replace(select(workload, kept), notes=(*workload.notes, note))
    return _with_limits_told(fitting, longest)


def require_held(workload: Workload, output_len: Ints, longest: int) -> None:
    """OversizeError if a request is longer than `longest` tokens with the output it is given."""
    if int((workload.prompt_len + output_len).max(initial=0)) <= longest:
        return
    told = replace(workload, output_len=output_len)
    rows = oversize(told, longest)
    raise OversizeError(
        f"with these output lengths {len(rows):,} of {len(workload):,} requests are longer than "
        f"the {longest:,} tokens that fit: {_named(told, rows, longest)}; give shorter ones or "
        "choose a larger model context or GPU"
    )


def _named(workload: Workload, rows: Ints, longest: int) -> str:
    """The first of these rows, and by how much each is too long."""
    tokens = workload.prompt_len + np.maximum(workload.output_len, 1)
    named = ", ".join(
        f"{workload.ids[row]} ({tokens[row] - longest:,} too many)" for row in rows[:_LISTED]
    )
    return named + (f" and {len(rows) - _LISTED:,} more" if len(rows) > _LISTED else "")


def within_max_tokens(workload: Workload) -> Workload:
    """`workload` with no output longer than its request's own limit, where an engine stops; a note
    says how many were cut. An answer that may have one token has one, and nobody has to run for it.
    """
    limit = workload.output_limit
    workload = _with_single_tokens(workload)
    rows = np.flatnonzero((limit > 0) & (workload.output_len > limit))
    if len(rows) == 0:
        return workload
    first = rows[0]
    note = (
        f"{', '.join(workload.origin)}: {len(rows):,} of {len(workload):,} outputs are longer than "
        f"their request's max_tokens, where an engine stops, and were cut to it: the first is "
        f"{workload.ids[first]} ({workload.output_len[first]:,} tokens of {limit[first]:,}); if "
        "the outputs are right, remove max_tokens"
    )
    output_len = workload.output_len.copy()
    output_len[rows] = limit[rows]
    return replace(workload, output_len=output_len, notes=(*workload.notes, note))


def _with_single_tokens(workload: Workload) -> Workload:
    is_single = workload.output_limit == 1
    if not (is_single & ~workload.is_known).any():
        return workload
    return replace(
        workload,
        # NOTE: a longer one that is given is cut, and told, like any other.
        output_len=np.where(is_single & ~workload.has_output, 1, workload.output_len),
        has_output=workload.has_output | is_single,
        is_known=workload.is_known | is_single,
    )


def _with_limits_told(workload: Workload, longest: int) -> Workload:
    """A note where an answer as long as its request's `max_tokens` would not fit: servers refuse
    such a request before they answer anything.
    """
    limit = workload.output_limit
    rows = np.flatnonzero((limit > 0) & (workload.prompt_len + limit > longest))
    if not len(rows):
        return workload
    first = rows[0]
    asks, their = ("asks", "its") if len(rows) == 1 else ("ask", "their")
    note = (
        f"{len(rows):,} of {counted(len(workload), 'request')} {asks} for more than the "
        f"{longest:,} tokens that fit, {their} prompt and max_tokens together: vLLM refuses such, "
        f"lower max_tokens before you send them; the first is {workload.ids[first]}, with a prompt "
        f"of {workload.prompt_len[first]:,} and max_tokens {limit[first]:,}"
    )
    return replace(workload, notes=(*workload.notes, note))
