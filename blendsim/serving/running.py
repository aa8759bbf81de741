"""What happens to one request while it runs: its prompt is computed in chunks, it decodes, is
thrown out or has its whole output.

A request that comes back after a preemption recomputes its prompt and what it had generated; the
last of those tokens is one it would have decoded, and is counted as a decode read.
"""

from blendsim.compiled import kernel
from blendsim.serving.forecast import forget
from blendsim.serving.host import has_host, store_private
from blendsim.serving.kv import extend, private_blocks, release, wait_again
from blendsim.serving.prompts import drop_prompt, put_prompt, takes_slices
from blendsim.serving.sides import generated_tokens, leave_side
from blendsim.serving.state import DECODING, DONE, NONE, WAITING, State
from blendsim.steplog import COUNTS

PREFILL_TOKENS = COUNTS.index("prefill_tokens")
PREFILL_REQUESTS = COUNTS.index("prefill_requests")
PREFILL_PAIRS = COUNTS.index("prefill_pairs")
DECODE_REQUESTS = COUNTS.index("decode_requests")
CONTEXT_TOKENS = COUNTS.index("context_tokens")
FINISHED = COUNTS.index("finished")
PREEMPTED = COUNTS.index("preempted")
PREEMPTED_TOKENS = COUNTS.index("preempted_tokens")


@kernel
def decode_phase(state: State, request: int) -> int:
    """Residue of the steps, modulo the block size, in which a decoding request opens a block."""
    r = state.requests[request]
    return (r.start_step + 1 - r.start_context) % state.scalars[0].block_tokens


@kernel
def start_decoding(state: State, request: int) -> None:
    """From the next step on the request decodes until it has generated its whole output."""
    s = state.scalars[0]
    r = state.requests[request]
    r.status = DECODING
    r.start_step = s.step + 1
    r.start_context = r.target + 1
    r.finish_step = s.step + r.output - r.generated
    slot = r.finish_step % len(state.finish)
    r.finish_previous = NONE
    r.finish_next = state.finish[slot]
    if takes_slices(state):  # prompts do not end in order of admission, but requests leave in it
        while r.finish_next != NONE and state.requests[r.finish_next].entry > r.entry:
            r.finish_previous = r.finish_next
            r.finish_next = state.requests[r.finish_next].finish_next
    if r.finish_next != NONE:
        state.requests[r.finish_next].finish_previous = request
    if r.finish_previous == NONE:
        state.finish[slot] = request
    else:
        state.requests[r.finish_previous].finish_next = request
    state.phase[decode_phase(state, request)] += 1
    s.decodes += 1
    s.context += r.start_context


@kernel
def stop_decoding(state: State, request: int, upcoming: int) -> None:
    """Take the request out of the decodes; `s.context` is now the sum of step `upcoming`."""
    s = state.scalars[0]
    r = state.requests[request]
    slot = r.finish_step % len(state.finish)
    if r.finish_previous == NONE:
        state.finish[slot] = r.finish_next
    else:
        state.requests[r.finish_previous].finish_next = r.finish_next
    if r.finish_next != NONE:
        state.requests[r.finish_next].finish_previous = r.finish_previous
    state.phase[decode_phase(state, request)] -= 1
    s.decodes -= 1
    s.context -= r.start_context + upcoming - r.start_step


@kernel
def leave(state: State, request: int, computed: int, held: int) -> None:
    """The request leaves the engine with `computed` tokens of KV in blocks for `held`."""
    release(state, request, computed, held)
    forget(state, request)
    leave_side(state, request)
    state.scalars[0].running -= 1


@kernel
def finish(state: State, request: int, computed: int) -> None:
    """The request has its whole output."""
    leave(state, request, computed, computed)
    state.requests[request].status = DONE
    state.requests[request].generated = state.requests[request].output
    state.scalars[0].done += 1
    state.counts[FINISHED] += 1


@kernel
def preempt(state: State, request: int) -> None:
    """Throw the request out; it comes back before all others and recomputes what no host kept."""
    s = state.scalars[0]
    r = state.requests[request]
    if r.status == DECODING:
        computed = r.start_context + s.step - r.start_step - 1
        generated = generated_tokens(state, request)
        stop_decoding(state, request, s.step)
        r.generated = generated
    else:
        computed = r.computed
        s.prefilling = NONE
        if takes_slices(state):
            drop_prompt(state, request)
    shared = s.block_tokens * min(computed // s.block_tokens, r.path_blocks)
    lost = computed - shared
    if has_host(state) and store_private(
        state, request, computed, private_blocks(state, request, computed)
    ):
        lost = 0
    if s.knows_plan == 1:
        wait_again(state, request)
    # NOTE: once decodes have their blocks for this step, they hold them for one token more.
    leave(state, request, computed, computed + (s.opened if r.status == DECODING else 0))
    r.target = r.prompt + r.generated
    r.status = WAITING
    r.was_preempted = 1
    s.requeued += 1
    state.queue[len(state.queue) - s.requeued] = request
    state.counts[PREEMPTED] += 1
    state.counts[PREEMPTED_TOKENS] += lost


@kernel
def run_chunk(state: State, request: int, tokens: int) -> None:
    """Compute the next `tokens` of the request's prompt in this step."""
    s = state.scalars[0]
    r = state.requests[request]
    counts = state.counts
    before = r.computed
    held = s.shared_held
    extend(state, request, before, before + tokens)
    s.fresh_blocks = s.shared_held - held
    r.computed += tokens
    state.chunk[0, s.chunks] = request
    state.chunk[1, s.chunks] = before
    state.chunk[2, s.chunks] = tokens
    s.chunks += 1
    s.prefilling = request
    if r.computed == r.target:
        s.prefilling = NONE
        state.ended[s.completed] = request
        s.completed += 1
        if r.generated > 0:  # the last token is a decode that was lost: see the module's docstring
            tokens -= 1
            counts[DECODE_REQUESTS] += 1
            counts[CONTEXT_TOKENS] += r.target
    elif takes_slices(state):
        put_prompt(state, request)
    if tokens > 0:
        counts[PREFILL_REQUESTS] += 1
        counts[PREFILL_TOKENS] += tokens
        counts[PREFILL_PAIRS] += tokens * before + tokens * (tokens + 1) // 2
