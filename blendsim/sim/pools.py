"""Prefill and decode pools: prompts are computed on one kind of replica, their KV moves over links,
answers are generated on the other kind.

A prefill replica runs its part of the plan with one output token a request, which is the first
token of the answer. The blocks of a finished prompt stay lent until its KV has been moved. Finished
prompts wait in one line. Decode replicas take the oldest between their steps, as far as their
admission finds room; between several that could, the one that holds least does. One SimPy process a
replica; compiled code runs the steps that start before anything else can happen.
"""

from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import simpy

from blendsim.arrays import Ints
from blendsim.perf.model import StepModel
from blendsim.plan import Plan
from blendsim.prefix import SortedPrompts
from blendsim.request import Workload
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import Flavour
from blendsim.serving.handover import lend_ended, receive_first, take_back_all, take_in_all
from blendsim.serving.state import NONE, State
from blendsim.sim.engine import Replica
from blendsim.sim.link import Port, kv_payload, move
from blendsim.sim.pool_cores import decode_cores, prefill_cores, require_servable
from blendsim.topology import Topology

#: Between two looks of a decode replica at the line while no room is made for the prompt that was
#: the oldest in it: a few steps.
LOOK_SECONDS = 0.25
BATCH = 64  # prompts looked at in one go


class Finished(NamedTuple):
    """A prompt whose KV waits on a prefill replica."""

    row: int  # of the workload
    member: "Member"  # who computed it
    request: int  # its number there


class Member:
    """A replica of a pool, its link, and the event that wakes it when it has nothing to do."""

    def __init__(self, replica: Replica, world: simpy.Environment) -> None:
        self.replica = replica
        self.port = Port()
        self.is_between_steps = True
        self.is_through = False  # with all its prompts
        self.arrivals: deque[float] = deque()  # when KV that is on its way will be here
        self.inbox: list[int] = []  # requests whose KV has gone or come since its last step
        self._world = world
        self._message: simpy.Event | None = None

    def settle(self, moved: Callable[[State, Ints], None]) -> None:
        """Book what has gone (`take_back_all`) or come (`take_in_all`)."""
        if self.inbox:
            moved(self.replica.core.state, np.array(self.inbox))
            self.inbox.clear()

    def sleep(self) -> Generator[simpy.Event, None, None]:
        """Wait for a message; time passes without steps."""
        self._message = self._world.event()
        yield self._message
        self._message = None
        self.replica.now = self._world.now

    def work(self) -> Generator[simpy.Event, None, None]:
        """Let the world catch up with the steps just run."""
        self.is_between_steps = False
        yield self._world.timeout(self.replica.now - self._world.now)
        self.is_between_steps = True

    @property
    def sleeps(self) -> bool:
        """Whether only a message makes it go on."""
        return self._message is not None

    def wake(self) -> None:
        """Something happened that this replica may be waiting for."""
        if self._message is not None and not self._message.triggered:
            self._message.succeed()

    @property
    def number(self) -> int:
        """Of the replica."""
        return self.replica.core.number

    @property
    def held(self) -> int:
        """KV blocks that running and arriving requests hold."""
        s = self.replica.core.state.scalars[0]
        return int(s.private + s.shared_held)


class Pools:
    """xPyD on one plan, which is for x ranks or for one that is dealt out over x."""

    def __init__(
        self,
        plan: Plan,
        workload: Workload,
        output_len: Ints,
        prompts: SortedPrompts,
        model: StepModel,
        flavour: Flavour,
        topology: Topology,
    ) -> None:
        assert topology.link is not None, "a topology with pools has a link"
        self._link = topology.link
        self._payload = kv_payload(model.system, workload.prompt_len)
        self._world = simpy.Environment()
        self._waiting: deque[Finished] = deque()
        require_servable(workload, output_len, model, topology)
        self.prefill = [
            self._member(core, model, flavour)
            for core in prefill_cores(plan, workload, prompts, model, flavour, topology)
        ]
        # Of each prefill replica: whose answers go on after the prompt's own token.
        self._goes_on = [output_len[m.replica.core.rows] > 1 for m in self.prefill]
        self._holder = np.full(len(plan), NONE)
        self.decode = [
            self._member(core, model, flavour)
            for core in decode_cores(
                plan, workload, output_len, model, flavour, topology, self._holder
            )
        ]

    def _member(self, core: ServingCore, model: StepModel, flavour: Flavour) -> Member:
        return Member(Replica(core, model, flavour), self._world)

    @property
    def replicas(self) -> list[Replica]:
        """All replicas, those that prefill first."""
        return [member.replica for member in (*self.prefill, *self.decode)]

    def run(self) -> None:
        """Serve everything."""
        for member in self.prefill:
            self._world.process(self._serve_prompts(member))
        for member in self.decode:
            self._world.process(self._serve_answers(member))
        self._world.run()
        for member in self.prefill:
            member.settle(take_back_all)
        left = [replica for replica in self.replicas if not replica.core.is_done]
        assert not left, "pools stand still though requests are left"
        assert not self._waiting, "a finished prompt was never handed out"

    def _serve_prompts(self, member: Member) -> Generator[simpy.Event, None, None]:
        replica = member.replica
        while not replica.core.is_done:
            yield self._world.timeout(0)  # NOTE: all that happens at this instant comes first
            self._hand_out()
            member.settle(take_back_all)
            # Until anything else happens, nobody can take its prompts or give back its blocks.
            if replica.advance_to_message(max(self._world.peek(), _one_step(replica))):
                yield from member.work()
                self._collect(member)
            else:
                yield from member.sleep()
        member.is_through = True
        yield self._world.timeout(0)
        self._hand_out()

    def _serve_answers(self, member: Member) -> Generator[simpy.Event, None, None]:
        replica = member.replica
        while True:
            yield self._world.timeout(0)
            self._hand_out()
            until = member.arrivals[0] if member.arrivals else np.inf
            if self._waiting:
                offered = self._waiting[0].row
                if len(self.decode) > 1:  # another may take it meanwhile, and the next may fit
                    until = min(until, replica.now + LOOK_SECONDS)
            else:
                offered, until = NONE, min(until, self._next_offer())
            member.settle(take_in_all)
            if replica.advance_to_message(max(until, _one_step(replica)), offered):
                yield from member.work()
            else:
                yield from member.sleep()

    def _next_offer(self) -> float:
        """A time before which no prompt ends: when the prefill replicas are through with the steps
        under way. One that stands still waits for KV to be gone.
        """
        left = [member for member in self.prefill if not member.is_through]
        times = [member.replica.now for member in left if not member.sleeps]
        if len(times) < len(left):
            times += [member.arrivals[0] for member in self.decode if member.arrivals]
        return min(times, default=np.inf)

    def _collect(self, member: Member) -> None:
        """Line up the prompts that ended in the step just done, but for one-token answers."""
        core = member.replica.core
        lent = lend_ended(core.state, self._goes_on[member.number])
        rows = core.rows[lent].tolist()
        for row, request in zip(rows, lent.tolist(), strict=True):
            self._waiting.append(Finished(row, member, request))
        member.replica.uncount_finished(len(lent))

    def _hand_out(self) -> None:
        """Give waiting prompts, oldest first, to the decode replicas that are between steps and
        have room.
        """
        able = [member for member in self.decode if member.is_between_steps]
        while self._waiting and able:
            several = len(able) > 1
            if several:
                able.sort(key=lambda member: member.held)
            oldest = islice(self._waiting, 1 if several else BATCH)
            rows = np.array([finished.row for finished in oldest])
            for taker in able:
                taken = receive_first(taker.replica.core.state, rows)
                if taken:
                    break
            for _ in range(taken):
                self._send(self._waiting.popleft(), taker)
            if taken < len(rows):
                return

    def _send(self, finished: Finished, taker: Member) -> None:
        """Let the prompt's KV set out to the decode replica that has taken blocks for it."""
        self._holder[finished.row] = taker.number
        now, port = self._world.now, finished.member.port
        there = move(port, taker.port, self._link, float(self._payload[finished.row]), now)
        taker.arrivals.append(there)
        self._world.timeout(there - now).callbacks.append(partial(_deliver, finished, taker))


def _one_step(replica: Replica) -> float:
    """The least time to run until, so that the step that starts now is run in any case."""
    return float(np.nextafter(replica.now, np.inf))


def _deliver(finished: Finished, taker: Member, _: simpy.Event) -> None:
    """The KV has arrived: the prefill replica has its blocks back, the answer can go on."""
    finished.member.inbox.append(finished.request)
    taker.inbox.append(finished.row)
    taker.arrivals.popleft()
    finished.member.wake()
    taker.wake()
