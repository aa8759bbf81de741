"""The tables of gpu_cut.py, from what it wrote.

python bench/gpu_cut_table.py gpu-cut.json
"""

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from machine import row

Found = dict[str, Any]
_HEAD = ("step", "way", "part", "far ahead", "begin of a row", "end of a row", "host", "planning")
_TRACE = (
    "step",
    "way",
    "traced",
    "ms",
    "nothing runs",
    "two run",
    "GEMM lane alone",
    "attention lane alone",
    "GEMMs",
    "decode attention",
    "prefill attention",
    "small",
    "kernels",
    "GEMM lane's gaps",
    "attention lane's gaps",
    "a decode kernel",
)
_BEGIN = 3  # runs of a row


def header() -> list[str]:
    """Of a table of ways: milliseconds, at MHz where the GPU told."""
    return ["", row(*_HEAD), row(*["---"] * len(_HEAD))]


def line(found: Found) -> str:
    """One way to run a step."""
    runs = found["row"]
    seconds = (found["ahead"], runs[:_BEGIN], runs[len(runs) // 2 :])
    host = (_ms(found["host"]), _ms(found["planning"]))
    late = "" if found["is_ahead"] else " (not ahead)"
    cells = [_cell(ran) for ran in seconds]
    cells[0] += late
    return row(found["step"], found["way"], found["part"], *cells, *host)


def trace_header() -> list[str]:
    """Of a table of traces: milliseconds a run."""
    return ["", row(*_TRACE), row(*["---"] * len(_TRACE))]


def trace_line(found: Found) -> str:
    """One trace."""
    kinds, alone, streams = found["kinds"], found["alone"], found["streams"]
    lanes = ("gemm lane", "decode attention lane")
    return row(
        found["step"],
        found["way"],
        found["how"],
        _ms(found["seconds"]),
        _ms(found["idle"]),
        _ms(found["together"]),
        *(_ms(alone.get(lane)) for lane in lanes),
        *(
            _ms(kinds.get(kind, 0.0))
            for kind in ("gemm", "decode attention", "prefill attention", "small")
        ),
        f"{found['kernels']:,.0f}",
        *(_gaps(streams.get(lane)) for lane in lanes),
        _spread(found["decode_tenths"]),
    )


def _cell(ran: list[Found]) -> str:
    told = _ms(median(one["seconds"] for one in ran))
    clocks = [one["megahertz"] for one in ran if one["megahertz"] is not None]
    return f"{told} at {median(clocks):,.0f}" if clocks else told


def _gaps(stream: Found | None) -> str:
    """How many gaps, their sum and their median."""
    if stream is None:
        return ""
    told = f"{stream['gaps']:,.0f}, {_ms(stream['gap_seconds'])} ms"
    return f"{told}, median {stream['gap_median'] * 1e6:.1f} µs"


def _spread(tenths: list[float]) -> str:
    """Median, and how far the middle four fifths go."""
    low, middle, high = (f"{x * 1e6:.0f}" for x in tenths[1:4]) if tenths else ("", "", "")
    return f"{middle} ({low} to {high}) µs" if tenths else ""


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.2f}"


def main() -> None:
    """Print the tables of a file."""
    kept = json.loads(Path(sys.argv[1]).read_text())
    for what, head, told in (("step", header, line), ("trace", trace_header, trace_line)):
        print(*head(), *(told(found) for found in kept if found["what"] == what), sep="\n")
    print(*(f"\nLeft out: {found['why']}" for found in kept if found["what"] == "left out"), sep="")


if __name__ == "__main__":
    main()
