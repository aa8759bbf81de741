"""Tables of engines beside each other on the same pools: vLLM as gpu_vllm.py ran it, and ours.

vLLM's steps are priced by our step model, too, one operator after another: by what its scheduler
put into each of them. No vLLM kernel was measured for it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from evidence_runs import (
    MEASURED,
    SEQUENTIAL,
    Floats,
    Run,
    bins_of,
    prices_of,
    profile_of,
    system_of,
)
from machine import row

from blendsim.perf.kernels import dense_seconds, memory_seconds
from blendsim.perf.model import step_model
from blendsim.perf.overlap import SUM
from blendsim.perf.store import read_profile
from blendsim.serving.flavour import find_flavour
from blendsim.steplog import StepLog, read_steplog

VLLM = "vllm"  # the folder of its logs in a run's, and the engine's name
OURS = "blendrt"
_EDGES = (1, 65, 129, 193, 257, 321, 385, 449, 513)  # decodes of a step
_LEAST = 20  # steps of a bin that say something


class EngineRun(NamedTuple):
    """A pool served by an engine to its end."""

    visit: Run
    engine: str
    pool: str
    policy: str
    budget: int  # tokens a step at most
    log: StepLog
    price: Floats  # seconds a step by the measured profile

    @property
    def name(self) -> str:
        """As tables show it."""
        return f"{self.engine}, {self.policy}, {self.budget:,}"

    @property
    def seconds(self) -> float:
        """Until the last step ends."""
        return float((self.log.time("start") + self.log.time("seconds")).max())


def engine_runs(runs: list[Run]) -> list[EngineRun]:
    """vLLM's runs, and ours of the same pools; the slowest of a pool first."""
    theirs = [one for run in runs for one in _theirs(run)]
    pools = {one.pool for one in theirs}
    found = [*theirs, *(one for run in runs for one in _ours(run) if one.pool in pools)]
    return sorted(found, key=lambda one: (one.pool, -one.seconds))


def _theirs(run: Run) -> Iterator[EngineRun]:
    for path in sorted((run.place / VLLM).glob("*.parquet")):
        named, budget = path.stem.split(f"-{VLLM}-")
        pool, _, policy = named.rpartition("-")
        log = read_steplog(path)
        told = StepLog(log.counts, log.times, log.replica, {**log.meta, "executor": SEQUENTIAL})
        price = prices_of(told, profile_of(run.place, told))[MEASURED]
        yield EngineRun(run, VLLM, pool, policy, int(budget), told, price)


def _ours(run: Run) -> Iterator[EngineRun]:
    for replay in run.replays:
        if replay.is_whole and not replay.is_sampled:
            log, settings = replay.log, replay.log.meta["settings"]
            budget = find_flavour(settings["engine"], settings["token_budget"]).token_budget
            price = replay.prices[MEASURED]
            yield EngineRun(run, OURS, replay.pool, replay.policy, budget, log, price)


def engine_table(runs: list[Run]) -> Iterator[str]:
    """Time and throughput. Recomputed is what preempted requests had computed."""
    head = ("pool", "run", "engine, order, token budget", "steps", "seconds", "output tokens/s")
    more = ("tokens computed", "preempted", "model, error", "of a step, median")
    yield row(*head, *more)
    yield row(*["---"] * len((*head, *more)))
    for one in engine_runs(runs):
        log, seconds = one.log, one.log.time("seconds")
        computed = log.count("prefill_tokens").sum() + log.count("decode_requests").sum()
        yield row(
            one.pool,
            one.visit.name,
            one.name,
            f"{len(log):,}",
            f"{one.seconds:.2f}",
            f"{log.count('sampled_tokens').sum() / one.seconds:,.0f}",
            f"{computed:,}",
            f"{log.count('preempted').sum():,}",
            f"{one.price.sum() / seconds.sum() - 1.0:+.1%}",
            f"{np.median(np.abs(one.price / seconds - 1.0)):.1%}",
        )


def engine_step_table(runs: list[Run]) -> Iterator[str]:
    """What steps of decodes alone take less their attention and LM head as priced, by how many
    decodes there are: milliseconds, medians.
    """
    found = engine_runs(runs)
    made = [(one.name, _dense(one)) for one in found]
    yield row(
        "decodes",
        *(f"{one.visit.name}: {name}" for one, (name, _) in zip(found, made, strict=True)),
    )
    yield row(*["---"] * (1 + len(made)))
    decodes = np.concatenate([of.decodes for _, of in made]) if made else np.zeros(0)
    for name, _ in bins_of(decodes, _EDGES):
        cells = []
        for _, of in made:
            here = dict(bins_of(of.decodes, _EDGES)).get(name, np.zeros(len(of.decodes), np.bool_))
            enough = here.sum() >= _LEAST
            told = f"{1e3 * np.median(of.seconds[here]):.2f}" if enough else ""
            cells.append(told)
        yield row(name, *cells)


class Dense(NamedTuple):
    """The dense part of steps of decodes alone."""

    decodes: np.ndarray
    seconds: Floats


def _dense(one: EngineRun) -> Dense:
    log, system = one.log, system_of(one.log)
    profile = read_profile(profile_of(one.visit.place, log))
    tables = step_model(system, SUM, profile).tables
    rows = log.count("prefill_tokens") == 0
    decodes, context = log.count("decode_requests")[rows], log.count("context_tokens")[rows]
    beside = [
        memory_seconds(tables, int(n), int(c)) + dense_seconds(tables.head, int(n))
        for n, c in zip(decodes, context, strict=True)
    ]
    return Dense(decodes, log.time("seconds")[rows] - np.array(beside))
