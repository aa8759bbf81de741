"""The step of an engine whose knobs are turned (`Knobs`): `schedule_turned` and `commit_turned`
stand beside `batcher.schedule` and `commit`.

They are those two with vLLM's rules for prompts that wait for their turn (`cadence.py`), prompts in
slices (`slices.py`) and a watermark. Apart, because a mere call in the usual step costs every
engine some 5 % of it, whether or not it is ever made.
"""

from blendsim.compiled import kernel
from blendsim.serving.admission import admit, next_request
from blendsim.serving.batcher import (
    continue_prefill,
    finish,
    open_decode_blocks,
    run_chunk,
    start_decoding,
    stop_decoding,
)
from blendsim.serving.cadence import enters_held_step, holds_prompts
from blendsim.serving.cascade import note_shared_reads
from blendsim.serving.columns import (
    PREEMPTED,
    count_admitted,
    count_decodes,
    count_engine,
)
from blendsim.serving.forecast import renew_estimates
from blendsim.serving.prompts import put_prompt
from blendsim.serving.slices import longest_slice, run_slices
from blendsim.serving.state import NONE, State


@kernel
def schedule_turned(state: State) -> None:
    """Decide what the next step computes; `state.counts` and `state.chunk` hold it."""
    s = state.scalars[0]
    state.counts[:] = 0
    s.chunks = 0
    s.completed = 0
    s.opened = 0
    is_held = holds_prompts(state)
    longest = longest_slice(state)
    renew_estimates(state)
    if s.long_prefill > 0:
        budget = run_slices(state, longest)
    else:
        open_decode_blocks(state)
        budget = s.token_budget - s.decodes
        if not is_held or s.decodes == 0:  # all that decoded may have been thrown out
            budget = continue_prefill(state, budget)
    if s.chunks > 0:
        s.last_prefill = s.step + 1
    if state.counts[PREEMPTED] == 0:
        while budget > 0 and s.running < s.max_running:
            if is_held and not enters_held_step(state):
                break
            k = next_above_watermark(state)
            if k == NONE:
                break
            budget -= begin(state, k, min(budget, longest))
        if not is_held:
            s.backlog = s.requeued + s.back - s.front + 1
    count_decodes(state)
    count_engine(state, s.requeued + s.back - s.front + 1)
    note_shared_reads(state)


@kernel
def next_above_watermark(state: State) -> int:
    """The waiting request to admit now, or NONE: beside others it leaves the watermark free."""
    s = state.scalars[0]
    kept = s.watermark if s.running > 0 else 0
    s.free -= kept  # NOTE: may be below 0; what is free or idle is all that admission asks for
    k = next_request(state)
    s.free += kept
    return int(k)


@kernel
def begin(state: State, request: int, most: int) -> int:
    """Let the request in and compute the first tokens of its prompt, `most` at most; returns how
    many.
    """
    s = state.scalars[0]
    r = state.requests[request]
    hit = admit(state, request)
    count_admitted(state, request, hit)
    r.entry = s.entries
    s.entries += 1
    if r.target - r.computed > 1:
        s.last_prefill = s.step + 1
    tokens = min(most, r.target - r.computed)
    run_chunk(state, request, tokens)
    if s.long_prefill > 0 and r.computed < r.target:
        put_prompt(state, request)
    return int(tokens)


@kernel
def commit_turned(state: State) -> None:
    """Record that the scheduled step was computed. Prompts in slices do not end in order of
    admission, but requests leave in it.
    """
    s = state.scalars[0]
    s.context += s.decodes
    k = state.finish[s.step % len(state.finish)]
    while k != NONE and state.requests[k].finish_next != NONE:
        k = state.requests[k].finish_next
    prompts = 0
    while k != NONE:
        r = state.requests[k]
        following = r.finish_previous
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
        keep_order(state, request)


@kernel
def keep_order(state: State, request: int) -> None:
    """Of the requests that will finish with this one, which comes first, younger ones move ahead
    of it.
    """
    r = state.requests[request]
    younger = r.finish_next
    if younger == NONE or state.requests[younger].entry < r.entry:
        return
    state.finish[r.finish_step % len(state.finish)] = younger
    state.requests[younger].finish_previous = NONE
    while state.requests[younger].finish_next != NONE:
        following = state.requests[younger].finish_next
        if state.requests[following].entry < r.entry:
            break
        younger = following
    r.finish_previous = younger
    r.finish_next = state.requests[younger].finish_next
    state.requests[younger].finish_next = request
    if r.finish_next != NONE:
        state.requests[r.finish_next].finish_previous = request
