"""What clock, power and temperature a GPU has while something runs on it."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_FIELDS = ("clocks.sm", "power.draw", "temperature.gpu")
_EVERY_MILLISECONDS = 250


@contextmanager
def watched(found: dict[str, str], is_gpu: bool) -> Iterator[None]:
    """Put the median, and how far it goes, of every field into `found` at the end; nothing where
    the driver's tool is missing.
    """
    tool = shutil.which("nvidia-smi")
    if not is_gpu or tool is None:
        yield
        return
    query = f"--query-gpu={','.join(_FIELDS)}"
    every = f"-lms={_EVERY_MILLISECONDS}"
    with tempfile.TemporaryFile("w+") as told:
        command = [tool, query, "--format=csv,noheader,nounits", every]
        process = subprocess.Popen(command, stdout=told, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.terminate()
            process.wait()
            told.seek(0)
            found.update(_medians(told.read().splitlines()))


def _medians(lines: list[str]) -> dict[str, str]:
    """Field by field over all lines that are whole and hold numbers."""
    rows = []
    for line in lines:
        try:
            rows.append([float(cell) for cell in line.split(",")])
        except ValueError:
            continue
    rows = [row for row in rows if len(row) == len(_FIELDS)]
    if not rows:
        return {}
    columns = np.array(rows).T
    return {
        name: f"{np.median(column):g} ({column.min():g} to {column.max():g})"
        for name, column in zip(_FIELDS, columns, strict=True)
    }
