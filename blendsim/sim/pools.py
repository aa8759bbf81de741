"""Prefill and decode pools: prompts are computed on one kind of replica, their KV moves over links,
answers are generated on the other kind.

A prefill replica runs its part of the plan with one output token a request, which is the first
token of the answer. The blocks of a finished prompt stay lent until its KV has been moved. Finished
prompts wait in one line. Decode replicas take the oldest between their steps, as far as their
admission finds room; between several that could, the one that holds least does. One SimPy process a
replica; compiled code runs the steps that start before anything else can happen.
"""

from collections import deque
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import simpy

from blendsim.errors import InputError, OversizeError
from blendsim.perf.density import closed_form
from blendsim.perf.model import StepModel
from blendsim.perf.shares import cut_line, equal
from blendsim.plan import DUAL_SCAN, Plan, deal
from blendsim.prefix import SortedPrompts, shared_tokens
from blendsim.request import Ints, Workload
from blendsim.serving.core import ServingCore, beside, new_state
from blendsim.serving.flavour import Flavour
from blendsim.serving.handover import can_receive, lend, receive, take_back, take_in
from blendsim.serving.state import NONE
from blendsim.sim.engine import Replica
from blendsim.sim.link import Port, kv_payload, move
from blendsim.sim.topology import Topology


#: Between two looks of a decode replica at the line while no room is made for the prompt that was
#: the oldest in it: a few steps.
LOOK_SECONDS = 0.25


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
        self._world = world
        self._message: simpy.Event | None = None

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
        self._system = model.system
        self._prompt_len = workload.prompt_len
        self._goes_on = output_len > 1  # else the prompt's own token is the whole answer
        self._world = simpy.Environment()
        self._waiting: deque[Finished] = deque()
        _require_room(workload, output_len, model, topology)
        first = _over_prefill(plan, workload, prompts, model, topology)
        first = replace(first, expected_output=np.ones_like(plan.expected_output))
        ones = np.ones_like(output_len)
        self.prefill = [
            self._member(
                ServingCore.from_plan(first, workload, ones, prompts, model.system, flavour, rank),
                model,
                flavour,
            )
            for rank in range(topology.prefill)
        ]
        self._holder = np.full(len(plan), NONE)
        self.decode = [
            self._member(core, model, flavour)
            for core in _decode_cores(
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
        left = [replica for replica in self.replicas if not replica.core.is_done]
        assert not left, "pools stand still though requests are left"
        assert not self._waiting, "a finished prompt was never handed out"

    def _serve_prompts(self, member: Member) -> Generator[simpy.Event, None, None]:
        replica = member.replica
        while not replica.core.is_done:
            yield self._world.timeout(0)  # NOTE: all that happens at this instant comes first
            self._hand_out()
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
        replica = member.replica
        state = replica.core.state
        moved = 0
        for request in state.ended[: int(state.scalars[0].completed)].tolist():
            row = int(replica.core.rows[request])
            if self._goes_on[row]:
                lend(state, request)
                self._waiting.append(Finished(row, member, request))
                moved += 1
        replica.uncount_finished(moved)

    def _hand_out(self) -> None:
        """Give waiting prompts, oldest first, to the decode replicas that are between steps and
        have room.
        """
        while self._waiting:
            row = self._waiting[0].row
            able = [m for m in self.decode if m.is_between_steps]
            able.sort(key=lambda member: member.held)
            taker = next((m for m in able if can_receive(m.replica.core.state, row)), None)
            if taker is None:
                return
            finished = self._waiting.popleft()
            self._holder[row] = taker.replica.core.number
            receive(taker.replica.core.state, row)
            payload = kv_payload(self._system, int(self._prompt_len[row]))
            now = self._world.now
            there = move(finished.member.port, taker.port, self._link, payload, now)
            taker.arrivals.append(there)
            self._world.timeout(there - now).callbacks.append(partial(_deliver, finished, taker))


def _one_step(replica: Replica) -> float:
    """The least time to run until, so that the step that starts now is run in any case."""
    return float(np.nextafter(replica.now, np.inf))


def _deliver(finished: Finished, taker: Member, _: simpy.Event) -> None:
    """The KV has arrived: the prefill replica has its blocks back, the answer can go on."""
    take_back(finished.member.replica.core.state, finished.request)
    take_in(taker.replica.core.state, finished.row)
    taker.arrivals.popleft()
    finished.member.wake()
    taker.wake()


def _require_room(
    workload: Workload, output_len: Ints, model: StepModel, topology: Topology
) -> None:
    """Refuse what would stand still: a request that one decode replica alone cannot hold, and pools
    of more replicas than there are requests.
    """
    system = model.system
    room = system.kv_blocks * system.block_tokens
    longest = int((workload.prompt_len + output_len).max(initial=0))
    if longest > room:
        raise OversizeError(
            f"a request of {longest} tokens does not fit the {room} KV tokens of a decode replica; "
            "use a larger --tp or --gpu, or drop it with --skip-oversize"
        )
    if max(topology.prefill, topology.decode) > len(workload):
        raise InputError(
            f"{topology.name} has a pool of more replicas than the {len(workload)} requests; "
            "give smaller pools"
        )


def _over_prefill(
    plan: Plan, workload: Workload, prompts: SortedPrompts, model: StepModel, topology: Topology
) -> Plan:
    """The plan over the prefill replicas: as it is if it has a rank for each, else one rank's cut
    into equal prompt work (and, where the dual scanner takes both ends, equal answers).
    """
    ranks = len(np.unique(plan.rank))
    if ranks == topology.prefill:
        return plan
    if ranks > 1:
        raise InputError(
            f"the plan is for {ranks} ranks, {topology.name} prefills on {topology.prefill}; "
            f"plan for {topology.prefill} or for 1"
        )
    is_dual = plan.admission == DUAL_SCAN
    costs = closed_form(model.system, workload.prompt_len[plan.order], plan.expected_output)
    shared = shared_tokens(workload, prompts, model.system.block_tokens)[plan.order]
    prompt = (workload.prompt_len[plan.order] - shared) * costs.seconds_per_shared_token
    memory = costs.memory * is_dual
    rank = cut_line(prompt, memory, int(plan.is_first.sum()), is_dual, equal(topology.prefill))
    return deal(plan, rank)


def _decode_cores(
    plan: Plan,
    workload: Workload,
    output_len: Ints,
    model: StepModel,
    flavour: Flavour,
    topology: Topology,
    holder: Ints,
) -> list[ServingCore]:
    """Cores over all requests, numbered by workload row. Nothing waits in their lines: they receive
    prompts that are computed.
    """
    n, system = len(plan), model.system
    expected = np.empty(n, np.int64)
    expected[plan.order] = plan.expected_output
    # NOTE: prefixes are not shared here, as SGLang's decode servers do by default.
    state = new_state(
        prompt=workload.prompt_len,
        output=output_len,
        expected=expected,
        density=np.zeros(n),
        root_density=0.0,
        paths=None,
        capacity=system.kv_blocks,
        block_tokens=system.block_tokens,
        flavour=flavour,
        is_dual=False,
        first_count=0,
    )
    state.requests.generated = 1  # the prompt's own
    nobody = np.zeros(0, np.int64)
    return [
        ServingCore(beside(state, nobody, 0), np.arange(n), holder, topology.prefill + replica)
        for replica in range(topology.decode)
    ]
