"""Advice: why a schedule was chosen, what bounds the pool, and what other work would run almost
free beside it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from blendsim.perf.model import StepModel
from blendsim.report import pooling
from blendsim.report.metrics import Row
from blendsim.report.optimum import Bounds, overlapped_best
from blendsim.report.pooling import (
    LONG_ANSWERS,
    LONG_PROMPTS,
    Partner,
    best_mix,
    ending_within,
    least_seconds,
    least_steps,
    load_of,
    room_of,
)
from blendsim.report.tables import at_limits
from blendsim.report.tables import seconds as told
from blendsim.report.timeline import ranks
from blendsim.steplog import StepLog
from blendsim.wording import counted

_LARGER = 1e9  # times a pool
_ROOMY = 1e3  # times the KV memory: what it would be worth if that were no limit
_SAME = 0.0005  # a difference that the printed per cent does not show
_LEAST = 0.001  # the least that is told of a share
_TOLD = 0.05  # seconds: less is 0.0 as printed
#: Of a run's seconds, its reachable bound, where bounds tell what more work adds. Simulated beside
#: demo:mixed on an L40S, at 78 %, 3,393 long prompts add 328 s where bounds differ by 85.
CLOSE = 0.85
_EVEN = 0.85  # of compute and decode reads the lesser to the larger, in a pool that is balanced
ALONE = 0.5  # of a run's seconds: where one request takes more, it bounds the pool
NEAR = 0.02  # policies within 2 % of each other are called equal, and so is work of two kinds


class Judged(NamedTuple):
    """What policies were chosen by, where that is not the run on the drawn lengths."""

    worlds: int
    seconds: Mapping[str, float]  # by policy, typical of the worlds


def advise(
    rows: Sequence[Row],
    chosen: Row,
    limits: Bounds,
    model: StepModel,
    judged: Judged | None = None,
    ends: Sequence[str] = (),
    *,
    overlaps: bool = True,
) -> list[str]:
    """Sentences for the user, those of `of_pool` last. Times are the simulated ones of `rows`;
    `ends` says when replicas end. `overlaps` says whether the engine runs compute beside decode
    reads.
    """
    of_all = of_pool(rows, limits, model, chosen.reported_seconds, overlaps=overlaps)
    return [_why(rows, chosen, judged), _used(chosen, limits.replicas), *ends, *of_all]


def ends_told(log: StepLog) -> list[str]:
    """When the first and the last replica of a run end, if there are several."""
    last = [rank.ends for rank in ranks(log)]
    if len(last) < 2:
        return []
    return [f"Replicas end between {told(min(last))} and {told(max(last))} s."]


def of_pool(
    rows: Sequence[Row], limits: Bounds, model: StepModel, taken: float, *, overlaps: bool = True
) -> list[str]:
    """What bounds the pool, and what would run cheaply beside it; `rows` may be few or none. The
    run that is talked of has `taken` so many seconds.
    """
    bound = _bound(rows, limits, model, taken)
    work = _work(limits, model, overlaps=overlaps)
    if limits.longest > ALONE * taken and work <= ALONE * taken:
        return [bound, _room(work, taken)]
    return [bound, _partner(limits, model, taken) if overlaps else _NO_PARTNER]


def _why(rows: Sequence[Row], chosen: Row, judged: Judged | None) -> str:
    said = "predicted {} s"
    if judged is not None:
        said = f"typically {{}} s in {judged.worlds} worlds that the sample allows"

    def seconds(row: Row) -> float:
        return row.predicted_seconds if judged is None else judged.seconds[row.policy]

    own = seconds(chosen)
    others = [row for row in rows if row.policy != chosen.policy]
    if not others:
        return f"{chosen.policy}: {said.format(told(own))}."
    second = min(others, key=seconds)
    usual = next((row for row in rows if row.policy == chosen.policy and row is not chosen), None)
    name = chosen.policy if usual is None else _at_limits(chosen, chosen, usual)
    text = f"{name} is chosen: {said.format(told(own))}, "
    if usual is None:
        text += f"{_lead(own, seconds(second), second.policy)}, the next best."
    else:
        # NOTE: what limits gain is no gain of the order: policies are compared at the same.
        limits = " and ".join(f"{each:,}" for each in _differing(usual, chosen, usual) if each)
        text += (
            f"{_lead(own, seconds(usual))} at the engine's own {limits}, where it is "
            f"{_standing(seconds(usual), seconds(second), second.policy)}."
        )
    if chosen.regret is not None and chosen.regret >= _TOLD:
        best = min(rows, key=lambda row: row.reported_seconds)
        name = best.policy if usual is None else _at_limits(best, chosen, usual)
        text += f" On the true lengths {name} would have been {told(chosen.regret)} s faster."
    return text


def _used(row: Row, replicas: int) -> str:
    """What runs at a time, and how much of the GPUs that takes."""
    running = counted(round(row.mean_running), "request")
    runs = "runs" if round(row.mean_running) == 1 else "run"
    each = " on each replica" if replicas > 1 else ""
    return (
        f"{running} {runs} at a time{each} in the mean, {row.most_running:,} at most; the KV cache "
        f"holds {row.kv_tokens:,} tokens. Of peak FLOP/s {row.mfu:.1%} are used (MFU), of peak "
        f"memory bandwidth {row.mbu:.1%} (MBU)."
    )


def _lead(own: float, other: float, name: str = "") -> str:
    """How far the chosen one, which takes `own` seconds, is ahead of another."""
    margin = other / own - 1
    if margin < -_SAME:
        return f"level with {name} ({-margin:.1%} ahead by chance)"
    lead = "as fast as" if margin < _SAME else f"{margin:.1%} faster than"
    return f"{lead} {name}".rstrip()


def _standing(own: float, second: float, name: str) -> str:
    """How a policy that takes `own` seconds stands to the best of the others."""
    if own > second * (1 + _SAME):
        return f"{own / second - 1:.1%} slower than {name}, the best there"
    return f"{_lead(own, second, name)}, the next best policy"


def _at_limits(row: Row, chosen: Row, usual: Row) -> str:
    """A row's policy with what of its limits tells the chosen row from the usual one."""
    return row.policy + at_limits(*_differing(row, chosen, usual))


def _differing(row: Row, chosen: Row, usual: Row) -> tuple[int | None, int | None]:
    """A row's token budget and its running limit, each where the chosen row has another than the
    usual one; the budget where neither is.
    """
    is_limited = chosen.lower_limit(usual) is not None
    has_budget = not is_limited or chosen.token_budget != usual.token_budget
    return row.token_budget if has_budget else None, row.max_running if is_limited else None


def _bound(rows: Sequence[Row], limits: Bounds, model: StepModel, taken: float) -> str:
    kinds = {
        "compute": limits.compute,
        "decode reads (memory bandwidth)": limits.memory,
        "all-reduces (network)": limits.network,
    }
    reduces = f", {told(limits.network)} s of all-reduces" if limits.network else ""
    work = (
        f"{told(limits.compute)} s of compute{reduces} and {told(limits.memory)} s of decode "
        "reads, each at its best rate"
    )
    if not limits.memory:  # every answer is a single token
        work = f"{told(limits.compute)} s of compute{reduces} at best rates, and no decode reads"
    if limits.replicas > 1:
        work += f", for each of {limits.replicas} replicas"
    is_alone = limits.longest > ALONE * taken
    text = f"The pool is bound by {max(kinds, key=lambda kind: kinds[kind])}: {work}."
    if is_alone:
        text = (
            f"The longest request alone takes at least {told(limits.longest)} of the "
            f"{told(taken)} s: no order ends sooner than that. The whole pool has {work}."
        )
    most = sum(kinds.values()) / overlapped_best(model.lines, *kinds.values()) - 1
    # NOTE: the first row of each policy: one at another token budget says nothing of orders.
    times = list({row.policy: row.reported_seconds for row in reversed(rows)}.values())
    if len(times) > 1 and (spread := max(times) / min(times) - 1) < NEAR:
        text += (
            f" Order buys next to nothing here: all policies lie within {max(spread, _LEAST):.1%}"
        )
        # NOTE: what waits for one request's tokens gains nothing by overlap.
        gain = f"{most:.1%}" if most >= _LEAST else f"less than {_LEAST:.1%}"
        overlap = f", and even the best overlap would gain {gain} over none"
        text += "." if is_alone else f"{overlap}."
    elif limits.longest >= limits.reachable and not is_alone:
        text += (
            f" The longest request alone takes at least {told(limits.longest)} s: no order ends "
            "sooner than that."
        )
    return text


def _work(limits: Bounds, model: StepModel, *, overlaps: bool) -> float:
    """Least seconds of a pool but for its longest request, with what KV memory makes of them."""
    load = load_of(limits, model)
    in_steps = least_seconds(load, model, least_steps(load, model, room_of(model)))
    plain = limits.optimum if overlaps else limits.compute + limits.memory + limits.network
    return max(in_steps, plain)


_NO_PARTNER = (
    "This engine runs compute and decode reads one after the other: work of the other kind would "
    "take about as long beside this pool as alone."
)


def _room(work: float, taken: float) -> str:
    """Of a run that one request takes most of, and that could do all it does in so many seconds.
    The request's steps read the weights, whatever else they compute.
    """
    return (
        f"Until it ends there is room for other requests: at best the pool's work would "
        f"take {told(work)} of the run's {told(taken)} s."
    )


def _partner(limits: Bounds, model: StepModel, taken: float) -> str:
    wanted = LONG_ANSWERS if limits.compute > limits.memory else LONG_PROMPTS
    partner = ending_within(ALONE * taken, wanted, model)
    mix = best_mix(limits, model, partner)
    if mix.is_worth:
        partner, requests = mix.partner, counted(mix.requests, "request")
        if limits.replicas > 1:
            return (
                f"How much {partner.kind} work would run cheaper beside it is told for one replica "
                "alone."
            )
        if limits.reachable < CLOSE * taken:
            return (
                f"How much {partner.kind} work would run cheaper beside it is not told: that is "
                f"reckoned by bounds, and this run is at {limits.reachable / taken:.0%} of its own."
            )
        return (
            f"Pool it with {partner.kind} work: {requests} of {partner.prompt:,} prompt and "
            f"{partner.output:,} output tokens would add, by its bounds, {told(mix.beside)} s here "
            f"against {told(mix.steady)} s in a large batch of its own "
            f"({1 - mix.beside / mix.steady:.0%} off)."
        )
    # NOTE: not one request of the partner may fit beside a pool of little work.
    most = best_mix(_larger(limits), model, wanted)
    if most.is_worth and most.steady >= NEAR * _LARGER * limits.optimum:
        return f"The pool is too short for {wanted.kind} work to run cheaper beside it."
    if best_mix(_larger(limits), model, wanted, room=_ROOMY * room_of(model)).is_worth:
        return (
            f"Nothing is worth pooling with it: {wanted.kind} work would save time beside it, but "
            "in the fewest steps there can be the pool fills the KV memory by itself, and what ran "
            "in its place would take about as long as in a large batch of its own."
        )
    less, more = sorted((limits.compute, limits.memory))
    if less >= _EVEN * more and limits.network <= more:
        return "The pool is balanced: other work would not run noticeably cheaper beside it."
    why = ": running compute beside decode reads saves little, as steps are priced here"
    return (
        "Other work would not run noticeably cheaper beside it"
        f"{why if _gains_little(wanted, model) else ''}."
    )


def _gains_little(partner: Partner, model: StepModel) -> bool:
    """Whether even a little work of the partner's kind takes about as long beside much of the other
    kind as alone.
    """
    much, little = 1.0, 1e-3
    compute, memory = (much, little) if partner == LONG_ANSWERS else (little, much)
    beside = overlapped_best(model.lines, compute, memory) - much
    return beside >= pooling.WORTH * little


def _larger(limits: Bounds) -> Bounds:
    """Of a pool so large that single requests count for nothing."""
    work = limits.work
    return limits._replace(
        compute=_LARGER * limits.compute,
        memory=_LARGER * limits.memory,
        network=_LARGER * limits.network,
        work=work._replace(**{name: int(_LARGER) * n for name, n in work._asdict().items()}),
    )
