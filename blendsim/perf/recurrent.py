"""Gated delta nets: layers that go through a state of constant size a request instead of a context
(Yang, Kautz, Hatamizadeh, Gated Delta Networks, arXiv 2412.06464). What one takes for a prompt goes
by its tokens, and for a decode not by its context at all.

Two kernels were measured, and are one here: the convolution over queries, keys and values, and the
rule that reads and writes the state.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blendsim.arrays import Floats
from blendsim.errors import NotMeasured, ProfileError
from blendsim.perf.grids import UNCACHED_BYTES, DeltaGrid, DeltaShape, along
from blendsim.perf.kernels import NO_DELTAS, DeltaTables, delta_seconds
from blendsim.perf.model_shapes import delta_shape
from blendsim.perf.plausible import require_deltas
from blendsim.perf.records import lengths_of, read_rows, times, to_text, whole_keys, write_rows
from blendsim.specs import GpuSpec, ModelSpec
from blendsim.system import System

TABLE = "delta_net.csv"
_KEYS = (*DeltaShape._fields, "batch")
_DECODE = "decode"
_MILLI = 1e-3  # the package counts in ms

Row = Mapping[str, Any]


class Deltas(NamedTuple):
    """Gated delta nets of all layers."""

    decode: Floats  # (B + 1,), seconds of so many decodes
    prompts: DeltaTables
    best: float  # least seconds of a decode
    best_of_prompts: float  # of a prompt's token
    rate: float  # bytes/s of the fastest step of decodes, which reads and writes states


def is_used(row: Row) -> bool:
    """Whether a row of the package is of heads that a GPU has in a model of our table. Smaller
    models have as many heads of values as of keys.
    """
    keys, values = int(row["num_k_heads"]), int(row["num_v_heads"])
    return values > keys > 1


def delta_grids(rows: Iterable[Row]) -> dict[DeltaShape, DeltaGrid]:
    """Grids by heads, from rows of single kernels: a step of a layer runs one of each name, by what
    `phase` it is in. The mean over models that differ in their width alone, which no kernel sees.
    """
    seen: dict[DeltaShape, dict[tuple[int, int], dict[str, list[float]]]] = {}
    for row in filter(is_used, rows):
        shape = DeltaShape(row["num_k_heads"], row["num_v_heads"])
        point = row["batch_size"], row["seq_len"] if row["phase"] == "context" else 0
        kernels = seen.setdefault(shape, {}).setdefault(point, {})
        kernels.setdefault(row["kernel_source"], []).append(row["latency"] * _MILLI)
    return {shape: _grid(points) for shape, points in sorted(seen.items())}


def _grid(points: Mapping[tuple[int, int], Mapping[str, list[float]]]) -> DeltaGrid:
    """Times by requests and the tokens of each, 0 for a decode. A point that not both kernels were
    measured at is none.
    """
    both = {
        point: sum(sum(each) / len(each) for each in kernels.values())
        for point, kernels in points.items()
        if len(kernels) == 2
    }
    batches = sorted({batch for batch, _ in both})
    lengths = sorted({length for _, length in both if length})
    found = np.array([[both.get((b, s), np.nan) for s in (0, *lengths)] for b in batches])
    return DeltaGrid(np.array(batches, float), found[:, 0], np.array(lengths, float), found[:, 1:])


def write_deltas(path: Path, grids: Mapping[DeltaShape, DeltaGrid]) -> None:
    """Write a table of gated delta nets, a row a shape and a batch."""
    lengths = sorted({int(s) for grid in grids.values() for s in grid.lengths})
    rows = []
    for shape, grid in sorted(grids.items()):
        assert grid.lengths.tolist() == lengths, "every shape was measured at the same lengths"
        for batch, decode, prompts in zip(grid.batches, grid.decode, grid.prompts, strict=True):
            rows.append([*shape, int(batch), to_text(decode), *map(to_text, prompts)])
    write_rows(path, [*_KEYS, _DECODE, *map(str, lengths)], rows)


def read_deltas(path: Path, gpu: GpuSpec | None) -> dict[DeltaShape, DeltaGrid]:
    """What `write_deltas` wrote; empty where there is no such table."""
    if not path.exists():
        return {}
    header, rows = read_rows(path, (*_KEYS, _DECODE))
    first = len(_KEYS)
    lengths = lengths_of(path, header, first + 1)
    seconds = times(path, rows, range(first, len(header)), has_holes=True)
    sizes = whole_keys(path, rows, first)
    shapes = [DeltaShape(*row) for row in sizes[:, :2].tolist()]
    batches = sizes[:, 2].astype(np.float64)
    require_deltas(path, gpu, shapes, (batches, lengths), seconds, first)
    grids = {}
    for shape in dict.fromkeys(shapes):
        own = np.array([other == shape for other in shapes])
        if np.isnan(seconds[own][0]).any():
            raise ProfileError(
                f"{path}: {shape.key_heads} and {shape.heads} heads: a hole at the smallest batch; "
                "holes are filled from smaller batches"
            )
        grids[shape] = DeltaGrid(batches[own], seconds[own, 0], lengths, seconds[own, 1:])
    return grids


def derived(
    gpu: GpuSpec, grids: Mapping[DeltaShape, DeltaGrid], model: ModelSpec, tp: int
) -> DeltaGrid:
    """The grid of a model's heads on one of `tp` GPUs. ProfileError where they were not
    measured.
    """
    shape = delta_shape(model, tp)
    if shape not in grids:
        have = ", ".join(f"{s.key_heads}/{s.heads}" for s in grids) or "none"
        instead = "choose another --tp or --model" if grids else "choose another --gpu"
        raise NotMeasured(
            f"{gpu.name}: no linear attention of {shape.key_heads} key and {shape.heads} value "
            f"heads a GPU measured; measured: {have}",
            instead,
        )
    return grids[shape]


def deltas_of(system: System, grid: DeltaGrid | None, most: int) -> Deltas:
    """What all gated delta nets of a model take, for up to `most` decodes."""
    model = system.model
    if not model.delta_heads:
        return Deltas(np.zeros(most + 1), NO_DELTAS, 0.0, 0.0, 0.0)
    assert grid is not None, "a profile of a model with gated delta nets has their table"
    layers, moved = model.windowed_layers, 2 * delta_shape(model, system.tp).state_bytes
    decode = np.zeros(most + 1)
    decode[1:] = layers * _decodes(grid, moved, system.gpu.bandwidth, np.arange(1.0, most + 1.0))
    best = float((decode[1:] / np.arange(1, most + 1)).min())
    whole = 2 * model.state_bytes / system.tp
    prompts = DeltaTables(grid.batches, grid.lengths, layers * _filled(grid))
    return Deltas(decode, prompts, best, _best_of_prompts(prompts), whole / best)


def _best_of_prompts(tables: DeltaTables) -> float:
    """The least seconds of a prompt's token. Straight lines between measured points are nowhere
    below the least rate at them. Chunks shorter than the shortest are on a line beyond them, which
    is least at its other end, a token.
    """
    return min(
        float(delta_seconds(tables, int(n * batch), int(batch))) / float(n * batch)
        for batch in tables.batches
        for n in (1.0, *tables.lengths)
    )


def _decodes(grid: DeltaGrid, moved: int, bandwidth: float, batches: Floats) -> Floats:
    """Seconds of one layer by decodes that move `moved` bytes of state each. None moves them faster
    than was measured where no cache holds them, or than the bandwidth where that was not: a
    benchmark repeats one layer, and finds the states of a small batch in the cache.
    """
    is_measured = ~np.isnan(grid.decode)
    sizes, seconds = grid.batches[is_measured], grid.decode[is_measured]
    cold = (seconds / sizes)[sizes * moved >= UNCACHED_BYTES]
    fastest = float(cold.min()) if len(cold) else moved / bandwidth
    return np.maximum(along(sizes, seconds, batches), fastest * batches)


def _filled(grid: DeltaGrid) -> Floats:
    """Prompts with holes filled: at the rate of the next smaller batch."""
    seconds = grid.prompts.copy()
    for i in range(1, len(seconds)):
        scaled = seconds[i - 1] * (grid.batches[i] / grid.batches[i - 1])
        seconds[i] = np.where(np.isnan(seconds[i]), scaled, seconds[i])
    return seconds
