"""Advice: why a schedule was chosen, what bounds the pool, and what other work would run almost
free beside it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from blendsim.perf.density import profiled
from blendsim.perf.model import StepModel
from blendsim.report.metrics import Row
from blendsim.report.optimum import Bounds, overlapped_best
from blendsim.report.tables import seconds as told
from blendsim.wording import counted

WORTH = 0.85  # a partner that saves less than 15 % of its time is not worth naming
_LARGER = 1e6  # times a pool: in one so large single requests count for nothing
_SAME = 0.0005  # a difference that the printed per cent does not show
_LEAST = 0.001  # the least that is told of a share
_TOLD = 0.05  # seconds: less is 0.0 as printed
ALONE = 0.5  # of a run's seconds: where one request takes more, it bounds the pool
NEAR = 0.02  # policies within 2 % of each other are called equal, and so is work of two kinds


class Partner(NamedTuple):
    """A kind of work to pool with: requests of one shape."""

    kind: str
    prompt: int
    output: int


LONG_ANSWERS = Partner("memory-heavy", 128, 16_384)
LONG_PROMPTS = Partner("compute-heavy", 4_096, 16)


class Mix(NamedTuple):
    """How much of a partner fits beside a pool, on each replica."""

    partner: Partner
    requests: int
    beside: float  # seconds the partner adds when pooled, at the practical optimum
    alone: float  # seconds it takes on its own


def best_mix(limits: Bounds, model: StepModel, partner: Partner) -> Mix:
    """The amount of `partner` that saves most seconds when it is pooled with the work in `limits`.

    Savings of x requests: f(w) + f(x·w') − f(w + x·w') with w = (c, m, n), largest where the sum
    lies on the bend of f. The partner is taken to be no more work than the pool itself.
    """
    partner = _fitted(partner, model.system.longest_request)
    costs = profiled(model, np.array([partner.prompt]), np.array([partner.output]))
    c, m = float(costs.compute[0]), float(costs.memory[0])
    n = (partner.prompt + partner.output - 1) * model.best_network_seconds_per_token
    pool = (limits.compute, limits.memory, limits.network)
    here = overlapped_best(model.lines, *pool)
    each = overlapped_best(model.lines, c, m, n)
    most = here / each  # no more of it than the pool has work itself
    amounts = np.unique(np.floor(np.linspace(0.0, most, 2_001)))
    alone = each * amounts
    mixed = np.array(
        [
            overlapped_best(model.lines, pool[0] + x * c, pool[1] + x * m, pool[2] + x * n)
            for x in amounts
        ]
    )
    saved = here + alone - mixed
    # NOTE: past the bend of f more of the partner saves no more: take the least amount that saves
    # all.
    k = int(np.argmax(saved >= 0.999 * saved.max()))
    return Mix(partner, int(amounts[k]), float(mixed[k] - here), float(alone[k]))


def _fitted(partner: Partner, longest: int) -> Partner:
    """The partner within `longest` tokens: its longer half gives way."""
    prompt = min(partner.prompt, longest - min(partner.output, longest // 2))
    return partner._replace(prompt=prompt, output=min(partner.output, longest - prompt))


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
    *,
    overlaps: bool = True,
) -> list[str]:
    """Sentences for the user, most important first. Times are the simulated ones of `rows`.
    `overlaps` says whether the engine runs compute beside decode reads.
    """
    taken = chosen.reported_seconds
    return [_why(rows, chosen, judged), *of_pool(rows, limits, model, taken, overlaps=overlaps)]


def of_pool(
    rows: Sequence[Row], limits: Bounds, model: StepModel, taken: float, *, overlaps: bool = True
) -> list[str]:
    """What bounds the pool, and what would run cheaply beside it; `rows` may be few or none. The
    run that is talked of has `taken` so many seconds.
    """
    bound = _bound(rows, limits, model, taken)
    work = limits.optimum if overlaps else limits.compute + limits.memory + limits.network
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
    name = chosen.policy if usual is None else _at_budget(chosen)
    text = f"{name} is chosen: {said.format(told(own))}, "
    if usual is None:
        text += f"{_lead(own, seconds(second), second.policy)}, the next best."
    else:
        text += (
            f"{_lead(own, seconds(usual))} at the engine's own {usual.token_budget:,} and "
            f"{_lead(own, seconds(second), second.policy)} there, the next best policy."
        )
    if chosen.regret is not None and chosen.regret >= _TOLD:
        best = min(rows, key=lambda row: row.reported_seconds)
        name = best.policy if usual is None else _at_budget(best)
        text += f" On the true lengths {name} would have been {told(chosen.regret)} s faster."
    return text


def _lead(own: float, other: float, name: str = "") -> str:
    """How far the chosen one, which takes `own` seconds, is ahead of another."""
    margin = other / own - 1
    if margin < -_SAME:
        return f"level with {name} ({-margin:.1%} ahead by chance)"
    lead = "as fast as" if margin < _SAME else f"{margin:.1%} faster than"
    return f"{lead} {name}".rstrip()


def _at_budget(row: Row) -> str:
    return f"{row.policy} at {row.token_budget:,} tokens a step"


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


_NO_PARTNER = (
    "This engine runs compute and decode reads one after the other: work of the other kind would "
    "take about as long beside this pool as alone."
)


def _room(work: float, taken: float) -> str:
    """Of a run that one request takes most of, and that could do all it does in so many seconds.
    The request's steps read the weights, whatever else they compute.
    """
    return (
        f"Until it ends there is room for other requests: at its best rates the pool's work would "
        f"take {told(work)} of the run's {told(taken)} s."
    )


def _partner(limits: Bounds, model: StepModel, taken: float) -> str:
    wanted = LONG_ANSWERS if limits.compute > limits.memory else LONG_PROMPTS
    partner = _ending_within(ALONE * taken, wanted, model)
    mix = best_mix(limits, model, partner)
    if _is_worth(mix):
        partner, requests = mix.partner, counted(mix.requests * limits.replicas, "request")
        return (
            f"Pool it with {partner.kind} work: {requests} of {partner.prompt:,} prompt and "
            f"{partner.output:,} output tokens would add, at best, {told(mix.beside)} s here "
            f"against {told(mix.alone)} s alone ({1 - mix.beside / mix.alone:.0%} off)."
        )
    # NOTE: not one request of the partner may fit beside a pool of little work.
    larger = limits._replace(
        compute=_LARGER * limits.compute,
        memory=_LARGER * limits.memory,
        network=_LARGER * limits.network,
    )
    most = best_mix(larger, model, wanted)
    if _is_worth(most) and most.alone >= NEAR * _LARGER * limits.optimum:
        return f"The pool is too short for {wanted.kind} work to run cheaper beside it."
    return "The pool is balanced: other work would not run noticeably cheaper beside it."


def _is_worth(mix: Mix) -> bool:
    return mix.requests >= 1 and mix.beside <= WORTH * mix.alone


def _ending_within(seconds: float, partner: Partner, model: StepModel) -> Partner:
    """The partner with its answer halved until one of its requests alone ends within `seconds`:
    the rates of `best_mix` know of no steps, of which every token of an answer takes one.
    """
    step = float(model.layer_seconds[1:].min()) + model.best_head_seconds_per_token
    if len(model.network_seconds) > 1:
        step += float(model.network_seconds[1:].min())
    output = partner.output
    while output > 1 and output * step > seconds:
        output //= 2
    return partner._replace(output=output)
