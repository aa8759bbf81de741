"""What a workload holds, in numbers: counts, percentiles, sharing."""

from typing import Any

import numpy as np

from blendsim.arrays import Ints
from blendsim.prefix import SortedPrompts, shareable_tokens, sort_prompts
from blendsim.request import Workload
from blendsim.system import BLOCK_TOKENS


def summary(workload: Workload, ordered: SortedPrompts | None = None) -> dict[str, Any]:
    """Counts, lengths and sharing of `workload`, for printing and as JSON. Lengths in tokens,
    times in seconds; sharing ratios are shares of all prompt tokens. `ordered` are its sorted
    prompts, if somebody has them.
    """
    ordered = ordered or sort_prompts(workload)
    prompt_tokens = int(workload.prompt_len.sum())
    return {
        **_lengths(workload, np.arange(len(workload))),
        "arrival_span": float(np.ptp(workload.arrival)),
        "sharing_ratio": shareable_tokens(workload, ordered) / prompt_tokens,
        "sharing_ratio_blocks": shareable_tokens(workload, ordered, BLOCK_TOKENS) / prompt_tokens,
        "block_tokens": BLOCK_TOKENS,
        "sources": {
            name: _lengths(workload, np.flatnonzero(workload.source == code))
            for code, name in enumerate(workload.source_names)
        },
        "origin": list(workload.origin),
        "notes": list(workload.notes),
    }


def _lengths(workload: Workload, rows: Ints) -> dict[str, Any]:
    has = workload.has_output[rows]
    output = workload.output_len[rows]
    return {
        "requests": len(rows),
        "input_tokens": int(workload.prompt_len[rows].sum()),
        "output_tokens": int(output.sum()),
        "with_output": int(has.sum()),
        "known": int(workload.is_known[rows].sum()),
        "prompt": _percentiles(workload.prompt_len[rows]),
        "output": _percentiles(output[has]),
    }


def _percentiles(lengths: Ints) -> dict[str, float] | None:
    """None where there is nothing to describe."""
    if len(lengths) == 0:
        return None
    half, ninety, most = np.percentile(lengths, [50, 90, 99])
    return {
        "p50": float(half),
        "p90": float(ninety),
        "p99": float(most),
        "max": float(lengths.max()),
        "mean": float(lengths.mean()),
    }
