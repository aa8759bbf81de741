"""Micro-batches: with pipeline parallelism a step computes one of several, which take turns.

A pipeline of p stages is full when p steps are on their way, and a request that is on its way has
no next token to compute. So running requests fall into p micro-batches: who decodes does so in the
one that its prompt ended in, every p-th step. All of them share the waiting line, the running
limit, the KV cache and the prompt in progress, whose next chunk is computed in the next step, since
its tokens are known. That is how vLLM's V1 engine schedules a pipeline (`step_with_batch_queue` of
vllm/v1/engine/core.py, 0.33).

`scalars.step` counts rounds: a round is a step of each micro-batch, in turn. `scalars.decodes` and
`scalars.context` are those of the micro-batch whose turn it is, as are the rows of `state.phase`
and `state.finish` that it uses. What a step computes is known to the scheduler when it leaves the
last stage, which is when its micro-batch's next turn comes: until then who has its whole output
stays, with its KV. Who is thrown out while something of it is on its way comes back no sooner than
that, and others pass it in the line.
"""

from typing import Any, NamedTuple

import numpy as np

from blendsim.arrays import Bools, Ints
from blendsim.compiled import kernel, kernel_where
from blendsim.serving.state import NONE, State

MICROBATCHES = np.dtype([("number", np.int64), ("turn", np.int64)], align=True)


class Microbatches(NamedTuple):
    """What State has beside the scalars of the micro-batch whose turn it is."""

    record: Any  # (1,) MICROBATCHES: how many there are, and whose turn it is
    decodes: Ints  # (p,), of those that wait for their turn
    context: Ints  # (p,), Σ context of those decodes in their next step


def new_microbatches(stages: int) -> Microbatches:
    """Of a pipeline that is still empty."""
    record: Any = np.zeros(1, MICROBATCHES).view(np.recarray)
    record.number = stages
    return Microbatches(record, np.zeros(stages, np.int64), np.zeros(stages, np.int64))


@kernel_where("microbatches", lambda state: False)
def is_pipelined(state: State) -> bool:
    """Whether steps are those of several micro-batches in turn."""
    return True


@kernel_where("microbatches", lambda state, request: state.scalars[0].step)
def upcoming_step(state: State, request: int) -> int:
    """The next step that a decoding request takes part in, or is about to: in rounds, the coming
    one if its micro-batch had its turn in this.
    """
    turn = state.microbatches[0].record[0].turn
    return int(state.scalars[0].step) + int(state.requests[request].microbatch < turn)


@kernel_where("microbatches", lambda state: 0)
def turn_now(state: State) -> int:
    """The micro-batch whose turn it is."""
    return int(state.microbatches[0].record[0].turn)


@kernel_where("microbatches", lambda state, request: 0)
def microbatch_of(state: State, request: int) -> int:
    """The micro-batch in which the request computed last."""
    return int(state.requests[request].microbatch)


@kernel
def is_its_turn(state: State, request: int) -> bool:
    """Whether the request, which decodes, does so in this step."""
    return bool(microbatch_of(state, request) == turn_now(state))


@kernel
def phase_at(state: State, microbatch: int, step: int) -> int:
    """Where `state.phase` has those of a micro-batch that open a block in that step."""
    block = state.scalars[0].block_tokens
    return int(microbatch * block + step % block)


@kernel_where("microbatches", lambda state, microbatch, step: step % len(state.finish))
def finish_slot(state: State, microbatch: int, step: int) -> int:
    """Where `state.finish` has those of a micro-batch that finish in that step."""
    ring = len(state.finish) // state.microbatches[0].record[0].number
    return int(microbatch * ring + step % ring)


@kernel_where("microbatches", lambda state, request, reads: None)
def uncount_waiting(state: State, request: int, reads: int) -> None:
    """Take a decode that would read so much next out of what is counted of its micro-batch, which
    waits for its turn.
    """
    waiting, at = state.microbatches[0], microbatch_of(state, request)
    waiting.decodes[at] -= 1
    waiting.context[at] -= reads


@kernel_where("microbatches", lambda state, request: None)
def join_microbatch(state: State, request: int) -> None:
    """The request computes some of its prompt in this step; if that is the last of it, it decodes
    with this micro-batch.
    """
    state.requests[request].microbatch = state.microbatches[0].record[0].turn


@kernel_where("microbatches", lambda state, request: None)
def note_on_its_way(state: State, request: int) -> None:
    """Note of a request that is thrown out until when something of it is on its way: until its
    micro-batch's next turn.
    """
    number = state.microbatches[0].record[0].number
    r = state.requests[request]
    r.back_turn = upcoming_step(state, request) * number + r.microbatch


@kernel_where("microbatches", lambda state: len(state.queue) - state.scalars[0].requeued)
def first_back(state: State) -> int:
    """Where in `state.queue` the first preempted request stands of which nothing is on its way;
    behind its end if there is none.
    """
    s, record = state.scalars[0], state.microbatches[0].record[0]
    now = s.step * record.number + record.turn
    at = len(state.queue) - s.requeued
    while at < len(state.queue) and state.requests[state.queue[at]].back_turn > now:
        at += 1
    return int(at)


def _next_step(state: State) -> int:
    state.scalars[0].step += 1
    return 0


@kernel_where("microbatches", _next_step)
def pass_turn(state: State) -> int:
    """The step is on its way: the next micro-batch has its turn. Returns how many of this one have
    their whole output when it is back.
    """
    s, waiting = state.scalars[0], state.microbatches[0]
    record = waiting.record[0]
    ended = 0
    k = state.finish[finish_slot(state, record.turn, s.step)]
    while k != NONE:
        ended += 1
        k = state.requests[k].finish_next
    waiting.decodes[record.turn] = s.decodes
    waiting.context[record.turn] = s.context
    record.turn += 1
    if record.turn == record.number:
        record.turn = 0
        s.step += 1
    s.decodes = waiting.decodes[record.turn]
    s.context = waiting.context[record.turn]
    return ended


def next_steps(state: State, requests: Ints) -> Ints:
    """`upcoming_step` of each of `requests`, in plain Python."""
    steps = np.full(len(requests), int(state.scalars[0].step), np.int64)
    if state.microbatches:
        steps += state.requests.microbatch[requests] < int(state.microbatches[0].record[0].turn)
    return steps


def decode_now(state: State, requests: Ints) -> Bools:
    """Which of `requests`, that decode, do so in this step."""
    if not state.microbatches:
        return np.ones(len(requests), np.bool_)
    turn = int(state.microbatches[0].record[0].turn)
    return np.asarray(state.requests.microbatch[requests] == turn)


def counted_context(state: State) -> int:
    """Σ context that decodes of all micro-batches read in their next steps, as it is counted."""
    s = state.scalars[0]
    if not state.microbatches:
        return int(s.context)
    waiting = state.microbatches[0]
    turn = int(waiting.record[0].turn)
    return int(s.context) + int(waiting.context.sum() - waiting.context[turn])
