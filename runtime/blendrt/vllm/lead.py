"""The serving core as vLLM's leader: of every step, who is thrown out, who enters, and how many
tokens are computed. Nothing is decided here; the core's decision is put in a scheduler's words.

The core learns when an answer is over from vLLM alone. Until then it reckons with one token more
than the answer may have: vLLM, when it schedules a step ahead of its outputs, keeps a finished
request's blocks for one step more, and in that step the core takes it to decode that token.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from blendrt.replay.job import Job
from blendsim.arrays import Ints
from blendsim.plan import IN_ORDER
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import FLAVOURS, LRU, PROMPT_FITS, VLLM_PLANNED
from blendsim.serving.state import DECODING, DONE, NONE, WAITING
from blendsim.steplog import COUNTS

_FINISHED = COUNTS.index("finished")


class Chunk(NamedTuple):
    """Tokens of one prompt that a step computes."""

    number: int  # of the request, in the core
    computed: int  # tokens before
    tokens: int


class Orders(NamedTuple):
    """What the core wants of a step; requests by their numbers in the core."""

    out: list[int]  # thrown out, in this order
    going_on: Chunk | None  # of the prompt in progress
    entering: list[Chunk]  # in this order
    decodes: int  # requests, one token each, the following included
    over: int  # of those, how many have all the tokens they may have: vLLM computes none for them
    is_cut: bool  # the last prompt is not computed to its end: the step has so many tokens

    @property
    def chunks(self) -> list[Chunk]:
        """All of them."""
        return [*([] if self.going_on is None else [self.going_on]), *self.entering]

    @property
    def requests(self) -> int:
        """That vLLM computes tokens for."""
        return self.decodes - self.over + len(self.chunks)

    @property
    def tokens(self) -> int:
        """That vLLM computes."""
        return self.decodes - self.over + sum(chunk.tokens for chunk in self.chunks)


class Lead:
    """A fresh core, asked step by step."""

    def __init__(self, core: ServingCore) -> None:
        assert core.rounds is None, "in rounds, answers cannot end early"
        assert not core.is_turned, "with vLLM's knobs turned, answers cannot end early"
        self.core = core
        core.end(np.zeros(0, np.int64))  # compiled now, and not in a step that somebody times
        #: Of every workload row, the number in the core.
        self.number_of = {int(row): number for number, row in enumerate(core.rows)}

    @property
    def is_done(self) -> bool:
        """Whether the core has nothing left to schedule."""
        # NOTE: as `ServingCore.is_done`, without a call of compiled code, which takes 25 µs.
        return int(self.core.state.scalars[0].done) == len(self.core.rows)

    def end(self, numbers: Iterable[int]) -> list[int]:
        """These answers are over, in this order. Returns those that the core cannot end yet, for
        in its books they have not begun.
        """
        requests: Any = self.core.state.requests
        over: list[int] = []
        early: list[int] = []
        for number in numbers:
            request = requests[number]
            begun = request.generated > 0 or request.status in (DECODING, DONE)
            (over if begun else early).append(number)
        if over:
            self.core.end(np.array(over, np.int64))
        return early

    def step(self) -> Orders:
        """Decide the next step, and take it as done."""
        core = self.core
        state, s = core.state, core.state.scalars[0]
        waited, in_progress = int(s.requeued), int(s.prefilling)
        core.step()
        top = len(state.queue) - int(s.requeued)
        # NOTE: nobody enters in a step that throws somebody out: a stack that grew only grew.
        out = state.queue[top : len(state.queue) - waited][::-1].tolist()
        chunks = [Chunk(*map(int, chunk)) for chunk in state.chunk[:, : int(s.chunks)].T]
        going_on = chunks.pop(0) if chunks and chunks[0].number == in_progress else None
        decodes = int(s.decodes)
        core.commit()
        over, is_cut = int(state.counts[_FINISHED]), int(s.prefilling) != NONE
        return Orders(out, going_on, chunks, decodes, over, is_cut)

    def waits(self, number: int) -> bool:
        """Whether it is still to enter, or to come back, after the step decided last."""
        return int(self.core.state.requests[number].status) == WAITING


def follows(job: Job) -> bool:
    """Whether vLLM is to follow the plan step by step. One that is served in order, whoever's
    prompt fits, need not be: fed so, vLLM does the same by itself.
    """
    is_plain = job.plan.admission == IN_ORDER and job.flavour.admission == PROMPT_FITS
    return job.flavour.can_pace and not is_plain


def admitting_as(job: Job, engine: str | None) -> Job:
    """The job with requests admitted by the rule of the engine that its plan is for, where vLLM is
    to follow it: while their predicted peak fits, say, and not as soon as their prompts do.
    """
    if engine not in FLAVOURS or not (follows(job) or engine == VLLM_PLANNED):
        return job
    return job._replace(flavour=replace(job.flavour, admission=FLAVOURS[engine].admission))


def leading_core(job: Job, rank: int, blocks: int, most: Ints | None = None) -> ServingCore:
    """The core of a rank for an engine that has so many KV blocks to give, whose requests answer
    `most` tokens at most, by workload row, the job's `output_len` unless given.

    It evicts by last use whatever the plan says, since that is what vLLM does.
    """
    system = job.system
    per_block = system.block_tokens * system.kv_bytes_per_token
    longest = job.output_len if most is None else most
    return job._replace(
        output_len=np.asarray(longest, np.int64) + 1,
        system=replace(system, kv_bytes=blocks * per_block),
        flavour=replace(job.flavour, eviction=LRU, always_lru=True),
    ).core(rank)
