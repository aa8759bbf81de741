"""What a user waits for: `blendsim plan` from the shell, cold and warm, on a trace of an hour and
on a full-size pool.

    python bench/command.py TRACE…

TRACE is a file or a demo source. Cold means an empty kernel cache. The last row plans 400,000
requests with 6 M block hashes, written as a Parquet workload first. Wall seconds, and those of the
processor, which other work on the machine lengthens less; the median of three for warm runs.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from machine import machine, row, timed, today
from simulate import REQUESTS, blended_pool

from blendsim.traces import write_workload


def plan(trace: str, cache: str | None = None) -> dict[str, object]:
    """Run the command as a user would; returns what `--json` says, with `wall` and `cpu` seconds
    and `peak` GB.
    """
    environment = os.environ | ({"BLENDSIM_CACHE": cache} if cache else {})
    words = [sys.executable, "-c", _CHILD, "plan", "--trace", trace, "--json"]
    done, wall = timed(
        lambda: subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    )
    peak, cpu = map(float, done.stderr.strip().splitlines()[-1].split())
    return json.loads(done.stdout) | {"wall": wall, "cpu": cpu, "peak": peak}


_CHILD = """
import resource, sys
from blendsim.cli import main
try:
    main()
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_maxrss / 2**20, used.ru_utime + used.ru_stime, file=sys.stderr)
"""


def main() -> None:
    """Measure and print the table."""
    print(f"{machine()}; {today()}")
    print(row("trace", "requests", "kernels", "seconds", "CPU s", "chosen", "peak GB"))
    print(row(*["---"] * 7))
    with tempfile.TemporaryDirectory() as folder:
        for trace in sys.argv[1:]:
            with tempfile.TemporaryDirectory() as cache:  # one a trace, or the next is not cold
                show(trace, "cold", [plan(trace, cache)])
                show(trace, "warm", [plan(trace, cache) for _ in range(3)])
        full = Path(folder) / "pool.parquet"
        write_workload(blended_pool(REQUESTS), full)
        show(str(full), "warm", [plan(str(full)) for _ in range(3)])


def show(trace: str, kernels: str, runs: list[dict[str, object]]) -> None:
    """Print the row of a trace."""
    first = runs[0]
    print(
        row(
            Path(trace).name,
            f"{first['requests']:,}",
            kernels,
            f"{median(float(str(run['wall'])) for run in runs):.1f}",
            f"{median(float(str(run['cpu'])) for run in runs):.1f}",
            str(first["policy"]),
            f"{max(float(str(run['peak'])) for run in runs):.1f}",
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
