"""Tables of replays: what each took beside what the step model says of the very same steps, and
what one plan gains on another.
"""

import math
import re
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from evidence_runs import MEASURED, MODELS, OVERLAP, SEQUENTIAL, Replay, Run
from gpu_options import POLICIES
from machine import row

STEP_AIM, TOTAL_AIM, RATIO_AIM, BUSY_AIM = 0.03, 0.03, 0.01, 0.97
_HOST = re.compile(r"([\d.]+) of ([\d.]+) ms")


def host_seconds(run: Run, replay: Replay) -> float:
    """Median host work a step, as the check noted it; NaN where it did not."""
    found = run.findings(f"replay-{replay.pool}")
    for this, after in pairwise(found):
        is_it = this["what"] == f"{replay.policy}, {replay.executor}"
        if is_it and (told := _HOST.search(after["value"])):
            return float(told[1]) / 1e3
    return float("nan")


def total_error(replay: Replay, model: str) -> float:
    """The model's seconds over those in steps, less 1: of the whole run, or as far as it went."""
    in_steps = replay.seconds if replay.is_sampled else float(replay.log.time("seconds").sum())
    return replay.predicted(model) / in_steps - 1.0


def step_errors(replay: Replay, model: str) -> np.ndarray:
    """The model's seconds over the measured ones, less 1, of each measured step."""
    rows = replay.log.is_timed
    return np.asarray(replay.prices[model][rows] / replay.log.time("seconds")[rows] - 1.0)


def steady_busy(replay: Replay) -> float:
    """Share of time in steps while at least half as many run as ever do. It is an upper bound of
    the GPU's: a step's time holds waiting for a late host.
    """
    if replay.is_sampled:
        return float("nan")
    start, seconds = replay.log.time("start"), replay.log.time("seconds")
    running = replay.log.count("running")
    rows = np.flatnonzero(2 * running >= running.max())
    first, last = rows[0], rows[-1]
    return float(seconds[first : last + 1].sum() / (start[last] + seconds[last] - start[first]))


def replay_table(runs: list[Run]) -> Iterator[str]:
    """Time and throughput."""
    head = (
        "run",
        "replay",
        "steps",
        "seconds",
        "tokens/s",
        "in steps",
        "steady",
        "host a step, ms",
        "SM clock, MHz",
        "power, W",
    )
    yield row(*head)
    yield row(*["---"] * len(head))
    for run in runs:
        for replay in run.replays:
            took, told = replay.seconds, replay.log.meta.get("estimate")
            seconds = f"{took:,.2f}" if told is None else f"{took:,.0f} ± {_half(told):,.0f}"
            in_steps = replay.log.time("seconds").sum() / took
            host = host_seconds(run, replay)
            conditions = replay.log.meta.get("conditions", {})
            yield row(
                run.name,
                replay.name + ("" if replay.is_whole else " (cut short)"),
                f"{replay.steps:,}"
                + (f", {len(replay.log)} measured" if replay.is_sampled else ""),
                _known(seconds, took),
                _known(f"{replay.tokens / took:,.0f}", took),
                "" if replay.is_sampled else f"{in_steps:.1%}",
                "" if replay.is_sampled else f"{steady_busy(replay):.1%}",
                "" if np.isnan(host) else f"{host * 1e3:.1f}",
                *(conditions.get(name, "not noted") for name in ("clocks.sm", "power.draw")),
            )


def _known(text: str, value: float) -> str:
    """The text, unless the value it tells is not known: of a sample that was cut short."""
    return "not known" if math.isnan(value) else text


def _half(told: dict[str, float]) -> float:
    return (told["high"] - told["low"]) / 2.0


def error_table(runs: list[Run]) -> Iterator[str]:
    """The model's errors, by both profiles."""
    head = ("run", "replay", "profile", "total", "median of steps", "median size", "P90 size")
    yield row(*head)
    yield row(*["---"] * len(head))
    for run in runs:
        for replay in run.replays:
            for model in MODELS:
                error = step_errors(replay, model)
                size = np.abs(error)
                told = (total_error(replay, model), float(np.median(error)))
                sizes = (float(np.median(size)), float(np.quantile(size, 0.9)))
                cells = (*(_known(f"{x:+.1%}", x) for x in told), *(f"{x:.1%}" for x in sizes))
                yield row(run.name, replay.name, model, *cells)


def pairs_of(run: Run) -> Iterator[tuple[Replay, Replay]]:
    """(base, other): every overlapped plan against prefix order's, and overlap against none."""
    whole = {(r.pool, r.policy, r.executor): r for r in run.replays if r.is_whole}
    for (pool, policy, executor), other in whole.items():
        base = whole.get((pool, POLICIES[0], executor))
        if policy != POLICIES[0] and base is not None:
            yield base, other
        alone = whole.get((pool, policy, SEQUENTIAL))
        if executor == OVERLAP and alone is not None:
            yield alone, other


def ratio_error(base: Replay, other: Replay, model: str) -> float:
    """How far the predicted speed-up is from the measured one."""
    predicted = base.predicted(model) / other.predicted(model)
    return predicted / (base.seconds / other.seconds) - 1.0


def ratio_spread(base: Replay, other: Replay) -> float:
    """How far, relatively, a measured speed-up may be off; 0 where every step was measured."""
    told = [r.log.meta["estimate"] for r in (base, other) if r.is_sampled]
    return math.hypot(*(_half(one) / one["seconds"] for one in told))


def speedup_table(runs: list[Run]) -> Iterator[str]:
    """Speed-ups of whole runs, measured and predicted."""
    yield row("run", "faster", "than", "measured", *(f"by {m}, error" for m in MODELS))
    yield row(*["---"] * 6)
    for run in runs:
        for base, other in pairs_of(run):
            ratio, spread = base.seconds / other.seconds, ratio_spread(base, other)
            measured = f"{ratio:.3f}" + (f" ± {ratio * spread:.3f}" if spread else "")
            told = [
                f"{base.predicted(m) / other.predicted(m):.3f}, {ratio_error(base, other, m):+.1%}"
                for m in MODELS
            ]
            yield row(run.name, other.name, base.name, measured, *told)


def target_table(runs: list[Run]) -> Iterator[str]:
    """What was aimed at, held against every run by the measured profile."""
    yield row("run", "aim", "met by", "best", "worst")
    yield row(*["---"] * 5)
    for run in runs:
        yield from _targets(run)


def _targets(run: Run) -> Iterator[str]:
    steps = {r.name: float(np.median(np.abs(step_errors(r, MEASURED)))) for r in run.replays}
    errors = {r.name: abs(total_error(r, MEASURED)) for r in run.replays}
    totals = {name: error for name, error in errors.items() if not math.isnan(error)}
    # A speed-up that is not known that well says nothing of the model.
    known = [(b, o) for b, o in pairs_of(run) if ratio_spread(b, o) <= RATIO_AIM]
    ratios = {f"{o.name} over {b.name}": abs(ratio_error(b, o, MEASURED)) for b, o in known}
    busy = {r.name: steady_busy(r) for r in run.replays if not r.is_sampled}
    aims = (
        ("median error of a step ≤ 3 %", steps, STEP_AIM),
        ("error of the total ≤ 3 %", totals, TOTAL_AIM),
        ("error of a speed-up ≤ 1 %", ratios, RATIO_AIM),
    )
    for what, found, aim in aims:
        if found:
            met = sum(value <= aim for value in found.values())
            ends = (f"{x:.1%}" for x in (min(found.values()), max(found.values())))
            yield row(run.name, what, f"{met} of {len(found)}", *ends)
    if busy:
        met = sum(value >= BUSY_AIM for value in busy.values())
        ends = (f"{x:.1%}" for x in (max(busy.values()), min(busy.values())))
        yield row(run.name, "in steps, steady state ≥ 97 %", f"{met} of {len(busy)}", *ends)
