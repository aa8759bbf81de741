"""Metrics of one schedule: the row that tables and `--json` show, and what each number means."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from blendsim.arrays import Ints
from blendsim.perf.coverage import Coverage
from blendsim.report.optimum import Bounds
from blendsim.report.utilisation import utilisation
from blendsim.request import Workload
from blendsim.steplog import StepLog
from blendsim.system import System


@dataclass(frozen=True, slots=True)
class Row:
    """One policy on one pool. Seconds are of the whole run; ratios are in [0, 1]; None where
    nothing is known.
    """

    policy: str
    requests: int
    input_tokens: int
    output_tokens: int | None  # true ones; None where the trace does not give all lengths
    #: Simulated on the true lengths, or where the trace lacks some on those it has and drawn ones;
    #: None where that is the predicted run.
    seconds: float | None
    predicted_seconds: float  # simulated on what planning may see
    tokens_per_second: (
        float  # (input + output) / seconds, by prediction where there are no true lengths
    )
    optimum_seconds: float
    share_of_optimum: float
    reachable_seconds: float
    share_of_reachable: float
    sharing_ratio: float  # prompt tokens not computed again, of all prompt tokens
    sharing_optimum: float  # the most that sharing blocks can reach
    density: float  # closed form, token-level sharing
    density_profile: float  # from the kernel profile, best sharing at the core's block size
    preempted_tokens: int  # computed and lost by requests thrown out, found again later or not
    recomputed_tokens: int  # of prompts and outputs, computed again
    kv_use: float  # mean share of the KV cache held by running requests, weighted by time
    steps: int
    engine: str
    token_budget: int  # tokens a step
    max_running: int  # requests that a replica may run at once
    gpus: int
    tokens_per_second_per_gpu: float
    kv_tokens: int  # that a replica's KV cache holds
    mean_running: float  # requests in a replica, weighted by time while it has any
    most_running: int  # of them
    mfu: float  # model FLOPs utilisation and memory bandwidth utilisation: report/utilisation.py
    mbu: float
    regret: float | None = None  # of the chosen row: seconds lost against the best row in hindsight

    @property
    def reported_seconds(self) -> float:
        """Simulated on the true lengths, or by prediction where there are none."""
        return self.predicted_seconds if self.seconds is None else self.seconds

    def lower_limit(self, usual: "Row") -> int | None:
        """The running limit where it is below the engine's own, at which a `usual` row ran; None
        where nothing but a small token budget lowers it.
        """
        is_lower = self.max_running < min(usual.max_running, self.token_budget)
        return self.max_running if is_lower else None


class PoolFacts(NamedTuple):
    """What is true of a pool on a system whatever the schedule."""

    density: float  # closed form, as in the paper's Table 4
    density_profile: float  # from the kernel profile, best sharing at the core's block size
    shareable_tokens: int  # the most prompt tokens that sharing blocks can save


class Place(NamedTuple):
    """What a run took place on."""

    engine: str
    token_budget: int  # tokens a step
    max_running: int  # requests of a replica
    system: System  # a replica, its KV in blocks of the engine's size
    replicas: int

    @property
    def gpus(self) -> int:
        """Of all replicas."""
        return self.replicas * self.system.gpus

    @property
    def capacity_blocks(self) -> int:
        """KV blocks of a replica."""
        return self.system.kv_blocks


def kv_use(log: StepLog, capacity_blocks: int) -> float:
    """Share of the KV blocks that running requests hold, the mean over the time that their replica
    has any.
    """
    seconds = log.time("seconds")
    return float((log.count("held_blocks") * seconds).sum() / (seconds.sum() * capacity_blocks))


def recomputed_tokens(log: StepLog, inputs: int) -> int:
    """Tokens that the run of a pool with that many prompt tokens computed again: prompts are
    computed once, but for what is found in the cache.
    """
    computed, found = log.count("prefill_tokens").sum(), log.count("hit_tokens").sum()
    return int(computed + found) - inputs


class Outside(NamedTuple):
    """Steps of a run that are larger than the kernel profile was measured at."""

    what: str  # there is more of
    part: float  # of the run's seconds
    times: float  # as much at most as was measured

    def told(self, at_most: str = "") -> str:
        """A sentence; `at_most` stands before the part where runs with less are meant, too."""
        part = f"{at_most}{self.part:.1%}" if self.part >= 0.001 else "less than 0.1%"
        return (
            f"{part} of the time has more {self.what} than the kernel profile was measured at (up "
            f"to {self.times:.1f} times); the rates of the largest size measured are used there"
        )


def outside(log: StepLog, coverage: Coverage) -> list[Outside]:
    """What of a run's steps the kernel profile does not cover."""
    factors, seconds = coverage.factors(log.counts), log.time("seconds")
    return [
        Outside(what, float(seconds[factor > 1].sum() / seconds.sum()), float(factor.max()))
        for what, factor in factors.items()
        if factor.max(initial=0) > 1
    ]


def outside_of_all(runs: Mapping[str, Sequence[Outside]]) -> list[str]:
    """The same of several runs by their names: a sentence for each thing that there is more of."""
    kinds: dict[str, dict[str, Outside]] = {}
    for name, found in runs.items():
        for each in found:
            kinds.setdefault(each.what, {})[name] = each
    return [
        f"{named(by_name, runs)}: "
        + Outside(
            what,
            max(each.part for each in by_name.values()),
            max(each.times for each in by_name.values()),
        ).told("up to " if len(by_name) > 1 else "")
        for what, by_name in kinds.items()
    ]


def named(some: Iterable[str], among: Collection[str]) -> str:
    """The names of some runs, or that it is all of several."""
    names = list(some)
    return "all rows" if len(names) == len(among) > 1 else ", ".join(names)


def total_tokens(workload: Workload, output_len: Ints) -> int:
    """Input and output tokens of the pool."""
    return int(workload.prompt_len.sum() + output_len.sum())


def summarise(
    policy: str,
    workload: Workload,
    output_len: Ints,
    predicted_seconds: float,
    log: StepLog,
    bounds: Bounds,
    place: Place,
    facts: PoolFacts,
) -> Row:
    """The row of a simulated run. `output_len` is what the run generated; bounds hold for the same
    lengths.

    Raises AssertionError if the run beats a lower bound: the model or the bound would be wrong.
    """
    seconds = log.end
    for name, bound in (
        ("practical optimum", bounds.optimum),
        ("reachable bound", bounds.reachable),
    ):
        assert bound <= seconds * (1 + 1e-9), (
            f"{policy} takes {seconds:.6f} s, less than the {name} of {bound:.6f} s"
        )
    has_truth = bool(workload.has_output.all())
    rate = total_tokens(workload, output_len) / seconds
    inputs = int(workload.prompt_len.sum())
    recomputed = recomputed_tokens(log, inputs)
    used = utilisation(log, place.system, place.replicas, recomputed)
    return Row(
        policy=policy,
        requests=len(workload),
        input_tokens=inputs,
        output_tokens=int(workload.output_len.sum()) if has_truth else None,
        seconds=seconds if has_truth or seconds != predicted_seconds else None,
        predicted_seconds=predicted_seconds,
        tokens_per_second=rate,
        optimum_seconds=bounds.optimum,
        share_of_optimum=bounds.optimum / seconds,
        reachable_seconds=bounds.reachable,
        share_of_reachable=bounds.reachable / seconds,
        sharing_ratio=float(log.count("hit_tokens").sum()) / inputs,
        sharing_optimum=facts.shareable_tokens / inputs,
        density=facts.density,
        density_profile=facts.density_profile,
        preempted_tokens=int(log.count("preempted_tokens").sum()),
        recomputed_tokens=recomputed,
        kv_use=kv_use(log, place.capacity_blocks),
        steps=len(log),
        engine=place.engine,
        token_budget=place.token_budget,
        max_running=place.max_running,
        gpus=place.gpus,
        tokens_per_second_per_gpu=rate / place.gpus,
        kv_tokens=place.capacity_blocks * place.system.block_tokens,
        mean_running=used.mean_running,
        most_running=used.most_running,
        mfu=used.mfu,
        mbu=used.mbu,
    )


def beside(row: Row, log: StepLog, bounds: Bounds) -> Row:
    """The row of a run, whose `log` is that on true lengths, beside other bounds of its pool."""
    seconds = log.end
    return replace(
        row,
        optimum_seconds=bounds.optimum,
        share_of_optimum=bounds.optimum / seconds,
        reachable_seconds=bounds.reachable,
        share_of_reachable=bounds.reachable / seconds,
    )


def with_regret(chosen: Row, rows: Sequence[Row]) -> Row:
    """The chosen one of `rows` with what it lost on true lengths against the best of them; as it is
    where the trace gives none.
    """
    seconds = [row.seconds for row in rows if row.seconds is not None]
    if chosen.seconds is None or not seconds:
        return chosen
    return replace(chosen, regret=chosen.seconds - min(seconds))


def as_json(row: Row) -> dict[str, Any]:
    """The row under its public keys, with None for what is not a finite number."""
    values = asdict(row)
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in values.items()
    }
