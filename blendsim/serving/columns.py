"""A step in numbers: where each count stands in `State.counts`, and the kernels that fill counts
and chunks in, the same for all kinds of steps.
"""

from blendsim.arrays import Ints
from blendsim.compiled import kernel
from blendsim.serving.state import NONE, State
from blendsim.steplog import COUNTS

PREFILL_TOKENS = COUNTS.index("prefill_tokens")
PREFILL_REQUESTS = COUNTS.index("prefill_requests")
PREFILL_PAIRS = COUNTS.index("prefill_pairs")
DECODE_REQUESTS = COUNTS.index("decode_requests")
CONTEXT_TOKENS = COUNTS.index("context_tokens")
SAMPLED_TOKENS = COUNTS.index("sampled_tokens")
HIT_TOKENS = COUNTS.index("hit_tokens")
ADMITTED = COUNTS.index("admitted")
FINISHED = COUNTS.index("finished")
PREEMPTED = COUNTS.index("preempted")
PREEMPTED_TOKENS = COUNTS.index("preempted_tokens")
RUNNING = COUNTS.index("running")
WAITING_REQUESTS = COUNTS.index("waiting")
HELD_BLOCKS = COUNTS.index("held_blocks")
CACHED_BLOCKS = COUNTS.index("cached_blocks")
LEFT_TOKENS = COUNTS.index("left_tokens")
RIGHT_TOKENS = COUNTS.index("right_tokens")
STORED_BLOCKS = COUNTS.index("stored_blocks")
LOADED_BLOCKS = COUNTS.index("loaded_blocks")
SHARED_READS = COUNTS.index("shared_reads")


@kernel
def step_tokens(counts: Ints) -> int:
    """Tokens that the step computes; 0: it computes nothing, and is none."""
    return counts[PREFILL_TOKENS] + counts[DECODE_REQUESTS]


@kernel
def count_admitted(state: State, request: int, hit: int) -> None:
    """The request has entered, with `hit` tokens of its prompt in the cache."""
    if state.requests[request].was_preempted == 0:
        state.counts[HIT_TOKENS] += hit  # what a request finds again of its own is not sharing
    state.counts[ADMITTED] += 1


@kernel
def count_chunk(state: State, request: int, before: int, tokens: int, number: int) -> None:
    """Count a chunk of `tokens` of the request's prompt, `before` of which are there, `number`
    times: once, or −1 times to take it back.
    """
    r = state.requests[request]
    counts = state.counts
    if before + tokens == r.target and r.generated > 0:
        tokens -= 1  # the last token is a decode that was lost: see batcher.py
        counts[DECODE_REQUESTS] += number
        counts[CONTEXT_TOKENS] += number * r.target
    if tokens > 0:
        counts[PREFILL_REQUESTS] += number
        counts[PREFILL_TOKENS] += number * tokens
        counts[PREFILL_PAIRS] += number * (tokens * before + tokens * (tokens + 1) // 2)


@kernel
def note_chunk(state: State, request: int, tokens: int) -> None:
    """The step computes the next `tokens` of the request's prompt: the last chunk so far."""
    s = state.scalars[0]
    r = state.requests[request]
    before = r.computed
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
    count_chunk(state, request, before, tokens, 1)


@kernel
def count_decodes(state: State) -> None:
    """Everybody who decodes does so in this step."""
    s = state.scalars[0]
    counts = state.counts
    counts[DECODE_REQUESTS] += s.decodes
    counts[CONTEXT_TOKENS] += s.context
    counts[SAMPLED_TOKENS] += s.decodes


@kernel
def count_engine(state: State, waiting: int) -> None:
    """All chunks are scheduled: count the prompts that end, and who and what is in the engine."""
    s = state.scalars[0]
    counts = state.counts
    counts[SAMPLED_TOKENS] += s.completed
    counts[RUNNING] = s.running
    counts[WAITING_REQUESTS] = waiting
    counts[HELD_BLOCKS] = s.shared_held + s.private
    counts[CACHED_BLOCKS] = s.idle
    counts[LEFT_TOKENS] = s.left_reserved
    counts[RIGHT_TOKENS] = s.right_reserved


@kernel
def keep_counts(counts: Ints, row: int, step: Ints) -> None:
    """Write the counts of a step into a row of the log."""
    # NOTE: one by one, as numba would make a copy of the whole row in case the two overlap.
    for k in range(len(step)):
        counts[row, k] = step[k]
