"""Replays of gpu_check.py: plans that were made beforehand, every step or a sample of them, beside
what the step model says of the very same steps.

Logs are what `blendsim replay` writes, so that `blendsim validate` reads them. A log that is there
and complete is not measured again: a check that was cut short goes on where it stopped.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gpu_conditions import watched
from gpu_options import POLICIES, Finding, Options, say

FIRST_POLICY = POLICIES[0]  # what others are compared with
FULL = "full"  # ends the name of a pool too long for every step
PRICED = "priced"  # ends the name of a log by the step model


class Planned(NamedTuple):
    """A plan file with its pool."""

    pool: str
    policy: str
    plan: Path
    workload: Path


class Ran(NamedTuple):
    """A replay: how it was run, its log, and the models' seconds for its steps."""

    policy: str
    executor: str
    seconds: float
    models: dict[str, float]  # by whose profile


def pools(plans: Path) -> list[str]:
    """Pools that have plans, in the order they are measured: short ones by name, two of them first,
    then a sample of the first full one, and so on.
    """
    found = sorted({path.stem.rpartition("-")[0] for path in plans.glob("*-*.parquet")} - {""})
    short = [name for name in found if (plans / f"{name}.parquet").exists() and not is_full(name)]
    full = [name for name in found if is_full(name) and (plans / f"{name}.parquet").exists()]
    return [*short[:2], *full[:1], *short[2:], *full[1:]]


def is_full(pool: str) -> bool:
    """Whether a pool is replayed by a sample of its steps."""
    return pool.endswith(f"-{FULL}")


def plans_of(plans: Path, pool: str, policies: Sequence[str] = POLICIES) -> list[Planned]:
    """A pool's plans by these policies, in their order, as far as there are any."""
    places = [(policy, plans / f"{pool}-{policy}.parquet") for policy in policies]
    workload = plans / f"{pool}.parquet"
    return [Planned(pool, policy, place, workload) for policy, place in places if place.exists()]


def replay_pool(options: Options, pool: str) -> Iterator[Finding]:
    """Every plan of a pool overlapped, the first one operator after operator too."""
    from blendrt.loading import OVERLAP, SEQUENTIAL, ModelChoice, load_decoder
    from blendrt.profiler.target import find_decoder, open_device

    device = open_device(options.device)
    decoder = load_decoder(ModelChoice(find_decoder(options.model), None), 0, device)
    ran: list[Ran] = []
    for planned in plans_of(options.plans, pool, options.policies or POLICIES):
        is_base = planned.policy == FIRST_POLICY and options.is_sequential_too
        runs = (OVERLAP, SEQUENTIAL) if is_base else (OVERLAP,)
        job, meta = None, {}
        for executor in runs:
            place = options.out / f"{pool}-{planned.policy}-{executor}.parquet"
            if job is None:
                say(f"reading {planned.plan.name}")
                job, meta = read_job(planned)
            log, facts = measured(options, job, decoder, executor, place, meta)
            models = modelled(options, job, log, executor == OVERLAP)
            write_priced(log, models, options.out / f"{place.stem}-{PRICED}.parquet")
            ran.append(Ran(planned.policy, executor, run_seconds(log), total(log, models)))
            yield from findings(planned.policy, executor, log, facts, models)
    yield from speedups(ran)


def read_job(planned: Planned, engine: str | None = None) -> tuple[Any, dict[str, Any]]:
    """A job of a plan file, on its own engine or another, and what its log says of it. InputError
    for a plan that only the simulator runs, as `blendsim replay` has it.
    """
    from blendrt.replay.asked import asked_job
    from blendsim.files import sha256
    from blendsim.plan import read_plan, require_same_workload
    from blendsim.settings import remembered
    from blendsim.traces.load import load_pool
    from blendsim.traces.seam import ReadOptions

    plan, workload = read_plan(planned.plan), load_pool([str(planned.workload)], ReadOptions())
    require_same_workload(plan, workload)
    settings = remembered(plan.meta["settings"], f"{planned.plan}: settings")
    meta = {
        "policy": planned.policy,
        "plan_sha256": sha256(planned.plan),
        "settings": asdict(settings),
        "source": plan.meta["source"],
    }
    return asked_job(plan, workload, settings, engine), meta


def measured(
    options: Options, job: Any, decoder: Any, executor: str, place: Path, meta: Mapping[str, Any]
) -> tuple[Any, list[Finding]]:
    """The log of a replay, and what else was found out; the log that is there, if it is complete.
    One that breaks off leaves the steps so far.
    """
    from blendrt import loading
    from blendrt.machine import describe
    from blendrt.replay.full import FullReplay
    from blendrt.replay.sampled import SampledReplay
    from blendsim.errors import InputError
    from blendsim.steplog import read_steplog, write_steplog

    with suppress(InputError):
        log = read_steplog(place)
        if log.meta["complete"] and log.meta["plan_sha256"] == meta["plan_sha256"]:
            return log, []
    rule = loading.overlap_rule(job.system, "auto", decoder.device, fresh_profile(options, job))
    runtime = loading.Runtime(decoder, executor, 0, rule)
    facts = dict(meta) | {
        "engine": job.flavour.name,
        "runtime": "blendrt",
        "executor": executor,
        "model": decoder.config.name,
        "weights": "random",
        "machine": describe(decoder.device),
        "sm_partition": rule.default_sms > 0,
    }
    some = None
    if is_full(place.stem.removesuffix(f"-{executor}").rpartition("-")[0]):
        some = SampledReplay(job, options.sampled, 0, price(options, job, executor))
    whole = FullReplay(job)
    replay: Any = whole if some is None else some
    say(f"{place.stem} …")
    first = job.core(job.ranks[0])  # compiles what this kind of plan needs, in no step's time
    first.step()
    first.commit()
    start, conditions = time.perf_counter(), dict[str, str]()
    try:
        with watched(conditions, options.is_gpu):
            replay.measure(runtime)
    finally:
        log = replay.log({**facts, "conditions": conditions})
        if len(log):
            write_steplog(log, place)
    told_of = ", ".join(f"{name} {value}" for name, value in conditions.items())
    took = Finding(f"  {time.perf_counter() - start:.0f} s with all around it", told_of)
    if some is not None:
        told = some.estimate()
        interval = f"{told['low']:.4g} to {told['high']:.4g} s, {told['level']:.0%} sure"
        return log, [Finding(f"  {told['measured']} steps measured", interval), took]
    return log, [host_work(log, np.array(whole.host_seconds)), took]


def host_work(log: Any, host: Any) -> Finding:
    """Whether the host is fast enough for the device."""
    step = log.time("seconds")
    late = float((host > step).mean())
    return Finding(
        "  host work a step, median",
        f"{np.median(host) * 1e3:.1f} of {np.median(step) * 1e3:.1f} ms; longer in {late:.0%}",
    )


def findings(
    policy: str, executor: str, log: Any, facts: list[Finding], models: Mapping[str, Any]
) -> Iterator[Finding]:
    """What a log says."""
    tokens = int(log.count("prefill_tokens").sum() + log.count("decode_requests").sum())
    seconds, busy = run_seconds(log), float(log.time("seconds").sum())
    yield Finding(
        f"{policy}, {executor}",
        f"{len(log):,} steps in {seconds:.2f} s, {tokens / seconds:,.0f} computed tokens/s, "
        f"in steps {busy / seconds:.1%}",
        bool(log.meta["complete"]),
    )
    yield from facts
    rows, seconds_of = log.is_timed, log.time("seconds")
    for name, told in models.items():
        step = np.abs(told[rows] / seconds_of[rows] - 1.0)
        whole = float(told.sum() / seconds_of.sum() - 1.0)
        yield Finding(
            f"  model with {name}, error",
            f"total {whole:+.1%}, a step median {np.median(step):.1%}, "
            f"P90 {np.quantile(step, 0.9):.1%}",
        )


def speedups(ran: list[Ran]) -> Iterator[Finding]:
    """Every run against the first policy's, measured and as the models have it."""
    for base in (run for run in ran if run.policy == FIRST_POLICY):
        for run in ran:
            if run == base or run.executor == base.executor == "sequential":
                continue
            if run.policy == base.policy and run.executor == "sequential":
                continue
            told = [
                f"{name} {base.models[name] / run.models[name]:.3f}"
                for name in base.models
                if name in run.models
            ]
            yield Finding(
                f"{run.policy}, {run.executor} over {base.policy}, {base.executor}",
                ", ".join([f"measured {base.seconds / run.seconds:.3f}×", *told]),
            )


def run_seconds(log: Any) -> float:
    """Seconds until the last step ends."""
    return float((log.time("start") + log.time("seconds")).max())


def total(log: Any, models: Mapping[str, Any]) -> dict[str, float]:
    """The models' seconds of a whole run."""
    return {name: float(told.sum()) for name, told in models.items()}


def fresh_profile(options: Options, job: Any) -> Path | None:
    """The profile that this check measured of the job's system, if it did."""
    from blendsim.perf.measured import profile_place
    from blendsim.perf.store import OVERLAP_FILE

    place = profile_place(options.profiles, job.system)
    return place if (place / OVERLAP_FILE).exists() else None


def modelled(options: Options, job: Any, log: Any, overlaps: bool) -> dict[str, Any]:
    """Seconds of every step by the step model: with the shipped profile, and with this check's."""
    from blendsim.perf.measured import measured_model
    from blendsim.perf.model import step_model
    from blendsim.perf.pricing import price_steps

    models = {"the shipped profile": step_model(job.system)}
    place = fresh_profile(options, job)
    if place is not None:
        models["this profile"] = measured_model(place, job.system)
    return {
        name: price_steps(_costs(model, job, overlaps), log.counts)
        for name, model in models.items()
    }


def write_priced(log: Any, models: Mapping[str, Any], place: Path) -> None:
    """What the model says of the very steps that ran, as a log to validate the measured one with:
    by this check's profile where there is one.
    """
    from blendsim.steplog import MEASURED_ROWS, TIMES, StepLog, write_steplog

    name, seconds = list(models.items())[-1]
    times = np.zeros((len(log), len(TIMES)))
    times[:, TIMES.index("seconds")] = seconds
    times[1:, TIMES.index("start")] = np.cumsum(seconds)[:-1]
    kept = ("policy", "engine", "plan_sha256", "settings", "executor")
    meta = {key: log.meta[key] for key in kept} | {"priced_by": name}
    assert MEASURED_ROWS not in meta, "a model has a price for every step"
    write_steplog(StepLog(log.counts, times, log.replica, meta), place)


def price(options: Options, job: Any, executor: str) -> Any:
    """Prices for drawing a sample by: this check's profile, else the shipped one."""
    from blendrt.loading import OVERLAP
    from blendsim.perf.measured import measured_model
    from blendsim.perf.model import step_model
    from blendsim.perf.pricing import price_steps

    place = fresh_profile(options, job)
    model = step_model(job.system) if place is None else measured_model(place, job.system)
    costs = _costs(model, job, executor == OVERLAP)
    return lambda counts: price_steps(costs, counts)


def _costs(model: Any, job: Any, overlaps: bool) -> Any:
    """What the executor does: two nano-batches side by side, or one operator after another."""
    from blendsim.perf.step import step_costs

    flavour = replace(job.flavour, nano_batches=2) if overlaps else job.flavour
    return step_costs(model, overlaps, False, flavour.nano_batches if overlaps else 1)
