"""The step: continuous batching with chunked prefill, and preemption by recompute.

`schedule` decides what one step computes, `commit` records that it was done. Decodes come first,
one token each; then the prompt in progress; then, if nobody had to leave, new requests while the
token budget lasts. Only the budget's end cuts a prompt short, or trim the step's last one, and
nobody enters after that, so one prompt at most is in progress between steps. Engines that compute
long prompts in slices (`slices.py`) are the exception.
"""

from blendsim.compiled import kernel
from blendsim.serving.admission import admit, next_request
from blendsim.serving.cadence import enters_held_step, holds_prompts, keeps_cadence
from blendsim.serving.forecast import renew_estimates
from blendsim.serving.host import has_host
from blendsim.serving.kv import missing_blocks, take_blocks
from blendsim.serving.prompts import takes_slices
from blendsim.serving.running import (
    CONTEXT_TOKENS,
    DECODE_REQUESTS,
    PREEMPTED,
    finish,
    preempt,
    run_chunk,
    start_decoding,
    stop_decoding,
)
from blendsim.serving.sides import victim
from blendsim.serving.slices import longest_slice, run_slices
from blendsim.serving.state import NONE, State
from blendsim.serving.trim import trim
from blendsim.steplog import COUNTS

SAMPLED_TOKENS = COUNTS.index("sampled_tokens")
HIT_TOKENS = COUNTS.index("hit_tokens")
ADMITTED = COUNTS.index("admitted")
RUNNING = COUNTS.index("running")
WAITING_REQUESTS = COUNTS.index("waiting")
HELD_BLOCKS = COUNTS.index("held_blocks")
CACHED_BLOCKS = COUNTS.index("cached_blocks")
LEFT_TOKENS = COUNTS.index("left_tokens")
RIGHT_TOKENS = COUNTS.index("right_tokens")


@kernel
def open_decode_blocks(state: State) -> None:
    """Give every decode at a block's end its next block, preempting while there is none."""
    s = state.scalars[0]
    slot = s.step % s.block_tokens
    while s.free + s.idle < state.phase[slot]:
        preempt(state, victim(state))
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
        out = victim(state)
        preempt(state, out)
        if out == k:
            return 0
    run_chunk(state, k, tokens)
    return budget - tokens


@kernel
def begin(state: State, request: int, most: int) -> int:
    """Let the request in and compute the first tokens of its prompt, `most` at most; returns how
    many.
    """
    s = state.scalars[0]
    r = state.requests[request]
    counts = state.counts
    hit = admit(state, request)
    if r.was_preempted == 0:
        counts[HIT_TOKENS] += hit  # what a request finds again of its own is not sharing
    counts[ADMITTED] += 1
    tokens = min(most, r.target - r.computed)
    if takes_slices(state):
        r.entry = s.entries
        s.entries += 1
    if keeps_cadence(state) and r.target - r.computed > 1:
        s.last_prefill = s.step + 1
    run_chunk(state, request, tokens)
    return int(tokens)


@kernel
def schedule(state: State) -> None:
    """Decide what the next step computes; `state.counts` and `state.chunk` hold it."""
    s = state.scalars[0]
    counts = state.counts
    counts[:] = 0
    s.chunks = 0
    s.completed = 0
    s.opened = 0
    renew_estimates(state)
    is_held = keeps_cadence(state) and holds_prompts(state)
    longest = s.token_budget
    if takes_slices(state):
        longest = longest_slice(state)
        budget = run_slices(state, longest)
    else:
        open_decode_blocks(state)
        # NOTE: counted now: a request preempted below was to decode in this step and does not.
        budget = s.token_budget - s.decodes
        if not is_held or s.decodes == 0:  # all that decoded may have been thrown out
            budget = continue_prefill(state, budget)
    if keeps_cadence(state) and s.chunks > 0:
        s.last_prefill = s.step + 1
    if counts[PREEMPTED] == 0:
        while budget > 0 and s.running < s.max_running:
            if is_held and not enters_held_step(state):
                break
            k = next_request(state)
            if k == NONE:
                break
            budget -= begin(state, k, min(budget, longest))
        if keeps_cadence(state) and not is_held:
            s.backlog = s.requeued + s.back - s.front + 1
    # NOTE: a chunk's blocks have left host memory, so that a cut one would leave a gap before it.
    if s.dense_multiple > 1 and not has_host(state):
        trim(state)
    counts[DECODE_REQUESTS] += s.decodes
    counts[CONTEXT_TOKENS] += s.context
    counts[SAMPLED_TOKENS] = s.decodes + s.completed
    counts[RUNNING] = s.running
    counts[WAITING_REQUESTS] = s.requeued + s.back - s.front + 1
    counts[HELD_BLOCKS] = s.shared_held + s.private
    counts[CACHED_BLOCKS] = s.idle
    counts[LEFT_TOKENS] = s.left_reserved
    counts[RIGHT_TOKENS] = s.right_reserved


@kernel
def commit(state: State) -> None:
    """Record that the scheduled step was computed: outputs grow, requests end, prompts become
    decodes.
    """
    s = state.scalars[0]
    s.context += s.decodes
    slot = s.step % len(state.finish)
    k = state.finish[slot]
    while s.oldest_first == 1 and k != NONE and state.requests[k].finish_next != NONE:
        k = state.requests[k].finish_next
    prompts = 0
    while k != NONE:
        r = state.requests[k]
        following = r.finish_previous if s.oldest_first == 1 else r.finish_next
        if takes_slices(state):  # prompts may be older than decodes
            while prompts < s.completed and state.requests[state.ended[prompts]].entry < r.entry:
                end_prompt(state, state.ended[prompts])
                prompts += 1
        stop_decoding(state, k, s.step + 1)
        finish(state, k, r.start_context + s.step - r.start_step)
        k = following
    for j in range(prompts, s.completed):
        end_prompt(state, state.ended[j])
    s.step += 1


@kernel
def end_prompt(state: State, request: int) -> None:
    """The request's prompt is complete, and with it the next token of its output."""
    r = state.requests[request]
    r.generated += 1
    if r.generated == r.output:
        finish(state, request, r.target)
    else:
        start_decoding(state, request)


@kernel
def has_work(state: State) -> bool:
    """Whether requests run or wait here."""
    s = state.scalars[0]
    return s.running + s.requeued > 0 or s.front <= s.back
