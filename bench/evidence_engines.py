"""Tables of engines beside each other on the same pools: vLLM as gpu_vllm.py ran it, and ours.

vLLM's steps are priced by our step model, too, one operator after another: by what its scheduler
put into each of them. No vLLM kernel was measured for it.
"""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
from evidence_runs import (
    MEASURED,
    SEQUENTIAL,
    Run,
    prices_of,
    profile_of,
    system_of,
)
from machine import row

from blendsim.arrays import Floats
from blendsim.perf.kernels import dense_seconds, memory_seconds
from blendsim.perf.model import step_model
from blendsim.perf.overlap import SUM
from blendsim.perf.store import read_profile
from blendsim.serving.flavour import VLLM_PLANNED, find_flavour
from blendsim.steplog import StepLog, read_steplog

VLLM = "vllm"  # the folder of its logs in a run's, and the engine's name
#: By what gpu_vllm.py calls a log: the engine that simulates what vLLM did there, scheduling by
#: itself or following a plan.
ENGINES = {"vllm": VLLM, "followed": VLLM_PLANNED}
_NAME = re.compile(rf"(.+)-(.+)-({'|'.join(ENGINES)})-(\d+)(?:-of-(\d+))?")
OURS = "blendrt"
DFS = "dfs"
SIMULATED = "simulated.json"  # beside vLLM's logs: what the simulator says of the same plans
_EDGES = (1, 65, 129, 193, 257, 321, 385, 449, 513)  # decodes of a step
_LEAST = 20  # steps of a bin that say something
_SMALL = 512  # tokens of a step, prompts' and decodes'
_KINDS = ("decodes alone", f"prompts too, up to {_SMALL} tokens", "more")


class Simulated(NamedTuple):
    """What the simulator says of a plan, or of its first steps, by kernels alone."""

    seconds: float
    steps: int
    preempted: int
    computed: int  # tokens
    whole: float | None = None  # seconds of the whole plan, where the others are of first steps
    #: Seconds by the calibration that was shipped when the visit was kept; None where none was.
    calibrated: float | None = None


class Called(NamedTuple):
    """What the name of a log of vLLM's says."""

    pool: str
    policy: str
    engine: str
    budget: int
    running: int | None  # requests at a time at most; None as vLLM has it by itself

    @property
    def plan(self) -> str:
        """The name of the plan that was run."""
        return f"{self.pool}-{self.policy}"


def called(stem: str) -> Called | None:
    """None if no log that gpu_vllm.py writes is called so."""
    if (found := _NAME.fullmatch(stem)) is None:
        return None
    pool, policy, how, budget, running = found.groups()
    return Called(
        pool, policy, ENGINES[how], int(budget), None if running is None else int(running)
    )


class EngineRun(NamedTuple):
    """A pool served by an engine, to its end or cut short."""

    visit: Run
    engine: str
    pool: str
    policy: str
    budget: int  # tokens a step at most
    running: int | None  # requests at a time at most; None as the engine has it by itself
    log: StepLog
    price: Floats  # seconds a step by the measured profile
    simulated: Simulated

    @property
    def name(self) -> str:
        """As tables show it."""
        limit = "" if self.running is None else f", {self.running:,} running"
        return f"{self.engine}, {self.policy}, {self.budget:,}{limit}"

    @property
    def model(self) -> str:
        """Which it served."""
        return str(self.log.meta["model"])

    @property
    def is_whole(self) -> bool:
        """Whether it came to its end."""
        return bool(self.log.meta["complete"])

    @property
    def seconds(self) -> float:
        """Until the last step that ran ends."""
        return float((self.log.time("start") + self.log.time("seconds")).max())

    @property
    def stretch(self) -> float:
        """The whole over what ran, by simulated seconds; 1 for a run that came to its end."""
        said = self.simulated
        return 1.0 if said.whole is None else said.whole / said.seconds


def engine_runs(runs: list[Run]) -> list[EngineRun]:
    """vLLM's runs, and ours of the same pools and models; the slowest of a pool first."""
    theirs = [one for run in runs for one in _theirs(run)]
    served = {(one.pool, one.model) for one in theirs}
    ours = [one for run in runs for one in _ours(run) if (one.pool, one.model) in served]
    found = [*theirs, *ours]
    return sorted(found, key=lambda one: (one.pool, -one.seconds * one.stretch))


def told_by(log: StepLog) -> Simulated:
    """Of a simulator's log."""
    return Simulated(
        seconds=float((log.time("start") + log.time("seconds")).max()),
        steps=len(log),
        preempted=int(log.count("preempted").sum()),
        computed=computed_tokens(log),
    )


def told_by_first(log: StepLog, steps: int) -> Simulated:
    """Of the first steps of a simulator's log."""
    first = StepLog(log.counts[:steps], log.times[:steps], log.replica[:steps], log.meta)
    return told_by(first)._replace(whole=told_by(log).seconds)


def computed_tokens(log: StepLog) -> int:
    """Of prompts, recomputed ones and decodes."""
    return int(log.count("prefill_tokens").sum() + log.count("decode_requests").sum())


def _theirs(run: Run) -> Iterator[EngineRun]:
    place = run.place / VLLM
    if not place.exists():
        return
    simulated = json.loads((place / SIMULATED).read_text())
    for path in sorted(place.glob("*.parquet")):
        name = called(path.stem)
        assert name is not None, f"{path}: gpu_evidence.py keeps no such log"
        log = read_steplog(path)
        told = StepLog(log.counts, log.times, log.replica, {**log.meta, "executor": SEQUENTIAL})
        price = prices_of(told, profile_of(run.place, told))[MEASURED]
        said = Simulated(**simulated[path.stem])
        pool, policy, engine, budget, running = name
        yield EngineRun(run, engine, pool, policy, budget, running, told, price, said)


def _ours(run: Run) -> Iterator[EngineRun]:
    for replay in run.replays:
        if replay.is_whole and not replay.is_sampled:
            log, settings = replay.log, replay.log.meta["settings"]
            budget = find_flavour(settings["engine"], settings["token_budget"]).token_budget
            price = replay.prices[MEASURED]
            # The same core decides the steps: simulated, they are these at their prices.
            said = told_by(log)._replace(seconds=float(price.sum()))
            of = (replay.pool, replay.policy, budget, None)
            yield EngineRun(run, OURS, *of, log, price, said)


def engine_table(runs: list[Run]) -> Iterator[str]:
    """Time and throughput, and what was computed for it: more than is needed where requests are
    preempted. Where the simulator says something else of a schedule, that stands in brackets.
    """
    head = ("pool", "run", "engine, order, token budget", "seconds", "output tokens/s", "steps")
    more = ("preempted", "tokens computed", "simulated, s", "error", "its steps priced, error")
    more += ("calibrated then, s",)
    yield row(*head, *more)
    yield row(*["---"] * len((*head, *more)))
    for one in engine_runs(runs):
        log, said = one.log, one.simulated
        preempted = int(log.count("preempted").sum())
        yield row(
            one.pool,
            one.visit.name,
            one.name + ("" if one.is_whole else " (cut short)"),
            f"{one.seconds:.2f}",
            f"{log.count('sampled_tokens').sum() / one.seconds:,.0f}",
            _beside(len(log), said.steps),
            _beside(preempted, said.preempted),
            _beside(computed_tokens(log), said.computed),
            f"{said.seconds:.1f}",
            f"{said.seconds / one.seconds - 1.0:+.1%}",
            f"{one.price.sum() / log.time('seconds').sum() - 1.0:+.1%}",
            "" if said.calibrated is None else f"{said.calibrated:.1f}",
        )


def _beside(measured: int, simulated: int) -> str:
    return f"{measured:,}" + (f" ({simulated:,})" if simulated != measured else "")


def engine_ratio_table(runs: list[Run]) -> Iterator[str]:
    """How much faster our runs, and vLLM's that follow a plan, are fed another order or run fewer
    requests at a time, are than vLLM in prefix order (`bases_of`), measured and simulated. Where
    vLLM was cut short the ratio is a lower bound, with an estimate beside it.
    """
    yield row("pool", "run", "faster", "than", "measured", "simulated", "error")
    yield row(*["---"] * 7)
    for pool, found in groupby(engine_runs(runs), lambda one: one.pool):
        mine = list(found)
        pairs = ((one, base) for one in mine if one.is_whole for base in bases_of(one, mine))
        for one, base in pairs:
            least, factor = base.seconds / one.seconds, base.stretch
            said = base.simulated.seconds * factor / one.simulated.seconds
            told = f"{least:.3f}" if base.is_whole else f"> {least:.3f}, about {least * factor:.3f}"
            error = f"{said / (least * factor) - 1.0:+.1%}"
            than = f"{base.visit.name}: {base.name}"
            yield row(pool, one.visit.name, one.name, than, told, f"{said:.3f}", error)


def is_usual(one: EngineRun) -> bool:
    """Whether it is vLLM in prefix order, under whatever limits."""
    return (one.engine, one.policy) == (VLLM, DFS)


def bases_of(one: EngineRun, found: Sequence[EngineRun]) -> list[EngineRun]:
    """vLLM's runs of the pool in prefix order that one is held against: of the same visit the best,
    and the best under vLLM's own running limit if that is another; where the visit had none, the
    best under that limit of any visit.
    """
    usual = [base for base in found if is_usual(base) and base.pool == one.pool]
    beside = [base for base in usual if base.visit.name == one.visit.name]
    own = [base for base in beside or usual if base.running is None]
    if is_usual(one):
        beside, own = [], [] if one.running is None else [base for base in beside if base in own]
    groups = [group for group in (beside, own) if group]
    best = [min(group, key=lambda base: base.seconds * base.stretch) for group in groups]
    return best[:1] if len(best) == 2 and best[0] is best[1] else best


def engine_step_table(runs: list[Run]) -> Iterator[str]:
    """What steps of decodes alone take less their attention and LM head as priced, by how many
    decodes there are: milliseconds, medians.
    """
    sizes = list(pairwise(_EDGES))
    names = [f"{low} to {high - 1} decodes" for low, high in sizes]
    yield row("pool", "run", "engine, order, token budget", *names)
    yield row(*["---"] * (3 + len(names)))
    for one in engine_runs(runs):
        dense = _dense(one)
        cells = []
        for low, high in sizes:
            here = (dense.decodes >= low) & (dense.decodes < high)
            enough = here.sum() >= _LEAST
            cells.append(f"{1e3 * np.median(dense.seconds[here]):.2f}" if enough else "")
        yield row(one.pool, one.visit.name, one.name, *cells)


def engine_kind_table(runs: list[Run]) -> Iterator[str]:
    """Steps by what is in them: how many, the mean of their milliseconds, and how far the price by
    our kernels is from that.
    """
    yield row(
        "pool", "run", "engine, order, token budget", *(f"{kind}: steps, ms" for kind in _KINDS)
    )
    yield row(*["---"] * (3 + len(_KINDS)))
    for one in engine_runs(runs):
        prompts = one.log.count("prefill_tokens")
        tokens = prompts + one.log.count("decode_requests")
        is_small = tokens <= _SMALL
        kinds = (prompts == 0, (prompts > 0) & is_small, (prompts > 0) & ~is_small)
        yield row(one.pool, one.visit.name, one.name, *(_of_kind(one, here) for here in kinds))


def _of_kind(one: EngineRun, here: np.ndarray) -> str:
    if here.sum() < _LEAST:
        return ""
    seconds, price = one.log.time("seconds")[here], one.price[here]
    error = price.sum() / seconds.sum() - 1.0
    return f"{here.sum():,}, {1e3 * seconds.mean():.1f} ({error:+.1%})"


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
