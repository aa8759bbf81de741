"""Rounds: SGLang's step. While requests wait and find room, a step computes prompts and nobody
decodes; else everybody decodes.

`schedule_round` and `commit_round` stand beside `batcher.schedule` and `commit`, for flavours that
are `prefill_first`. KV blocks have one token. `state.scalars.step` counts decode steps: a step
without decodes lies between two of them. What a step computes can be hit from the next step on, so
requests of one round compute a common prefix once each, and all but one copy is freed.
"""

from blendsim.compiled import kernel
from blendsim.serving.admission import admit
from blendsim.serving.batcher import finish, start_decoding, stop_decoding
from blendsim.serving.cache_order import order_line
from blendsim.serving.cascade import note_shared_reads
from blendsim.serving.columns import (
    count_admitted,
    count_decodes,
    count_engine,
    note_chunk,
)
from blendsim.serving.forecast import renew_estimates
from blendsim.serving.kv import take_blocks
from blendsim.serving.line import next_in_line, waiting_requests
from blendsim.serving.new_tokens import enter_step, owe, promise, room_left, settle
from blendsim.serving.retraction import make_room
from blendsim.serving.round_state import Rounds
from blendsim.serving.state import NONE, State


@kernel
def publish(state: State, request: int, before: int, after: int) -> None:
    """Tokens `before` … `after` of the request were computed: those on its path are shared now,
    and free where another request's copy is cached already.
    """
    s = state.scalars[0]
    path = state.requests[request].path_blocks
    number = min(after, path) - min(before, path)
    if number == 0:
        return
    s.private -= number
    s.free += number
    k = state.requests[request].node
    while k > 0:
        node = state.nodes[k]
        fresh = max(0, min(after - node.depth + node.length, node.length) - node.cached)
        node.cached += fresh
        s.shared_held += fresh
        s.free -= fresh
        k = node.parent


@kernel
def plan_chunk(state: State, rounds: Rounds, request: int, tokens: int) -> None:
    """Compute the next `tokens` of the request's prompt in this step; memory is taken once the
    round is complete.
    """
    r = state.requests[request]
    promise(rounds, request, tokens, r.computed + tokens == r.target)
    note_chunk(state, request, tokens)


@kernel
def is_prefill_due(state: State, rounds: Rounds) -> bool:
    """Whether this step looks for prompts to compute."""
    s = state.scalars[0]
    q = rounds.scalars[0]
    if s.decodes == 0:
        q.full = 0
    if s.prefilling != NONE:
        return True
    if q.full == 1 or waiting_requests(state) == 0:
        return False
    if s.running >= s.max_running:
        q.full = 1
        return False
    return True


@kernel
def collect_prompts(state: State, rounds: Rounds) -> None:
    """The prompt in progress first, then requests in line, up to the token budget."""
    s = state.scalars[0]
    q = rounds.scalars[0]
    q.pending = 0
    q.promised = s.decodes if q.mixed == 1 else 0
    budget = s.token_budget - q.promised
    order_line(state, rounds)
    k = s.prefilling
    if k != NONE:
        r = state.requests[k]
        tokens = min(budget, r.target - r.computed, s.free + s.idle)
        room = room_left(state, rounds)
        if room >= 1:
            tokens = min(tokens, int(room))
        if tokens == 0:
            return
        plan_chunk(state, rounds, k, tokens)
        budget -= tokens
    while budget > 0 and waiting_requests(state) > 0:
        k = NONE
        if s.running < s.max_running:
            k = next_in_line(state, rounds)
        if k == NONE:
            q.full = 1
            break
        r = state.requests[k]
        hit = admit(state, k)
        count_admitted(state, k, hit)
        tokens = min(budget, r.target - r.computed)
        plan_chunk(state, rounds, k, tokens)
        budget -= tokens
        if room_left(state, rounds) <= 0:
            q.full = 1
            break
    take_blocks(state, q.pending)
    s.private += q.pending


@kernel
def schedule_round(state: State, rounds: Rounds) -> None:
    """Decide what the next step computes; `state.counts` and `state.chunk` hold it."""
    s = state.scalars[0]
    q = rounds.scalars[0]
    state.counts[:] = 0
    s.chunks = 0
    s.completed = 0
    q.decoded = 0
    renew_estimates(state)
    if is_prefill_due(state, rounds):
        collect_prompts(state, rounds)
    joins = q.mixed == 1 and 0 < s.decodes <= s.free + s.idle
    if s.chunks == 0 or joins:
        q.decoded = 1
        if s.decodes > s.free + s.idle:
            make_room(state, rounds)
        elif s.chunks == 0:
            q.ratio = max(q.ratio - q.decay, q.least_ratio)
        take_blocks(state, s.decodes)
        s.private += s.decodes
        count_decodes(state)
        note_shared_reads(state)
    count_engine(state, waiting_requests(state))


@kernel
def has_rounds_left(state: State) -> bool:
    """`batcher.has_work` for rounds, whose line is another: whether requests run or wait."""
    return state.scalars[0].done < len(state.requests)


@kernel
def commit_round(state: State, rounds: Rounds) -> None:
    """Record that the scheduled step was computed: prompts can be hit and decode from now on,
    outputs grow, requests end.
    """
    s = state.scalars[0]
    q = rounds.scalars[0]
    done = s.done
    if s.chunks > 0 and (q.decoded == 1 or s.decodes == 0 or s.prefilling != NONE):
        q.full = 0  # SGLang forgets it when it puts the batches together
    for j in range(s.chunks):
        publish(state, state.chunk[0, j], state.chunk[1, j], state.chunk[1, j] + state.chunk[2, j])
    if q.decoded == 1:
        s.context += s.decodes
    else:
        s.step -= 1  # this step belongs to the decode step before it
    for j in range(s.completed):
        k = state.ended[j]
        r = state.requests[k]
        r.generated += 1
        if r.generated == r.output:
            finish(state, k, r.target)
        else:
            start_decoding(state, k)
            owe(state, rounds, k)
    if q.decoded == 1:
        k = state.finish[s.step % len(state.finish)]
        while k != NONE and state.requests[k].finish_next != NONE:
            k = state.requests[k].finish_next
        while k != NONE:  # oldest first
            r = state.requests[k]
            following = r.finish_previous
            settle(state, rounds, k)
            stop_decoding(state, k, s.step + 1)
            finish(state, k, r.start_context + s.step - r.start_step)
            k = following
    s.step += 1
    if q.decoded == 1:
        enter_step(state, rounds)
    if s.done > done:
        q.full = 0
