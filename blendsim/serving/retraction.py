"""Retraction: SGLang's way out when the next decode step finds no memory.

Whoever has generated least is thrown out first, to the end of the line. What its prefill had
computed stays cached; what it generated since is lost.
"""

from blendsim.compiled import kernel, rare_kernel
from blendsim.serving.batcher import leave, stop_decoding
from blendsim.serving.columns import PREEMPTED, PREEMPTED_TOKENS
from blendsim.serving.kv import take_blocks
from blendsim.serving.line import join_line
from blendsim.serving.new_tokens import settle
from blendsim.serving.round_state import Rounds
from blendsim.serving.sides import generated_tokens
from blendsim.serving.state import DECODING, NONE, WAITING, State

RETRACT_STEPS = 20  # decode steps for which memory is made free, as far as eviction can


@kernel
def first_retracted(state: State) -> int:
    """The decoding request with the fewest output tokens; of equals the longest prompt, then the
    last admitted. NONE if none decodes.
    """
    s = state.scalars[0]
    least = NONE
    generated = 0
    for newest in (s.left_newest, s.right_newest):
        k = newest
        while k != NONE:
            r = state.requests[k]
            if r.status == DECODING:
                own = generated_tokens(state, k)
                if (
                    least == NONE
                    or own < generated
                    or (own == generated and r.prompt > state.requests[least].prompt)
                ):
                    least = k
                    generated = own
            k = r.older
    return least


@kernel
def retract(state: State, rounds: Rounds, request: int) -> None:
    """Throw a request out, to the end of the line."""
    s = state.scalars[0]
    r = state.requests[request]
    if r.status == DECODING:
        settle(state, rounds, request)
        held = r.start_context + s.step - r.start_step - 1
        computed = r.start_context - 1  # what the prefill computed is in the cache
        generated = generated_tokens(state, request)
        stop_decoding(state, request, s.step)
        r.generated = generated
    else:
        held = r.computed
        computed = r.computed
        s.prefilling = NONE
    leave(state, request, computed, held)
    r.target = r.prompt + r.generated
    r.status = WAITING
    r.was_preempted = 1
    join_line(state, rounds, request)
    state.counts[PREEMPTED] += 1
    state.counts[PREEMPTED_TOKENS] += held - min(held, r.path_blocks)


@kernel
def free_ahead(state: State, tokens: int) -> None:
    """Evict until `tokens` are free, or nothing is left to evict."""
    s = state.scalars[0]
    number = min(tokens, s.free + s.idle)
    take_blocks(state, number)
    s.free += number


@rare_kernel
def make_room(state: State, rounds: Rounds) -> None:
    """Retract at least one request and on until every decode left finds a token; then reserve as
    much as the requests left have needed so far.
    """
    s = state.scalars[0]
    while s.decodes > 1:
        retract(state, rounds, first_retracted(state))
        free_ahead(state, RETRACT_STEPS * s.decodes)
        if s.decodes <= s.free + s.idle:
            break
    if s.decodes > s.free + s.idle:
        # NOTE: only where decodes join prefill steps; SGLang would give the last request up.
        assert s.prefilling != NONE, "one request alone always fits"
        retract(state, rounds, s.prefilling)
    generated = 0
    limits = 0
    for newest in (s.left_newest, s.right_newest):
        k = newest
        while k != NONE:
            if state.requests[k].status == DECODING:
                generated += generated_tokens(state, k)
                limits += rounds.max_new[k]
            k = state.requests[k].older
    q = rounds.scalars[0]
    q.ratio = min(1.0, (generated + RETRACT_STEPS * s.decodes) / (limits + 1))
    q.full = 0
