"""Sampled replay: a few steps of a plan, each rebuilt as it stood and timed, and from them the time
of all.

The serving core decides every step without executing any, so counts are exact, and a run of hours
is measured in about a minute. docs/validate.md says what the interval covers and what it does not.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from blendrt.batch import BatchBuilder, OutputTokens
from blendrt.kv_pool import KvPool
from blendrt.loading import (
    Runtime,
    make_executor,
    make_pool,
    require_attention_room,
    thread_for_small,
)
from blendrt.machine import device_name
from blendrt.pages import pool_pages
from blendrt.recorder import Recorder
from blendrt.replay.job import Job
from blendrt.replay.rebuild import Rebuilder
from blendrt.replay.timing import ExecutorTimer, Timer
from blendrt.replay.warm_up import warm_up
from blendrt.tokens import PromptTokens
from blendsim.arrays import Floats, Ints
from blendsim.batch import Batch
from blendsim.errors import InputError, ProfileError
from blendsim.perf.measured import chosen_model
from blendsim.perf.pricing import price_steps
from blendsim.report.sampling import (
    LEAST,
    Estimate,
    Sample,
    choose_sample,
    estimate,
    strata_table,
)
from blendsim.serving.ahead import all_counts, visit
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import Flavour
from blendsim.serving.state import State
from blendsim.steplog import HALVED, MEASURED_ROWS, TIMES, StepLog, row_ranges
from blendsim.system import System

Price = Callable[[Ints], Floats | None]  # a model's seconds of steps, by their counts


@dataclass(slots=True, eq=False)
class RankSample:
    """One rank's run: its core before the first step, every step's counts, and what was measured of
    the chosen ones so far.
    """

    rank: int
    core: ServingCore
    counts: Ints  # (steps, COUNTS)
    model: Floats | None  # (steps,), seconds by a performance model
    sample: Sample
    seconds: list[float] = field(default_factory=list)
    halved: list[bool] = field(default_factory=list)  # which of them were cut in two

    @property
    def is_complete(self) -> bool:
        """Whether all chosen steps were measured."""
        return len(self.seconds) == len(self.sample.chosen)

    def estimate(self) -> Estimate:
        """The rank's seconds, once all chosen steps are measured."""
        return estimate(self.sample, np.array(self.seconds), self.model)

    def steps(self) -> Floats:
        """(steps,) seconds: as estimated. Before all is measured the others are a guess at the rate
        of those that are.
        """
        if self.is_complete:
            return self.estimate().steps
        known = self.sample.chosen[: len(self.seconds)]
        weights = np.ones(len(self.counts)) if self.model is None else self.model
        rate = sum(self.seconds) / float(weights[known].sum()) if len(known) else 0.0
        steps: Floats = rate * weights
        steps[known] = self.seconds
        return steps


class SampledReplay:
    """A plan's steps and the sample of them. Making one needs no device; `measure` does."""

    def __init__(self, job: Job, number: int, seed: int = 0, price: Price = lambda _: None) -> None:
        self._job = job
        self._rng = np.random.default_rng(seed)
        cores = {rank: job.core(rank) for rank in job.ranks}
        counts = [all_counts(_copied(core)) for core in cores.values()]
        numbers = _split(number, [len(table) for table in counts])
        self.ranks: list[RankSample] = []
        for (rank, core), table, part in zip(cores.items(), counts, numbers, strict=True):
            model = price(table)
            sample = choose_sample(table, part, self._rng, model)
            self.ranks.append(RankSample(rank, core, table, model, sample))

    @property
    def chosen(self) -> int:
        """Steps to measure."""
        return sum(len(rank.sample.chosen) for rank in self.ranks)

    def measure(
        self,
        runtime: Runtime,
        timer: Timer | None = None,
        told: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Rebuild and time every chosen step, by default on the runtime's executor. `told` hears
        how many are measured. If it fails, `log` holds those that are.
        """
        job, decoder = self._job, runtime.decoder
        device, budget = decoder.device, job.flavour.token_budget
        longest = int((job.workload.prompt_len + job.output_len).max())
        require_attention_room(decoder, budget, longest)
        pool = make_pool(runtime, max(pool_pages(rank.core) for rank in self.ranks), job.system)
        try:
            with thread_for_small(decoder):
                if timer is None:
                    timer = _executor_timer(runtime, pool, budget)
                self._time_steps(runtime, pool, timer, told)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"{device_name(device)} ran out of memory beside {pool.pages:,} KV blocks, at most "
                f"{budget} tokens a step; plan again with fewer kv_bytes or a smaller "
                "--token-budget"
            ) from error

    def _time_steps(
        self, runtime: Runtime, pool: KvPool, timer: Timer, told: Callable[[int], None]
    ) -> None:
        """Every chosen step of every rank, rebuilt as it stood."""
        vocab, device = runtime.decoder.config.vocab, runtime.decoder.device
        tokens = PromptTokens(self._job.workload, vocab, runtime.seed)
        for rank in self.ranks:
            core = _copied(rank.core)
            outputs = OutputTokens(core.state.requests.output, device)
            builder = BatchBuilder(core, tokens, outputs, device)
            # Which tokens were generated is not known; equal ones would be one embedding row.
            outputs.tokens.random_(vocab)
            rebuilder = Rebuilder(core, pool.pages)
            for step in visit(core, rank.sample.chosen):
                counts = Batch(*rank.counts[step, : len(Batch._fields)].tolist())
                inputs = builder.build(rebuilder.step(self._rng), counts)
                seconds = timer.seconds(inputs)
                rank.halved.append(timer.is_halved)
                rank.seconds.append(seconds)
                told(sum(len(other.seconds) for other in self.ranks))

    def log(self, meta: Mapping[str, Any]) -> StepLog:
        """All steps, those measured so far marked in `meta`; no steps while there are none."""
        if not any(rank.seconds for rank in self.ranks):
            return Recorder().log({**meta, "complete": False})
        parts, rows, before = [], [], 0
        is_halved = np.zeros(sum(len(rank.counts) for rank in self.ranks), np.bool_)
        for rank in self.ranks:
            times = np.zeros((len(rank.counts), len(TIMES)))
            seconds = rank.steps()
            times[:, TIMES.index("seconds")] = seconds
            times[1:, TIMES.index("start")] = np.cumsum(seconds[:-1])
            parts.append(times)
            measured = before + rank.sample.chosen[: len(rank.seconds)]
            rows += measured.tolist()
            is_halved[measured] = rank.halved[: len(measured)]
            before += len(times)
        complete = all(rank.is_complete for rank in self.ranks)
        told: dict[str, Any] = {
            MEASURED_ROWS: rows,
            HALVED: row_ranges(is_halved),
            "complete": complete,
        }
        if complete:
            told |= {"estimate": self.estimate(), "strata": self.strata()}
        lengths = [len(rank.counts) for rank in self.ranks]
        return StepLog(
            counts=np.concatenate([rank.counts for rank in self.ranks]),
            times=np.concatenate(parts),
            replica=np.repeat(np.array([rank.rank for rank in self.ranks], np.int32), lengths),
            meta={**meta, **told},
        )

    def estimate(self) -> dict[str, Any]:
        """The run's seconds with their interval, under its public keys: those of the rank that is
        expected to end last.
        """
        assert all(rank.is_complete for rank in self.ranks), "all chosen steps are measured"
        found = max((rank.estimate() for rank in self.ranks), key=lambda one: one.seconds)
        return {
            "seconds": found.seconds,
            "low": found.low,
            "high": found.high,
            "level": found.level,
            "degrees": found.degrees if np.isfinite(found.degrees) else None,
            "slope": found.slope,
            "measured": self.chosen,
            "steps": sum(len(rank.counts) for rank in self.ranks),
        }

    def strata(self) -> list[dict[str, Any]]:
        """The strata of all ranks, a row each (docs/validate.md)."""
        return [
            {"replica": rank.rank, **row._asdict()}
            for rank in self.ranks
            for row in strata_table(rank.counts, rank.sample, rank.estimate())
        ]


def _executor_timer(runtime: Runtime, pool: KvPool, budget: int) -> ExecutorTimer:
    """The runtime's executor, warm, over a pool of random KV."""
    pool.k.normal_()
    pool.v.normal_()
    executor, device = make_executor(runtime, pool), runtime.decoder.device
    warm_up(executor, pool, budget, device)
    return ExecutorTimer(executor, device)


def profile_price(system: System, overlap: str, profile: str, flavour: Flavour) -> Price:
    """Prices by the kernel profile that is meant (`chosen_model`); none where there is none."""
    try:
        model = chosen_model(system, overlap, profile)
    except ProfileError:
        return lambda _: None
    costs = flavour.costs(model)
    return lambda counts: price_steps(costs, counts)


def _copied(core: ServingCore) -> ServingCore:
    state = State._make(deepcopy(column) for column in core.state)
    return ServingCore(state, core.rows, number=core.number)


def _split(number: int, steps: list[int]) -> list[int]:
    """About how many of each rank's steps to measure, in proportion, at least `LEAST` of each."""
    total = sum(steps)
    if number >= total:
        return steps
    least = [min(LEAST, own) for own in steps]
    if number < sum(least):
        raise InputError(
            f"--sampled {number} of {total:,} steps says too little of the others; "
            f"give at least {sum(least)}"
        )
    spare = (number - sum(least)) / (total - sum(least))
    parts = [low + int(spare * (own - low)) for low, own in zip(least, steps, strict=True)]
    parts[int(np.argmax(steps))] += number - sum(parts)
    return parts
