"""Requests of unknown length from the memory-heavy end, forecast together.

A length that is not visible is taken as exponential with the planner's mean, so whoever runs is as
far from its end as on its first day, or further where lengths spread more than that. Of n such
requests with mean m that hold C tokens now, (C + n·u)·q are expected u steps from now,
q = e^(−u/m), with a standard deviation of about √(2·n·q·(1 − q))·(C/n + u), and C + n·u at most.
Means are corrected while the run goes on: with a prior of as many ends as the sample has requests,
the factor on the planner's means is (prior + generated in units of those means) / (prior + ended).
Kinds are the pool's sources.
"""

import numpy as np

from blendsim.compiled import kernel, kernel_where
from blendsim.serving.state import NONE, RIGHT, State

KIND = np.dtype(
    [
        ("spread", np.float64),  # E[d²] / E[d]² of its lengths
        ("prior", np.float64),  # ends that the planner's means are worth
        ("running", np.int64),  # members: admitted from the right, length unknown
        ("held_base", np.int64),  # Σ private tokens, less the step: they are this + running·step
        ("mean_sum", np.float64),  # Σ planner's means of the members
        ("rate_sum", np.float64),  # Σ 1 / mean of the members
        ("rate_base", np.float64),  # Σ (step their output began) / mean
        ("ended", np.float64),  # members that ended
        ("served", np.float64),  # what they had generated, in units of their means
        ("waiting_reads", np.float64),  # Σ expected reads of those that wait
    ],
    align=True,
)


@kernel_where("pace", lambda state, request: 1.0)
def spread_of(state: State, request: int) -> float:
    """E[d²] / E[d]² of the request's length as planning knew it: 1 if it was seen."""
    kind = state.requests[request].kind
    return 1.0 if kind == NONE else float(state.pace[0].kinds[kind].spread)


@kernel
def correction(state: State, kind: int) -> float:
    """The factor on the planner's means of this kind, from what was seen so far."""
    k = state.pace[0].kinds[kind]
    seen = k.served + k.rate_sum * state.scalars[0].step - k.rate_base
    return (k.prior + max(seen, 0.0)) / (k.prior + k.ended)


@kernel
def life_left(spread: float, age: float) -> float:
    """Mean length still ahead of those that have generated `age` on average, where a length of this
    E[d²]/E[d]² has a mean of 1.

    In the steady state of a renewal process it is ½·E[d²]/E[d], and so is the mean age: where long
    answers are more frequent than among exponential lengths, whoever has run long has longer to
    run. Until they are that old it grows in proportion. Of lengths that spread less the exponential
    is kept, which foresees more.
    """
    aged = max(0.5 * spread, 1.0)
    return 1.0 + (aged - 1.0) * min(max(age / aged, 0.0), 1.0)


@kernel
def mean_left(state: State, kind: int) -> float:
    """Steps that members of this kind, which has some, have still before them, in the mean."""
    k = state.pace[0].kinds[kind]
    factor = correction(state, kind)
    age = (k.rate_sum * state.scalars[0].step - k.rate_base) / k.running  # in the planner's means
    return factor * life_left(k.spread, age / factor) * k.mean_sum / k.running


@kernel_where("pace", lambda state, ahead: 0.0)
def unknown_tokens(state: State, ahead: int) -> float:
    """KV tokens that members of all kinds hold `ahead` steps from now: mean and `caution`
    standard deviations, at most what they hold if nobody ends.
    """
    step = state.scalars[0].step
    kinds = state.pace[0].kinds
    caution = state.pace[0].record[0].caution
    total = 0.0
    for i in range(len(kinds)):
        k = kinds[i]
        if k.running == 0:
            continue
        mean = mean_left(state, i)
        q = np.exp(-ahead / mean)
        each = float(k.held_base) / k.running + step + ahead
        # NOTE: at most all of them run on, which is what binds soon.
        count = k.running * q + caution * np.sqrt(2.0 * k.running * q * (1.0 - q))
        total += min(count, float(k.running)) * each
    return total


@kernel_where("pace", lambda state, request, base: False)
def joins_kind(state: State, request: int, base: int) -> bool:
    """Whether the request, which enters and holds base + u private tokens at step u, is forecast by
    its kind: if its length is unknown and it is on the memory-heavy side. It is a member then.
    """
    r = state.requests[request]
    if r.side != RIGHT or r.kind == NONE:
        return False
    k = state.pace[0].kinds[r.kind]
    r.is_member = 1
    r.rate_start = state.scalars[0].step - r.generated
    r.end_base = base
    k.running += 1
    k.held_base += base
    k.mean_sum += r.estimate
    k.rate_sum += 1.0 / r.estimate
    k.rate_base += r.rate_start / r.estimate
    return True


@kernel_where("pace", lambda state, request, has_ended: None)
def leave_kind(state: State, request: int, has_ended: bool) -> None:
    """The request leaves, for good or to come back; nothing changes unless it was a member."""
    r = state.requests[request]
    if r.is_member == 0:
        return
    k = state.pace[0].kinds[r.kind]
    r.is_member = 0
    k.running -= 1
    k.held_base -= r.end_base
    k.mean_sum -= r.estimate
    k.rate_sum -= 1.0 / r.estimate
    k.rate_base -= r.rate_start / r.estimate
    if has_ended:
        k.ended += 1.0
        k.served += r.output / r.estimate


@kernel_where("pace", lambda state: False)
def has_members(state: State) -> bool:
    """Whether any request that runs is forecast by its kind."""
    members = 0
    for i in range(len(state.pace[0].kinds)):
        members += state.pace[0].kinds[i].running
    return members > 0
