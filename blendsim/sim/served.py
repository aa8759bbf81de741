"""Who was served when: the steps of a simulated run once more, request by request.

A step log counts requests and names none. The core decides the same steps again here, without
prices, and who enters, has a first token and ends in each of them is noted; the log of the run says
when its steps were.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blendsim.arrays import Bools, Floats, Ints
from blendsim.compiled import kernel
from blendsim.errors import InputError
from blendsim.plan import DUAL_SCAN, Plan
from blendsim.prefix import SortedPrompts
from blendsim.request import Workload
from blendsim.serving.columns import step_tokens
from blendsim.serving.core import ServingCore
from blendsim.serving.flavour import Flavour
from blendsim.serving.microbatch import finish_slot, turn_now
from blendsim.serving.state import LEFT, NONE, State
from blendsim.serving.step import StepKind, commit, decodes_join, has_work, schedule
from blendsim.steplog import StepLog
from blendsim.system import HostMemory, System

#: Rows of the notes: the last two are steps, ENTERED is how many were over when it entered.
PLACE, SIDE, ENTERED, HIT, FIRST, ENDED = range(6)


class Served(NamedTuple):
    """Requests of a run, by workload row; times in seconds from the run's beginning."""

    rank: NDArray[np.int32]  # (n,)
    place: Ints  # (n,) requests of its rank that entered before it did first
    entered: Floats  # (n,) the first step that computes some of it is decided
    first_token: Floats  # (n,) the step that samples it ends
    ended: Floats  # (n,) the step that samples its last token ends
    hit_tokens: Ints  # (n,) of its prompt, found computed (or on the host) when it entered first
    was_preempted: Bools  # (n,) at least once
    is_left: Bools | None  # (n,) entered from the compute-heavy end; None: one end only


def request_times(
    plan: Plan,
    workload: Workload,
    output_len: Ints,
    prompts: SortedPrompts,
    system: System,
    flavour: Flavour,
    log: StepLog,
    host: HostMemory | None = None,
) -> Served:
    """When the requests of the run that `log` is of were served; the other arguments are those of
    `sim.run.simulate`, on replicas that never meet. InputError if `log` has other steps.
    """
    n = len(workload)
    served = Served(
        rank=np.zeros(n, np.int32),
        place=np.zeros(n, np.int64),
        entered=np.zeros(n),
        first_token=np.zeros(n),
        ended=np.zeros(n),
        hit_tokens=np.zeros(n, np.int64),
        was_preempted=np.zeros(n, np.bool_),
        is_left=np.zeros(n, np.bool_) if plan.admission == DUAL_SCAN else None,
    )
    start, end = log.time("start"), log.time("start") + log.time("seconds")
    for rank in np.unique(plan.rank).tolist():
        core = ServingCore.from_plan(
            plan, workload, output_len, prompts, system, flavour, rank, host
        )
        notes = np.full((6, len(core.rows)), NONE, np.int64)
        steps = int(_serve(core.kind, core.state, notes, np.zeros(system.pp, np.int64)))
        at = np.flatnonzero(log.replica == rank)
        ended = np.bincount(notes[ENDED], minlength=steps)
        if not np.array_equal(ended, log.count("finished")[at]):
            raise InputError(
                f"replica {rank} has other steps in the log than in this run of {steps:,}; give "
                "the log of this plan's run"
            )
        rows = core.rows
        served.rank[rows] = rank
        served.place[rows] = notes[PLACE]
        # NOTE: a row of a pipeline begins later than its step, which is on its way beside others.
        begins = start[at] if system.pp == 1 else np.concatenate(([0.0], end[at]))
        served.entered[rows] = begins[notes[ENTERED]]
        served.first_token[rows] = end[at][notes[FIRST]]
        served.ended[rows] = end[at][notes[ENDED]]
        served.hit_tokens[rows] = notes[HIT]
        served.was_preempted[rows] = core.state.requests.was_preempted > 0
        if served.is_left is not None:
            served.is_left[rows] = notes[SIDE] == LEFT
    return served


@kernel
def _note_step(
    kind: StepKind, state: State, step: int, over: int, entered: int, notes: Ints
) -> int:
    """Note who is served in a step that is scheduled and not yet committed, when so many steps were
    `over` and `entered` requests had entered; returns how many have now.
    """
    s = state.scalars[0]
    for j in range(s.chunks):
        k = state.chunk[0, j]
        if notes[ENTERED, k] == NONE:
            notes[PLACE, k] = entered
            notes[SIDE, k] = state.requests[k].side
            notes[ENTERED, k] = over
            notes[HIT, k] = state.chunk[1, j]
            entered += 1
    for j in range(s.completed):
        k = state.ended[j]
        if notes[FIRST, k] == NONE:
            notes[FIRST, k] = step
        if state.requests[k].generated + 1 == state.requests[k].output:
            notes[ENDED, k] = step
    k = state.finish[finish_slot(state, turn_now(state), s.step)] if decodes_join(kind) else NONE
    while k != NONE:
        notes[ENDED, k] = step
        k = state.requests[k].finish_next
    return entered


@kernel
def _serve(kind: StepKind, state: State, notes: Ints, over: Ints) -> int:
    """Run a fresh state to its end; returns the steps. `over` has a number for every micro-batch:
    steps that are over when its last one is.
    """
    # NOTE: a compiled loop, though `core.step()` does the same: one call a step took 27 s where the
    # loop takes 0.35 (183,000 steps of trace1).
    step = entered = 0
    while has_work(kind, state):
        turn = turn_now(state)
        schedule(kind, state)
        if step_tokens(state.counts) > 0:  # else a micro-batch of a pipeline, without requests
            entered = _note_step(kind, state, step, over[turn], entered, notes)
            step += 1
        commit(kind, state)
        over[turn] = step
    return step
