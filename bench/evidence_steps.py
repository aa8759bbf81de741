"""Where the step model misses: its error by what a step holds, and what is left of it when single
causes are taken away. Sequential runs tell kernels apart; overlapped ones are held against them.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from evidence_replays import host_seconds
from evidence_runs import (
    MEASURED,
    OVERLAP,
    SEQUENTIAL,
    Replay,
    Run,
    bins_of,
    profile_of,
    system_of,
)
from gpu_options import POLICIES
from machine import row

from blendsim.arrays import Floats
from blendsim.perf.kernels import memory_seconds, prefill_seconds
from blendsim.perf.model import StepModel, step_model
from blendsim.perf.overlap import SUM
from blendsim.perf.profile import Profile
from blendsim.perf.store import read_profile

FULL_TOKENS = 2000  # a step with a full budget's tokens
_SINCE = (0.1, 0.8, 1.1, 4.0, 20.0, 100.0)  # seconds; before that the host may be late
_RATIOS = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 100.0)


class Parts(NamedTuple):
    """The model's seconds of each measured step, one operator after another."""

    layers: Floats  # GEMMs and small operators
    head: Floats
    prefill: Floats
    memory: Floats  # decode attention

    @property
    def total(self) -> Floats:
        """All of them."""
        return np.asarray(sum(self))


class Steps(NamedTuple):
    """The measured steps of a replay."""

    replay: Replay
    seconds: Floats
    price: Floats  # by the measured profile
    parts: Parts
    tokens: np.ndarray
    prefill_tokens: np.ndarray
    is_late: np.ndarray  # priced below the host's median work
    is_cut: np.ndarray  # ran in two halves

    @property
    def groups(self) -> dict[str, np.ndarray]:
        """Kinds of steps, each step in one."""
        full = self.tokens >= FULL_TOKENS
        cut = self.is_cut & ~self.is_late & ~full
        rest = ~(self.is_late | full | cut)
        mixed = self.prefill_tokens > 0
        return {
            "priced below the host's work": self.is_late & ~full,
            f"{FULL_TOKENS:,} tokens and more": full,
            "cut in two halves": cut,
            "others with prefill": rest & mixed,
            "others of decodes alone": rest & ~mixed,
        }


def staircase(profile: Profile) -> Profile:
    """The profile with GEMMs that take as long as the cheapest measured size that is not smaller,
    between measured sizes too: no line is drawn from one to the next.
    """
    least = np.minimum.accumulate(profile.gemm[::-1])[::-1]
    tokens = np.repeat(profile.tokens, 2)[1:]
    tokens[1::2] = tokens[0:-1:2] + 1
    after = np.repeat(least, 2, axis=0)[2:]
    gemm = np.concatenate((least[:1], after))
    kept = np.concatenate(([True], np.diff(tokens) > 0))
    return replace(profile, tokens=tokens[kept], gemm=gemm[kept])


def parts_of(model: StepModel, replay: Replay) -> Parts:
    """The model's parts of each measured step."""
    counts, tables = replay.log.counts[replay.log.is_timed], model.tables
    chunks = [prefill_seconds(tables, *map(int, c[:3])) if c[0] else 0.0 for c in counts]
    reads = [memory_seconds(tables, int(c[3]), int(c[4])) for c in counts]
    layers, head = tables.layers[counts[:, 0] + counts[:, 3]], tables.head[counts[:, 5]]
    return Parts(layers, head, np.array(chunks), np.array(reads))


def steps_of(run: Run, replay: Replay) -> Steps:
    """A replay's measured steps, with all that is told apart about them."""
    log, rows = replay.log, replay.log.is_timed
    parts = parts_of(
        step_model(system_of(log), SUM, read_profile(profile_of(run.place, log))), replay
    )
    price, prefill = replay.prices[MEASURED][rows], log.count("prefill_tokens")[rows]
    return Steps(
        replay=replay,
        seconds=log.time("seconds")[rows],
        price=price,
        parts=parts,
        tokens=prefill + log.count("decode_requests")[rows],
        prefill_tokens=prefill,
        is_late=price < host_seconds(run, replay),  # never where that is not known
        is_cut=replay.is_halved[rows],
    )


def group_table(runs: list[Run]) -> Iterator[str]:
    """The seconds that the model misses, by kind of step."""
    yield row("run", "replay", "steps", "how many", "seconds", "missing, s", "error", "P10", "P90")
    yield row(*["---"] * 9)
    for run in runs:
        for replay in run.replays:
            steps = steps_of(run, replay)
            for name, is_here in steps.groups.items():
                if not is_here.any():
                    continue
                took, price = steps.seconds[is_here], steps.price[is_here]
                low, high = np.quantile(price / took - 1.0, (0.1, 0.9))
                missing = float(took.sum() - price.sum())
                cells = (f"{took.sum():.2f}", f"{missing:+.2f}", f"{-missing / took.sum():+.1%}")
                ends = (f"{low:+.1%}", f"{high:+.1%}")
                yield row(run.name, replay.name, name, f"{is_here.sum():,}", *cells, *ends)


def settling_table(runs: list[Run]) -> Iterator[str]:
    """Errors of prefix order's full steps, and how many, by how long the GPU has worked; of whole
    replays in which no step is cut.
    """
    names = [f"{low:g} to {high:g} s" for low, high in pairwise(_SINCE[:-1])]
    yield row("run", "replay", *names, f"from {_SINCE[-2]:g} s")
    yield row(*["---"] * (2 + len(_SINCE) - 1))
    for run in runs:
        for replay in run.replays:
            if replay.policy != POLICIES[0] or replay.is_sampled or replay.is_halved.any():
                continue
            steps, start = steps_of(run, replay), replay.log.time("start")
            cells = []
            for low, high in pairwise(_SINCE):
                here = (steps.tokens >= FULL_TOKENS) & (start >= low) & (start < high)
                took, price = steps.seconds[here].sum(), steps.price[here].sum()
                cells.append(f"{price / took - 1.0:+.1%}, {here.sum()}" if here.any() else "")
            yield row(run.name, replay.name, *cells)


def stairs_of(run: Run, replay: Replay) -> Parts:
    """The parts of each measured step with GEMMs as a staircase."""
    profile = staircase(read_profile(profile_of(run.place, replay.log)))
    return parts_of(step_model(system_of(replay.log), SUM, profile), replay)


def cause_table(runs: list[Run]) -> Iterator[str]:
    """What is left of a sequential run's errors when causes are taken away. The clock's factor is
    found in every other full step and is no prediction.
    """
    yield row("run", "replay", "prices", "total", "median size", "P90 size")
    yield row(*["---"] * 6)
    for run, replay in sequential(runs):
        steps = steps_of(run, replay)
        stairs = stairs_of(run, replay).total
        full = steps.tokens >= FULL_TOKENS
        some = np.flatnonzero(full)[::2]
        factor = float(np.median(steps.seconds[some] / stairs[some])) if len(some) else 1.0
        told = {
            "as they are": steps.price,
            "GEMMs as a staircase": stairs,
            f"and full steps × {factor:.3f}": np.where(full, factor, 1.0) * stairs,
        }
        for name, price in told.items():
            size = np.abs(price / steps.seconds - 1.0)
            total = price.sum() / steps.seconds.sum() - 1.0
            cells = (f"{total:+.1%}", f"{np.median(size):.1%}", f"{np.quantile(size, 0.9):.1%}")
            yield row(run.name, replay.name, name, *cells)


def sequential(runs: list[Run]) -> Iterator[tuple[Run, Replay]]:
    """Every replay that ran one operator after another."""
    for run in runs:
        for replay in run.replays:
            if replay.executor == SEQUENTIAL:
                yield run, replay


def twins(run: Run) -> Iterator[tuple[Replay, Replay]]:
    """(sequential, overlapped) replays of one plan, step by step the same."""
    known = {(r.pool, r.policy, r.executor): r for r in run.replays if not r.is_sampled}
    for (pool, policy, executor), alone in known.items():
        beside = known.get((pool, policy, OVERLAP))
        if executor == SEQUENTIAL and beside is not None:
            yield alone, beside


def twin_table(runs: list[Run]) -> Iterator[str]:
    """Overlapped steps against the same steps run one operator after another."""
    yield row("run", "plan", "steps", "m/c", "how many", "measured", "P10", "P90", "by the model")
    yield row(*["---"] * 9)
    for run in runs:
        for alone, beside in twins(run):
            a, b = steps_of(run, alone), steps_of(run, beside)
            count = min(len(a.seconds), len(b.seconds))
            parts = b.parts
            ratio = (parts.memory / (parts.total - parts.memory))[:count]
            for what, is_cut in (("whole", ~b.is_cut), ("in halves", b.is_cut)):
                rows = is_cut[:count] & ~b.is_late[:count]
                for name, is_in in bins_of(ratio, _RATIOS):
                    if not (here := np.flatnonzero(rows & is_in)).size:
                        continue
                    found = b.seconds[here] / a.seconds[here]
                    ends = np.quantile(found, (0.5, 0.1, 0.9))
                    told = float(np.median(b.price[here] / parts.total[here]))
                    cells = (*(f"{x:.3f}" for x in ends), f"{told:.3f}")
                    where = f"{alone.pool}, {alone.policy}"
                    yield row(run.name, where, what, name, f"{here.size:,}", *cells)
