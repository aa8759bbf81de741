"""What running requests may still generate, and how much of it admission keeps free (SGLang's
new_token_ratio).

A request may generate up to its limit, but no more than CLIP is ever taken for granted. Summed
over the decoding requests this changes by one a step and request, so the sum follows from the step
number; a ring over steps tells when a request falls under the clip.
"""

from blendsim.compiled import kernel
from blendsim.serving.round_state import CLIP, FIXED, LIMITED, Rounds
from blendsim.serving.state import State


@kernel
def fall_step(state: State, rounds: Rounds, request: int) -> int:
    """The step from which on a decoding request may generate CLIP tokens or fewer."""
    r = state.requests[request]
    return r.start_step + rounds.max_new[request] - r.generated - CLIP


@kernel
def owe(state: State, rounds: Rounds, request: int) -> None:
    """Count what a request that starts to decode may still generate."""
    r = state.requests[request]
    kind = rounds.fixed[request]
    owed = rounds.owed[kind]
    fall = fall_step(state, rounds, request)
    if fall <= r.start_step:
        owed.open += 1
        owed.end_sum += fall + CLIP
        return
    owed.clipped += 1
    if fall <= r.finish_step:
        rounds.falls[kind, fall % rounds.falls.shape[1]] += 1


@kernel
def settle(state: State, rounds: Rounds, request: int) -> None:
    """Count it no longer: it ends with the step that runs, or is thrown out before it."""
    r = state.requests[request]
    kind = rounds.fixed[request]
    owed = rounds.owed[kind]
    fall = fall_step(state, rounds, request)
    if fall <= r.start_step or fall <= min(state.scalars[0].step, r.finish_step):
        owed.open -= 1
        owed.end_sum -= fall + CLIP
        return
    owed.clipped -= 1
    if fall <= r.finish_step:
        rounds.falls[kind, fall % rounds.falls.shape[1]] -= 1


@kernel
def enter_step(state: State, rounds: Rounds) -> None:
    """A new decode step begins: those that fall under the clip with it are counted one by one."""
    step = state.scalars[0].step
    slot = step % rounds.falls.shape[1]
    for kind in range(2):
        number = rounds.falls[kind, slot]
        rounds.falls[kind, slot] = 0
        owed = rounds.owed[kind]
        owed.clipped -= number
        owed.open += number
        owed.end_sum += number * (step + CLIP)


@kernel
def owed_tokens(state: State, rounds: Rounds, kind: int) -> int:
    """Σ min(limit − generated, CLIP) over the decoding requests of a kind."""
    owed = rounds.owed[kind]
    return owed.end_sum - owed.open * state.scalars[0].step + owed.clipped * CLIP


@kernel
def room_left(state: State, rounds: Rounds) -> float:
    """KV tokens that neither running requests nor this round's have a claim on."""
    s = state.scalars[0]
    q = rounds.scalars[0]
    reserved = owed_tokens(state, rounds, FIXED) + q.ratio * owed_tokens(state, rounds, LIMITED)
    return s.free + s.idle - q.promised - reserved


@kernel
def promise(rounds: Rounds, request: int, tokens: int, is_whole: bool) -> None:
    """Set aside what a chunk of `tokens` needs now and, if it ends its prompt, may need later."""
    q = rounds.scalars[0]
    q.pending += tokens
    q.promised += tokens + 1
    if is_whole:
        q.promised += min(rounds.max_new[request], CLIP)
