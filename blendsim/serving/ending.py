"""Answers that end before the output they were given room for: the model ended them.

Whoever executes the steps learns that when a step's tokens are known, which may be after the next
step is decided. So a request may be ended in any state but done: while it decodes, and also when it
has been preempted since, or recomputes what that lost.
"""

from blendsim.compiled import rare_kernel
from blendsim.request import Ints
from blendsim.serving.batcher import finish, stop_decoding
from blendsim.serving.host import drop_private, has_host
from blendsim.serving.kinds import note_end
from blendsim.serving.kv import append_node, hold_path, leave_path, left_behind
from blendsim.serving.pacing import note_finished
from blendsim.serving.sides import generated_tokens
from blendsim.serving.state import DECODING, DONE, NONE, PREFILLING, WAITING, State


@rare_kernel
def end_requests(state: State, requests: Ints) -> int:
    """Between steps: what these requests have generated is their whole output. Returns how many of
    them were not done yet.
    """
    s = state.scalars[0]
    ended = 0
    for k in requests:
        r = state.requests[k]
        if r.status == DONE:
            continue
        ended += 1
        if r.status == DECODING:
            r.output = generated_tokens(state, k)
            computed = r.start_context + s.step - 1 - r.start_step
            stop_decoding(state, k, s.step)
            finish(state, k, computed)
            continue
        assert r.generated > 0, "whoever ends has generated a token"
        r.output = r.generated
        if r.status == PREFILLING:
            assert s.prefilling == k, "one prompt at most is in progress"
            s.prefilling = NONE
            finish(state, k, r.computed)
            continue
        assert r.status == WAITING, "prompts that are handed over are not ended"
        leave_line(state, k)
    return ended


@rare_kernel
def leave_line(state: State, request: int) -> None:
    """A preempted request ends where it waits, as one that came back and left at once: what it and
    its path have in the cache has just been used.
    """
    s = state.scalars[0]
    r = state.requests[request]
    last = len(state.queue)
    place = last - s.requeued
    while state.queue[place] != request:
        place += 1
        assert place < last, "who was preempted waits to come back"
    while place > last - s.requeued:
        state.queue[place] = state.queue[place - 1]
        place -= 1
    s.requeued -= 1
    left = left_behind(state, request)
    hold_path(state, request)  # NOTE: this takes back what it left behind, as private blocks
    s.private -= left
    if left > 0:
        state.nodes[s.own_nodes + request].cached = left
        append_node(state, s.own_nodes + request)
        s.idle += left
    leave_path(state, request)
    if has_host(state):
        drop_private(state, request)
    note_finished(state, request)
    note_end(state, request)
    r.status = DONE
    s.done += 1
