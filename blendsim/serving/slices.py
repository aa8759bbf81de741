"""vLLM's `long_prefill_token_threshold`: one step computes a slice of a long prompt, so that others
get on beside it.

Several prompts are then in progress at once, and vLLM's order of running requests, that of
admission, tells who gets the step's tokens: a prompt's slice may leave none for decodes of younger
requests. Such a decode is put off: it is a prompt in progress with one token to compute.
"""

from blendsim.compiled import kernel
from blendsim.serving.batcher import preempt, run_chunk, stop_decoding
from blendsim.serving.kv import missing_blocks, take_blocks
from blendsim.serving.prompts import drop_prompt, prompt_at, put_prompt
from blendsim.serving.sides import generated_tokens, victim
from blendsim.serving.state import DECODING, NONE, PREFILLING, State


@kernel
def longest_slice(state: State) -> int:
    """Tokens of one prompt that the step may compute: no limit for a request without others."""
    s = state.scalars[0]
    others = s.running + s.requeued + s.back - s.front + 1
    return int(s.long_prefill if s.long_prefill > 0 and others > 1 else s.token_budget)


@kernel
def slice_tokens(state: State, request: int, longest: int) -> int:
    """Tokens the request's prompt would compute in this step if the budget lasts."""
    r = state.requests[request]
    return min(longest, r.target - r.computed)


@kernel
def put_off(state: State, request: int) -> None:
    """The request's decode finds no token left in this step."""
    s = state.scalars[0]
    r = state.requests[request]
    context = r.start_context + s.step - r.start_step
    generated = generated_tokens(state, request)
    stop_decoding(state, request, s.step)
    r.generated = generated
    r.target = context
    r.computed = context - 1
    r.status = PREFILLING


@kernel
def share_tokens(state: State, longest: int) -> int:
    """Give the running requests their tokens of the step; returns how many are left.

    Oldest first: while they last everybody gets its own. With two ends of the plan there is no one
    order of running requests; decodes go first then.
    """
    s = state.scalars[0]
    wanted = s.decodes
    for place in range(s.in_progress):
        wanted += slice_tokens(state, prompt_at(state, place), longest)
    left = s.token_budget
    if wanted <= left or s.dual_scan == 1:
        left -= s.decodes
        for place in range(s.in_progress):
            tokens = min(left, slice_tokens(state, prompt_at(state, place), longest))
            state.chunk[2, place] = tokens
            left -= tokens
        return left
    s.in_progress = 0
    k = s.left_oldest
    while k != NONE:
        r = state.requests[k]
        if r.status == DECODING and left > 0:
            left -= 1
        else:
            if r.status == DECODING:
                put_off(state, k)
            tokens = min(left, slice_tokens(state, k, longest))
            state.chunk[2, s.in_progress] = tokens
            put_prompt(state, k)
            left -= tokens
        k = r.newer
    return left


@kernel
def blocks_wanted(state: State) -> int:
    """Blocks that the step's decodes and slices open."""
    s = state.scalars[0]
    number = state.phase[s.step % s.block_tokens]
    for place in range(s.in_progress):
        k = prompt_at(state, place)
        before = state.requests[k].computed
        # NOTE: a prompt that gives a block back may run after one that needs it.
        number += max(0, missing_blocks(state, k, before, before + state.chunk[2, place]))
    return int(number)


@kernel
def run_slices(state: State, longest: int) -> int:
    """Decodes and the slices of prompts in progress, as far as tokens and blocks go; returns the
    tokens left.
    """
    s = state.scalars[0]
    left = share_tokens(state, longest)
    while blocks_wanted(state) > s.free + s.idle:
        out = victim(state)
        drop_prompt(state, out)
        preempt(state, out)
    opened = state.phase[s.step % s.block_tokens]
    take_blocks(state, opened)
    s.private += opened
    s.opened = 1
    number = s.in_progress
    s.in_progress = 0
    for place in range(number):  # those that go on are put back, no further than they stood
        k = prompt_at(state, place)
        tokens = state.chunk[2, place]
        if tokens > 0:
            run_chunk(state, k, tokens)
        if state.requests[k].computed < state.requests[k].target:
            put_prompt(state, k)
    return left
