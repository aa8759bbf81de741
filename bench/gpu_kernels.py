"""A measured profile beside another opinion of the same kernels: rows of a table, or a profile.

    python bench/gpu_kernels.py MEASURED/h200/llama-3.1-8b/tp1 rows.csv --device h200_sxm
    python bench/gpu_kernels.py MEASURED/h200/llama-3.1-8b/tp1 profiles/h200/llama-3.1-8b/tp1

Rows are a CSV with columns device, backend, kind (gemm, decode_attention), op, m, batch, ctx and
latency_us. What counts is large enough to be bound by the chip: GEMMs of 512 tokens
or more, decodes of 64 Ki KV tokens or more. Prints measured over theirs; exit 1 beyond 10 %.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from machine import row

from blendsim.perf.derive import OPERATORS
from blendsim.perf.grids import AttentionGrid, along, complete
from blendsim.perf.profile import Profile
from blendsim.perf.store import read_profile

LEAST_TOKENS, LEAST_KV_TOKENS = 512, 1 << 16
TOLERANCE = 0.10  # of the median, kernel by kernel
_LAYER = OPERATORS[:4]


class Opinion(NamedTuple):
    """One kernel at one size, in seconds, by somebody else."""

    kernel: str
    size: tuple[float, ...]  # tokens, or batch and context
    seconds: float


class Verdict(NamedTuple):
    """A kernel's times over theirs."""

    kernel: str
    points: int
    median: float  # ratio
    low: float
    high: float

    @property
    def is_near(self) -> bool:
        """Within the tolerance, by the median."""
        return abs(self.median - 1.0) <= TOLERANCE


def of_rows(path: Path, device: str, backend: str) -> Iterator[Opinion]:
    """A table's rows of one device and backend."""
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            if (line["device"], line["backend"]) != (device, backend):
                continue
            seconds = float(line["latency_us"]) / 1e6
            if line["kind"] == "gemm" and line["op"] in _LAYER:
                yield Opinion(line["op"], (float(line["m"]),), seconds)
            elif line["kind"] == "decode_attention":
                yield Opinion("decode", (float(line["batch"]), float(line["ctx"])), seconds)


def of_profile(profile: Profile) -> Iterator[Opinion]:
    """All that a profile holds."""
    for tokens, times in zip(profile.tokens.tolist(), profile.gemm, strict=True):
        for name, seconds in zip(_LAYER, times, strict=False):
            yield Opinion(name, (float(tokens),), float(seconds))
    grid = profile.decode
    for batch, times in zip(grid.batches.tolist(), grid.seconds, strict=True):
        for context, seconds in zip(grid.lengths.tolist(), times, strict=True):
            if np.isfinite(seconds):
                yield Opinion("decode", (batch, context), float(seconds))


def compare(profile: Profile, opinions: Iterator[Opinion]) -> list[Verdict]:
    """Kernel by kernel, over the opinions that count and lie within what was measured."""
    ratios: dict[str, list[float]] = {}
    for opinion in opinions:
        mine = _mine(profile, opinion)
        if mine is not None:
            ratios.setdefault(opinion.kernel, []).append(mine / opinion.seconds)
    return [
        Verdict(kernel, len(found), float(np.median(found)), min(found), max(found))
        for kernel, found in ratios.items()
    ]


def _mine(profile: Profile, opinion: Opinion) -> float | None:
    """What was measured at that size, between measured ones; None where it does not count."""
    if opinion.kernel == "decode":
        batch, context = opinion.size
        is_large = batch * context >= LEAST_KV_TOKENS
        return _between(profile.decode, batch, context) if is_large else None
    tokens = opinion.size[0]
    if not LEAST_TOKENS <= tokens <= profile.tokens[-1]:
        return None
    column = profile.gemm[:, OPERATORS.index(opinion.kernel)]
    return float(along(profile.tokens, column, np.array([tokens]))[0])


def _between(grid: AttentionGrid, batch: float, context: float) -> float | None:
    is_inside = (
        grid.batches[0] <= batch <= grid.batches[-1]
        and grid.lengths[0] <= context <= grid.lengths[-1]
    )
    if not is_inside:
        return None
    at = np.array([context])
    rows = [float(along(grid.lengths, times, at)[0]) for times in complete(grid).seconds]
    return float(along(grid.batches, np.array(rows), np.array([batch]))[0])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measured", type=Path, help="a profile's tp<N> directory")
    parser.add_argument("other", type=Path, help="a CSV of rows, or another such directory")
    parser.add_argument("--device", default="h200_sxm", help="of the rows")
    parser.add_argument("--backend", default="vllm", help="of the rows")
    given = parser.parse_args()
    if given.other.is_dir():
        opinions = of_profile(read_profile(given.other))
    else:
        opinions = of_rows(given.other, given.device, given.backend)
    verdicts = compare(read_profile(given.measured), opinions)
    print(row("kernel", "points", "median, measured over theirs", "least", "most", ""))
    print(row(*["---"] * 6))
    for v in verdicts:
        judged = "ok" if v.is_near else "FAR"
        print(row(v.kernel, str(v.points), *(f"{x:.3f}" for x in v[2:]), judged))
    if not verdicts or not all(v.is_near for v in verdicts):
        sys.exit(1)


if __name__ == "__main__":
    main()
