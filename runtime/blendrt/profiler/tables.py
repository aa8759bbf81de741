"""The tables of a profile: how each is measured, its part of the time, and how it is written."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blendrt.profiler.kernels import (
    ChunkRow,
    GemmTable,
    IsOver,
    SkewRow,
    measure_chunks,
    measure_decode,
    measure_gemm,
    measure_prefill,
    measure_skewed,
    measure_small,
)
from blendrt.profiler.pairs import measure_pairs
from blendrt.profiler.rig import Rig
from blendrt.profiler.sizes import Sizes
from blendsim.perf.fit import Pairs, fit_overlap, write_overlap
from blendsim.perf.grids import AttentionGrid, ChunkTimes, SmallGrid
from blendsim.perf.records import to_text, write_rows
from blendsim.perf.store import (
    CHUNKS,
    OVERLAP_FILE,
    write_attention,
    write_chunks,
    write_gemm,
    write_small,
)

PAIRS = "overlap_pairs"
SKEWED = "decode_skewed"


class Table(NamedTuple):
    """One table. `save` writes it into a directory and says in a few words what it holds."""

    name: str
    part: float  # of the profile's minutes
    measure: Callable[[Rig, Sizes, IsOver], Any]
    save: Callable[[Path, Any], str]


def _save_gemm(directory: Path, table: GemmTable) -> str:
    write_gemm(directory / "gemm.csv", table.tokens, table.seconds)
    return f"{len(table.tokens)} sizes up to {table.tokens[-1]} tokens"


def _save_decode(directory: Path, grid: AttentionGrid) -> str:
    return _save_attention(directory / "decode_attention.csv", grid)


def _save_prefill(directory: Path, grid: AttentionGrid) -> str:
    return _save_attention(directory / "prefill_attention.csv", grid)


def _save_attention(path: Path, grid: AttentionGrid) -> str:
    write_attention(path, grid)
    return f"{len(grid.batches)} batches up to {grid.batches[-1]:g}, {len(grid.lengths)} lengths"


def _save_small(directory: Path, grid: SmallGrid) -> str:
    write_small(directory / "small.csv", grid)
    return f"{len(grid.tokens)} sizes up to {grid.tokens[-1]} tokens"


def _save_pairs(directory: Path, pairs: Pairs) -> str:
    """The pairs, and the overlap that is fitted to them."""
    columns = [*(x.tolist() for x in pairs[:4]), *(list(map(to_text, x)) for x in pairs[4:])]
    header = ["tokens", "batch", "context", "attention_sms"]
    times = ["compute_us", "memory_us", "together_us"]
    write_rows(directory / f"{PAIRS}.csv", header + times, zip(*columns, strict=True))
    fit = fit_overlap(pairs)
    write_overlap(fit, directory / OVERLAP_FILE)
    return f"{len(pairs.tokens)} timings of {fit.sizes} pairs"


def _save_skewed(directory: Path, rows: list[SkewRow]) -> str:
    header = ["batch", "context", "longest", "uniform_us", "skewed_us"]
    return _save_rows(directory / f"{SKEWED}.csv", header, rows, 3)


def _save_chunks(directory: Path, rows: list[ChunkRow]) -> str:
    tokens, computed, seconds = (np.array(values, np.float64) for values in zip(*rows, strict=True))
    write_chunks(directory / f"{CHUNKS}.csv", ChunkTimes(tokens, computed, seconds))
    return f"{len(rows)} sizes"


def _save_rows(path: Path, header: list[str], rows: Iterable[Sequence[Any]], cut: int) -> str:
    """Rows of counts up to column `cut` and of seconds from there on."""
    lines = [[*row[:cut], *map(to_text, row[cut:])] for row in rows]
    write_rows(path, header, lines)
    return f"{len(lines)} sizes"


#: In the order they are measured: without the first three a profile does not load.
TABLES = (
    Table("gemm", 0.25, measure_gemm, _save_gemm),
    Table("decode_attention", 0.2, measure_decode, _save_decode),
    Table("prefill_attention", 0.1, measure_prefill, _save_prefill),
    Table(PAIRS, 0.3, measure_pairs, _save_pairs),
    Table("small", 0.05, measure_small, _save_small),
    Table(SKEWED, 0.05, measure_skewed, _save_skewed),
    Table(CHUNKS, 0.05, measure_chunks, _save_chunks),
)

#: What they are written to.
TABLE_FILES = (*(f"{table.name}.csv" for table in TABLES), OVERLAP_FILE)
