"""Finding a calibration: from step logs of a runtime, and what its kernels take for those steps."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from blendsim.arrays import Bools, Floats, Ints
from blendsim.errors import ProfileError
from blendsim.perf.calibration import LEAST, Calibration, KernelSeconds
from blendsim.perf.model import StepModel
from blendsim.perf.pricing import price_steps, price_work
from blendsim.perf.step import step_costs
from blendsim.steplog import COUNTS, StepLog

LEAST_STEPS = 100  # of a kind, or of a tile; a fit to fewer would follow their noise
LEAST_READS = 0.5  # of what the kernels say; a fit below has found something else than reads
#: Tokens of a step, at most, that have a factor of their own: GEMMs are stairs of tiles of 64
#: tokens, and of more than 1,024 no runtime launches steps as graphs.
TILES = (64, 128, 192, 256, 320, 384, 448, 512, 640, 768, 1_024)
#: By how much, of a step in the median and relatively, factors must come nearer to logs that they
#: were not fitted to, to be worth having: they are many, and follow a single run's noise.
_NEARER, _RELATIVELY_NEARER = 1e-3, 0.1


class MeasuredSteps(NamedTuple):
    """The measured steps of a run that decode: the others, of prompts alone, are few, and a
    runtime's first ones warm it up.
    """

    seconds: Floats  # (steps,), as measured, each to the next one's start
    work: KernelSeconds

    def priced(self, by: Calibration) -> Floats:
        """(steps,): seconds by a calibration."""
        return by.seconds(self.work)

    def error(self, by: Calibration) -> tuple[float, float]:
        """How far the sum of the steps is off, and half of the steps at most."""
        priced = self.priced(by)
        steps = np.abs(priced / self.seconds - 1.0)
        return float(priced.sum() / self.seconds.sum() - 1.0), float(np.median(steps))


def priced_run(log: StepLog, model: StepModel) -> MeasuredSteps:
    """A measured run, its kernels priced one after another; ProfileError if none of its steps
    decodes. What lies between two steps counts for the first: nobody else uses the GPU then, and
    where the host is slower than the kernels it is much.
    """
    here = log.is_timed & (log.count("decode_requests") > 0) & (log.time("seconds") > 0)
    here &= ~log.is_halved  # halves do not run one operator after another
    if not here.any():
        raise ProfileError("holds no measured step that decodes; give the log of a longer run")
    return MeasuredSteps(log.paces[here], kernel_seconds(log.counts[here], model))


def kernel_seconds(counts: Ints, model: StepModel) -> KernelSeconds:
    """What the kernels of these steps take; rows begin with Batch's fields."""
    bare = replace(model, calibration=None)
    costs = step_costs(bare, overlaps=False, overlaps_network=False)
    memory = price_work(costs, counts).memory
    compute = price_steps(costs, counts) - memory  # all-reduces are in it
    prompts, decodes = (
        counts[:, COUNTS.index(name)] for name in ("prefill_tokens", "decode_requests")
    )
    tokens, layers = prompts + decodes, bare.tables.layers
    last = len(layers) - 1  # beyond the table at its last rate
    own = layers[np.minimum(tokens, last)] * np.maximum(tokens / last, 1.0)
    return KernelSeconds(compute, memory, (prompts > 0) & (decodes > 0), own, tokens, decodes)


def fit_steps(runtime: str, runs: Sequence[MeasuredSteps]) -> Calibration:
    """The calibration that is nearest to these runs: least squares, a step's variance taken to grow
    with what its kernels take, so that long steps do not count for all.

    A kind of step (mixed or not) of which there are fewer than LEAST_STEPS is left out and priced
    like the other; ProfileError where that holds of both. Factors by tiles and seconds by decode
    are taken where, fitted to all runs but one, they come nearer to that one, on the mean of all.
    """
    flat = _fit(runtime, runs, has_tiles=False)
    if len(runs) < 2:
        return flat
    try:
        apart = [
            [_left_out(runtime, runs, i, has_tiles) for i in range(len(runs))]
            for has_tiles in (False, True)
        ]
        tiled = _fit(runtime, runs, has_tiles=True)
    except ProfileError:  # without one of them too few steps, or none that tell what reads take
        return flat
    without, with_tiles = (float(np.mean(errors)) for errors in apart)
    needed = max(_NEARER, _RELATIVELY_NEARER * without)
    return tiled if without - with_tiles >= needed else flat


def _left_out(runtime: str, runs: Sequence[MeasuredSteps], i: int, has_tiles: bool) -> float:
    """How far half of a run's steps are off by what is fitted to the others."""
    others = [run for k, run in enumerate(runs) if k != i]
    return runs[i].error(_fit(runtime, others, has_tiles))[1]


def _fit(runtime: str, runs: Sequence[MeasuredSteps], has_tiles: bool) -> Calibration:
    from scipy.optimize import nnls

    took = np.concatenate([run.seconds for run in runs])
    work = KernelSeconds(*map(np.concatenate, zip(*(run.work for run in runs), strict=True)))
    mixed = work.is_mixed
    kinds = [kind for kind in (mixed, ~mixed) if kind.sum() >= LEAST_STEPS]
    if not kinds:
        raise ProfileError(
            f"{mixed.sum():,} steps with prompts beside decodes and {(~mixed).sum():,} of decodes "
            f"alone are too few; give logs with at least {LEAST_STEPS:,} of a kind"
        )
    used = np.any(kinds, axis=0)
    own = np.column_stack([work.memory, np.ones_like(work.memory)])
    columns = [own, mixed[:, None] * own if len(kinds) == 2 else np.zeros_like(own)]
    tiles = _in_tiles(work, used) if has_tiles else {}
    columns.append(work.decodes[:, None] * float(has_tiles))
    columns += [layers[:, None] for layers in tiles.values()]
    weights = 1.0 / np.sqrt(np.maximum(work.compute + work.memory, 1e-9))
    left = np.concatenate(columns, axis=1) * weights[:, None]
    right = (took - work.compute + sum(tiles.values())) * weights
    left, right = left[used], right[used]
    held = _held_to_kernels(left, len(tiles))
    left = np.concatenate([left, held])
    right = np.concatenate([right, held.sum(1)])
    size = np.linalg.norm(left, axis=0)
    size[size == 0.0] = 1.0
    found = nnls(left / size, right)[0] / size
    if found[0] < LEAST_READS:
        raise ProfileError(
            f"these steps would read KV in {found[0]:.2f} of the time that the kernels take: their "
            "reads are too alike to tell; give logs of runs with longer contexts, or more of them"
        )
    reads, step, mixed_reads, mixed_step, decode = found[:5].tolist()
    return Calibration(
        runtime,
        reads,
        step,
        mixed_reads,
        mixed_step,
        decode,
        _all_tiles(list(tiles), found[5:]),
    )


def _in_tiles(work: KernelSeconds, used: Bools) -> dict[int, Floats]:
    """(steps,) seconds of the layers in steps of a tile, 0 in others; by tile, those of enough
    steps.
    """
    tile = np.searchsorted(TILES, work.tokens)
    return {
        k: np.where(tile == k, work.layers, 0.0)
        for k in range(len(TILES))
        if (used & (tile == k)).sum() >= LEAST_STEPS
    }


def _held_to_kernels(left: Floats, tiles: int) -> Floats:
    """Rows more that say of each tile, as LEAST_STEPS of its steps would, that it is as the kernels
    have it: of steps that hardly differ the factor would be anything.
    """
    rows = np.zeros((tiles, left.shape[1]))
    for row, k in enumerate(range(left.shape[1] - tiles, left.shape[1])):
        there = left[:, k][left[:, k] > 0.0]
        rows[row, k] = np.sqrt(LEAST_STEPS * np.mean(there**2))
    return rows


def _all_tiles(fitted: Sequence[int], factors: Floats) -> tuple[tuple[float, float], ...]:
    """The factor of every tile up to the last fitted one: of those that were not fitted, between
    their neighbours', and 1 below the first.
    """
    if not fitted:
        return ()
    every = np.interp(np.arange(fitted[-1] + 1), fitted, np.maximum(factors, LEAST), left=1.0)
    return tuple(zip(map(float, TILES), every.tolist(), strict=False))
