"""The generation loop: asks the serving core for a step, executes it, chooses its tokens, and tells
the core which answers were over.

A step's tokens are read when the one after it has been issued, so that the device never waits for
the host. An answer's end is known one step late, then: what it computed in between is dropped.
"""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from blendrt.batch import BatchBuilder, StepInputs
from blendrt.clock import Clock
from blendrt.engine import UNFINISHED
from blendrt.executor.sequential import SequentialExecutor
from blendrt.generate.growing import LOST, Ending, GrowingTokens
from blendrt.generate.sampler import Sampler
from blendrt.generate.wanted import Answer
from blendrt.pages import Pager
from blendrt.recorder import Recorder
from blendsim.arrays import Ints
from blendsim.serving.core import ServingCore
from blendsim.serving.state import DONE


class _Issued(NamedTuple):
    """A step on its way."""

    counts: dict[str, int]
    requests: Ints  # (samples,) whose tokens they are
    tokens: Tensor  # (samples,) on the host, or on their way there


class Machine(NamedTuple):
    """What a core's requests are answered with."""

    builder: BatchBuilder[GrowingTokens]
    executor: SequentialExecutor
    sampler: Sampler
    ending: Ending
    clock: Clock


class GenerationLoop:
    """One core's requests, each answered until its answer is over."""

    def __init__(self, core: ServingCore, machine: Machine) -> None:
        self.core = core
        self._machine = machine
        self._pager = Pager(core)
        self._chosen = np.zeros(len(core.rows), np.int64)  # tokens chosen so far, by request
        self._come = np.zeros_like(self._chosen)  # of those, how many have come to the host
        self._over = np.zeros(len(core.rows), np.bool_)

    def run(self, recorder: Recorder, answered: Callable[[Answer], None]) -> None:
        """Run until all requests are answered; each answer is told when it is over.

        If a step fails, or `answered` does, what was told stays true: no token is looked at after
        one that was not.
        """
        issued: deque[_Issued] = deque()
        self.core.end(np.zeros(0, np.int64))  # compiled now, and not in a step that somebody times

        def take(pending: int) -> None:
            for time in self._machine.clock.ended(pending):
                step = issued.popleft()
                last = issued[-1] if issued else step
                last.counts["finished"] += self._take(step, answered)
                recorder.add(0, step.counts, time)

        while not self.core.is_done:
            issued.append(self._issue())
            take(UNFINISHED)
        take(0)
        self.core.check()

    def _issue(self) -> _Issued:
        """Decide the next step and put it on the device."""
        core, machine = self.core, self._machine
        counts = core.step()
        inputs = machine.builder.build(self._pager.follow(), counts)
        machine.clock.begin()
        tokens, told = self._choose(inputs)
        machine.builder.outputs.store(inputs.sample_places, tokens)
        arriving = _to_host(told)
        machine.clock.end()
        core.commit()
        return _Issued(core.counts(), inputs.sample_requests, arriving)

    def _choose(self, inputs: StepInputs) -> tuple[Tensor, Tensor]:
        """The step's tokens, which the next one takes, and what the host is told of them: `LOST`
        for those that nothing said.
        """
        requests = inputs.sample_requests
        places = self._chosen[requests]
        self._chosen[requests] += 1
        logits = self._machine.executor.logits(inputs)
        tokens, is_lost = self._machine.sampler.pick(logits, self.core.rows[requests], places)
        return tokens, tokens.masked_fill(is_lost, LOST)

    def _take(self, step: _Issued, answered: Callable[[Answer], None]) -> int:
        """The step's tokens have come: tell what answers they end. Returns how many of those the
        core had not ended.
        """
        outputs, ending = self._machine.builder.outputs, self._machine.ending
        grow = ~self._over[step.requests]
        requests, tokens = step.requests[grow], step.tokens.numpy()[grow]
        outputs.note(requests.tolist(), tokens.tolist())
        self._come[requests] += 1
        rows = self.core.rows[requests]
        may_end = ending.may_end(rows, tokens, self._come[requests])
        over: list[int] = []
        for request, row in zip(requests[may_end].tolist(), rows[may_end].tolist(), strict=True):
            answer = ending.answer(row, outputs.known(request))
            if answer is None:
                continue
            self._over[request] = True
            outputs.drop(request)
            if self.core.state.requests.status[request] != DONE:
                over.append(request)
            answered(answer)
        return self.core.end(np.array(over, np.int64)) if over else 0


def _to_host(tokens: Tensor) -> Tensor:
    """The tokens in host memory as soon as the device gets there; nobody waits."""
    if tokens.device.type != "cuda":
        return tokens
    arriving = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
    arriving.copy_(tokens, non_blocking=True)
    return arriving
