"""The step: continuous batching with chunked prefill, and preemption by recompute.

`schedule` decides what one step computes, `commit` records that it was done. Decodes come first,
one token each; then the prompt in progress; then, if nobody had to leave, new requests while the
token budget lasts. Only the budget's end cuts a prompt short, or trim the step's last one, and
nobody enters after that, so one prompt at most is in progress between steps. A request that comes
back after a preemption recomputes its prompt and what it had generated; the last of those tokens is
one it would have decoded, and is counted as a decode read.
"""

from blendsim.compiled import kernel
from blendsim.serving.admission import admit
from blendsim.serving.cascade import join_readers, leave_readers, note_shared_reads
from blendsim.serving.columns import (
    FINISHED,
    PREEMPTED,
    PREEMPTED_TOKENS,
    count_admitted,
    count_decodes,
    count_engine,
    note_chunk,
)
from blendsim.serving.forecast import forget, renew_estimates
from blendsim.serving.host import has_host, store_private
from blendsim.serving.kinds import leave_kind
from blendsim.serving.kv import (
    extend,
    missing_blocks,
    private_blocks,
    release,
    take_blocks,
    wait_again,
)
from blendsim.serving.microbatch import (
    finish_slot,
    is_its_turn,
    is_pipelined,
    join_microbatch,
    microbatch_of,
    note_on_its_way,
    pass_turn,
    phase_at,
    turn_now,
    uncount_waiting,
    upcoming_step,
)
from blendsim.serving.paced_line import holes, next_to_enter, who_leaves
from blendsim.serving.pacing import (
    note_admitted,
    note_finished,
    note_step,
    note_waiting,
    step_budget,
)
from blendsim.serving.sides import generated_tokens, leave_side
from blendsim.serving.state import DECODING, DONE, NONE, WAITING, State
from blendsim.serving.trim import trim


@kernel
def decode_phase(state: State, request: int) -> int:
    """Where `state.phase` counts the request: by the residue of the steps, modulo the block size,
    in which it opens a block.
    """
    r = state.requests[request]
    return phase_at(state, microbatch_of(state, request), r.start_step + 1 - r.start_context)


@kernel
def start_decoding(state: State, request: int) -> None:
    """From the next step on the request decodes until it has generated its whole output."""
    s = state.scalars[0]
    r = state.requests[request]
    r.status = DECODING
    r.start_step = s.step + 1
    r.start_context = r.target + 1
    r.finish_step = s.step + r.output - r.generated
    slot = finish_slot(state, microbatch_of(state, request), r.finish_step)
    r.finish_previous = NONE
    r.finish_next = state.finish[slot]
    if r.finish_next != NONE:
        state.requests[r.finish_next].finish_previous = request
    state.finish[slot] = request
    state.phase[decode_phase(state, request)] += 1
    s.decodes += 1
    s.context += r.start_context
    join_readers(state, request)


@kernel
def stop_decoding(state: State, request: int, upcoming: int) -> None:
    """Take the request out of the decodes, whose context is counted now as of step `upcoming`."""
    s = state.scalars[0]
    r = state.requests[request]
    slot = finish_slot(state, microbatch_of(state, request), r.finish_step)
    if r.finish_previous == NONE:
        state.finish[slot] = r.finish_next
    else:
        state.requests[r.finish_previous].finish_next = r.finish_next
    if r.finish_next != NONE:
        state.requests[r.finish_next].finish_previous = r.finish_previous
    state.phase[decode_phase(state, request)] -= 1
    reads = r.start_context + upcoming - r.start_step
    if is_its_turn(state, request):
        s.decodes -= 1
        s.context -= reads
    else:
        uncount_waiting(state, request, reads)
    leave_readers(state, request)


@kernel
def leave(state: State, request: int, computed: int, held: int) -> None:
    """The request leaves the engine with `computed` tokens of KV in blocks for `held`."""
    release(state, request, computed, held)
    if state.requests[request].is_member == 0:
        forget(state, request)
    leave_side(state, request)
    state.scalars[0].running -= 1


@kernel
def preempt(state: State, request: int) -> None:
    """Throw the request out; it comes back before all others and recomputes what no host kept."""
    s = state.scalars[0]
    r = state.requests[request]
    opened = 0
    if r.status == DECODING:
        upcoming = upcoming_step(state, request)
        computed = r.start_context + upcoming - r.start_step - 1
        generated = generated_tokens(state, request)
        stop_decoding(state, request, upcoming)
        if is_pipelined(state) and generated == r.output:
            finish(state, request, computed)  # its last token is on its way, and was counted
            state.counts[FINISHED] -= 1
            state.counts[PREEMPTED] += 1
            return
        r.generated = generated
        # NOTE: once decodes have their blocks for this step, they hold them for one token more.
        opened = s.opened if is_its_turn(state, request) else 0
    else:
        computed = r.computed
        s.prefilling = NONE
    shared = s.block_tokens * min(computed // s.block_tokens, r.path_blocks)
    lost = computed - shared
    if has_host(state) and store_private(
        state, request, computed, private_blocks(state, request, computed)
    ):
        lost = 0
    if s.knows_plan == 1:
        wait_again(state, request)
    leave(state, request, computed, computed + opened)
    leave_kind(state, request, False)
    r.target = r.prompt + r.generated
    r.status = WAITING
    r.was_preempted = 1
    note_on_its_way(state, request)
    note_waiting(state, request, 1.0)
    s.requeued += 1
    state.queue[len(state.queue) - s.requeued] = request
    state.counts[PREEMPTED] += 1
    state.counts[PREEMPTED_TOKENS] += lost


@kernel
def run_chunk(state: State, request: int, tokens: int) -> None:
    """Compute the next `tokens` of the request's prompt in this step."""
    s = state.scalars[0]
    r = state.requests[request]
    held = s.shared_held
    extend(state, request, r.computed, r.computed + tokens)
    s.fresh_blocks = s.shared_held - held
    note_chunk(state, request, tokens)
    join_microbatch(state, request)


@kernel
def open_decode_blocks(state: State) -> None:
    """Give every decode at a block's end its next block, preempting while there is none."""
    s = state.scalars[0]
    slot = phase_at(state, turn_now(state), s.step)
    while s.free + s.idle < state.phase[slot]:
        preempt(state, who_leaves(state))
    take_blocks(state, state.phase[slot])
    s.private += state.phase[slot]
    s.opened = 1


@kernel
def continue_prefill(state: State, budget: int) -> int:
    """Go on with the prompt in progress, if there is one; returns the token budget left."""
    s = state.scalars[0]
    k = s.prefilling
    if k == NONE or budget == 0:
        return budget
    r = state.requests[k]
    tokens = min(budget, r.target - r.computed)
    while missing_blocks(state, k, r.computed, r.computed + tokens) > s.free + s.idle:
        out = who_leaves(state)
        preempt(state, out)
        if out == k:
            return 0
    run_chunk(state, k, tokens)
    return budget - tokens


@kernel
def schedule(state: State) -> None:
    """Decide what the next step computes; `state.counts` and `state.chunk` hold it."""
    s = state.scalars[0]
    if is_pipelined(state):
        end_answers(state, s.step - 1)
    state.counts[:] = 0
    s.chunks = 0
    s.completed = 0
    s.opened = 0
    renew_estimates(state)
    open_decode_blocks(state)
    # NOTE: counted now: a request preempted below was to decode in this step and does not.
    budget = continue_prefill(state, max(0, step_budget(state) - s.decodes))
    if state.counts[PREEMPTED] == 0:
        while budget > 0 and s.running < s.max_running:
            k = next_to_enter(state)
            if k == NONE:
                break
            r = state.requests[k]
            hit = admit(state, k)
            note_admitted(state, k, hit)
            count_admitted(state, k, hit)
            tokens = min(budget, r.target - r.computed)
            run_chunk(state, k, tokens)
            budget -= tokens
    # NOTE: a chunk's blocks have left host memory, so that a cut one would leave a gap before it.
    if s.dense_multiple > 1 and not has_host(state):
        trim(state)
    count_decodes(state)
    count_engine(state, s.requeued + s.back - s.front + 1 - holes(state))
    note_shared_reads(state)


@kernel
def commit(state: State) -> None:
    """Record that the scheduled step was computed: outputs grow, requests end, prompts become
    decodes.
    """
    s = state.scalars[0]
    note_step(state)
    s.context += s.decodes
    if not is_pipelined(state):
        end_answers(state, s.step)
    for j in range(s.completed):
        k = state.ended[j]
        r = state.requests[k]
        r.generated += 1
        if r.generated == r.output and not is_pipelined(state):
            finish(state, k, r.target)
        else:
            start_decoding(state, k)
    state.counts[FINISHED] += pass_turn(state)


@kernel
def end_answers(state: State, step: int) -> None:
    """Those that decode in this step, or had their turn in it, and have their whole output by it
    leave.
    """
    s = state.scalars[0]
    k = state.finish[finish_slot(state, turn_now(state), step)]
    while s.oldest_first == 1 and k != NONE and state.requests[k].finish_next != NONE:
        k = state.requests[k].finish_next
    while k != NONE:
        r = state.requests[k]
        following = r.finish_previous if s.oldest_first == 1 else r.finish_next
        stop_decoding(state, k, step + 1)
        finish(state, k, r.start_context + step - r.start_step)
        k = following


@kernel
def finish(state: State, request: int, computed: int) -> None:
    """The request has its whole output."""
    leave(state, request, computed, computed)
    note_finished(state, request)
    leave_kind(state, request, True)
    state.requests[request].status = DONE
    state.requests[request].generated = state.requests[request].output
    state.scalars[0].done += 1
    state.counts[FINISHED] += 1


@kernel
def has_work(state: State) -> bool:
    """Whether requests run or wait here."""
    s = state.scalars[0]
    return s.running + s.requeued > 0 or s.front <= s.back
