"""What a measurement needs beside it: where and when it was made, and how much memory it took."""

import os
import platform
import resource
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def machine() -> str:
    """Processor, usable cores and Python."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, Python {platform.python_version()}"


def today() -> str:
    """The date, UTC."""
    return datetime.now(UTC).date().isoformat()


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Result and seconds of a call."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def peak_gigabytes() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def row(*cells: str) -> str:
    """A Markdown table row."""
    return f"| {' | '.join(cells)} |"
