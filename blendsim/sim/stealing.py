"""Work stealing between data-parallel ranks: who has nothing waiting takes part of the waiting
requests of the rank with most work left.

The ranks' states share one table of requests and one prefix tree, so that a request can change
hands while it waits. Every few simulated seconds all ranks stand still for a look at their lines; a
line is cut as the plan was (`cutting`), so that thief and victim part with equal work. What
work is left is judged by expected outputs, never by true ones.
"""

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import numpy as np
import simpy

from blendsim.arrays import Floats, Ints
from blendsim.cutting import cut_line
from blendsim.perf.density import closed_form
from blendsim.perf.model import StepModel
from blendsim.plan import DUAL_SCAN, Plan
from blendsim.prefix import SortedPrompts, shared_tokens
from blendsim.request import Workload
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import Flavour
from blendsim.serving.fresh import beside, with_line
from blendsim.serving.sides import running_requests
from blendsim.serving.state import DECODING
from blendsim.sim.engine import Replica


class Crew:
    """Ranks side by side that take waiting requests from each other."""

    def __init__(
        self,
        plan: Plan,
        workload: Workload,
        output_len: Ints,
        prompts: SortedPrompts,
        model: StepModel,
        flavour: Flavour,
        seconds: float,
    ) -> None:
        whole = replace(plan, rank=np.zeros_like(plan.rank))
        pool = ServingCore.from_plan(whole, workload, output_len, prompts, model.system, flavour)
        self._holder = plan.rank.astype(np.int64)
        self.replicas = []
        for rank in range(plan.replicas):
            line = np.flatnonzero(plan.rank == rank)
            state = beside(pool.state, line, int(plan.is_first[line].sum()))
            core = ServingCore(state, plan.order, self._holder, rank)
            self.replicas.append(Replica(core, model, flavour))
        costs = closed_form(model.system, workload.prompt_len[plan.order], plan.expected_output)
        shared = shared_tokens(workload, prompts, model.system.block_tokens)[plan.order]
        self._compute = costs.compute - shared * costs.seconds_per_token
        self._memory = costs.memory
        self._work = self._compute + self._memory
        self._system = model.system
        self._is_dual = plan.admission == DUAL_SCAN
        self._seconds = seconds
        self.stolen = 0  # requests that changed hands, each time counted

    def run(self) -> None:
        """Serve everything: one process a rank, and one that looks at the lines."""
        world = simpy.Environment()
        self._look = world.event()
        self._next = self._seconds  # when the next look is
        for replica in self.replicas:
            world.process(self._serve(replica))
        world.process(self._watch(world))
        world.run()

    def _serve(self, replica: Replica) -> Generator[simpy.Event, None, None]:
        """Run up to each look; to the end when nobody's requests wait any more."""
        while self._next < np.inf:
            replica.advance(self._next)
            yield self._look
        replica.advance()

    def _watch(self, world: simpy.Environment) -> Generator[simpy.Event, None, None]:
        while True:
            yield world.timeout(self._next - world.now)
            self.balance(world.now)
            waits = any(len(_waiting(replica)) for replica in self.replicas)
            self._next = self._next + self._seconds if waits else np.inf
            look, self._look = self._look, world.event()
            look.succeed()
            if not waits:
                return

    def balance(self, now: float) -> None:
        """Let each rank without waiting requests take some of the rank that has most work left, so
        that both have equally much, as far as what waits goes.
        """
        thieves = [r for r in self.replicas if not len(_waiting(r)) and not _requeued(r)]
        if len(thieves) in (0, len(self.replicas)):
            return
        running = self._running_seconds()
        for thief in thieves:
            waiting = np.array([self._work[_waiting(r)].sum() for r in self.replicas])
            left = np.where(waiting > 0, running + waiting, 0.0)
            victim = int(left.argmax())
            spare = left[victim] - running[thief.core.number]
            if waiting[victim] > 0 and spare > 0:
                share = min(1.0, spare / 2 / float(waiting[victim]))
                self._take(thief, self.replicas[victim], share, now)

    def _take(self, thief: Replica, victim: Replica, share: float, now: float) -> None:
        """Move this share of the victim's waiting work: the end of a line served in order, the
        middle of one that is scanned from both ends.
        """
        line = _waiting(victim)
        s = victim.core.state.scalars[0]
        first = max(0, int(s.first_count) - int(s.front))
        ends = np.array([1 - share])
        compute, memory = self._compute[line], self._memory[line]
        is_taken = cut_line(compute, memory, first, self._is_dual, ends) == 1
        _set_line(victim, line[~is_taken], int((~is_taken[:first]).sum()))
        _set_line(thief, line[is_taken], int(is_taken[:first].sum()))
        self._holder[line[is_taken]] = thief.core.number
        self.stolen += int(is_taken.sum())
        thief.now = max(thief.now, now)

    def _running_seconds(self) -> Floats:
        """Seconds of work that each rank's running requests still need, if they end as expected."""
        seconds = np.empty(len(self.replicas))
        for rank, replica in enumerate(self.replicas):
            state = replica.core.state
            mine: Any = state.requests[running_requests(state)]
            decodes = mine.status == DECODING
            decoded = np.where(decodes, int(state.scalars[0].step) - mine.start_step, 0)
            prompt = np.where(decodes, 0, mine.target - mine.computed)
            rest = np.maximum(1, mine.expected - mine.generated - decoded)
            context = mine.prompt + mine.generated + decoded
            costs = closed_form(self._system, context, rest)
            tokens = costs.compute - (context - prompt) * costs.seconds_per_token
            seconds[rank] = (tokens + costs.memory).sum()
        return seconds


def _waiting(replica: Replica) -> Ints:
    """The line of a rank: requests that were never admitted."""
    s = replica.core.state.scalars[0]
    line: Ints = replica.core.state.queue[int(s.front) : int(s.back) + 1]
    return line


def _requeued(replica: Replica) -> int:
    return int(replica.core.state.scalars[0].requeued)


def _set_line(replica: Replica, line: Ints, first_count: int) -> None:
    replica.core.state = with_line(replica.core.state, line, first_count)
