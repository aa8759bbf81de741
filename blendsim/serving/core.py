"""ServingCore: the scheduler as an object, one step at a time, for whoever drives it.

Pure bookkeeping: no clock, no GPU, no I/O. The runtime asks it for a step, executes it and commits;
the simulator runs the same compiled functions many steps in one call.
"""

from typing import Any, NamedTuple

import numpy as np

from blendsim.arrays import Ints
from blendsim.batch import Batch
from blendsim.plan import DUAL_SCAN, Plan
from blendsim.prefix import SortedPrompts
from blendsim.request import Workload
from blendsim.serving import ending, step
from blendsim.serving.cascade import check_cascade
from blendsim.serving.flavour import Flavour
from blendsim.serving.fresh import PlannedLine, block_paths, new_state
from blendsim.serving.fresh_pace import Paced
from blendsim.serving.host import check_host
from blendsim.serving.microbatch import counted_context, decode_now, next_steps
from blendsim.serving.round_state import Rounds, check_rounds, new_rounds
from blendsim.serving.state import (
    ARRIVING,
    BUCKETS,
    DECODING,
    DONE,
    LEFT,
    LENT,
    NONE,
    PREFILLING,
    WAITING,
    State,
)
from blendsim.steplog import COUNTS
from blendsim.system import HostMemory, System


class Scheduled(NamedTuple):
    """What one step computes: request (workload row), tokens computed before, tokens now."""

    rows: Ints
    computed: Ints
    tokens: Ints


class ServingCore:
    """One replica's scheduler over the requests of a plan's rank, or over those of `rows` that
    `holder` gives to it, where several replicas share the records.
    """

    def __init__(
        self,
        state: State,
        rows: Ints,
        holder: Ints | None = None,
        number: int = 0,
        rounds: Rounds | None = None,
    ) -> None:
        self.state = state
        self.rows = rows
        self.rounds = rounds  # of a flavour that works in rounds
        s = state.scalars[0]
        is_turned = s.watermark > 0 or s.long_prefill > 0 or s.prefill_interval > 1
        self.kind = step.StepKind(
            rounds=() if rounds is None else (rounds,), turned=(True,) if is_turned else ()
        )
        self.number = number  # of this replica, in `holder`
        self.holder = np.full(len(rows), number) if holder is None else holder
        self._capacity = int(state.scalars[0].capacity)

    @classmethod
    def from_plan(
        cls,
        plan: Plan,
        workload: Workload,
        output_len: Ints,
        prompts: SortedPrompts,
        system: System,
        flavour: Flavour,
        rank: int = 0,
        host: HostMemory | None = None,
    ) -> "ServingCore":
        """The core of `rank`, whose requests generate `output_len` (by workload row) tokens.

        Planning passes what it expects, simulation the true lengths. Requests must not be oversize.
        """
        system = flavour.divide(system)
        mine = np.flatnonzero(plan.rank == rank)
        rows = plan.order[mine]
        paths = block_paths(prompts, rows, system.block_tokens) if flavour.prefix_sharing else None
        paced = None
        if flavour.can_pace and plan.pacing is not None and system.pp == 1:
            source = workload.source[rows].astype(np.int64)
            paced = Paced(plan.pacing, plan.is_visible[mine], source)
        line = PlannedLine(
            prompt=workload.prompt_len[rows],
            output=output_len[rows],
            expected=plan.expected_output[mine],
            density=plan.density[mine],
            root_density=plan.root_density,
            is_dual=plan.admission == DUAL_SCAN,
            first_count=int(plan.is_first[mine].sum()),
            paths=paths,
            paced=paced,
        )
        state = new_state(line, system, flavour, 0 if host is None else host.blocks(system))
        turns = None
        if flavour.prefill_first:
            turns = new_rounds(state, workload.output_limit[rows], flavour)
        return cls(state, rows, number=rank, rounds=turns)

    @property
    def is_turned(self) -> bool:
        """Whether a rule of vLLM's knobs binds, beyond fewer running requests."""
        return bool(self.kind.turned)

    @property
    def is_done(self) -> bool:
        """Whether no request is left here: all have their whole output."""
        return not step.has_work(self.kind, self.state) and int(self.state.scalars[0].arriving) == 0

    def step(self) -> Batch:
        """Decide the next step. Execute it, then `commit()`; not to be called when done. In a
        pipeline it may have nothing to compute: then only commit.
        """
        assert not self.is_done, "all requests are done"
        step.schedule(self.kind, self.state)
        batch = Batch(*(int(count) for count in self.state.counts[: len(Batch._fields)]))
        is_some = batch.tokens > 0 or self.state.microbatches  # one of those may have no requests
        assert is_some, "a step computes something while requests are left"
        return batch

    def commit(self) -> None:
        """Record that the step was executed."""
        step.commit(self.kind, self.state)

    def end(self, requests: Ints) -> int:
        """What these requests (numbers in the core) have generated, a token at least, is their
        whole output: they leave now, in this order. Those that are done already are passed over.

        Between steps only. Returns how many ended; the `finished` of the step committed last grows
        by them. Not for engines in rounds or with vLLM's knobs turned.
        """
        assert self.rounds is None, "in rounds, answers end as given"
        assert not self.state.microbatches, "in a pipeline, answers end as given"
        assert not self.is_turned, "with vLLM's knobs turned, answers end as given"
        assert bool((self.holder[requests] == self.number).all()), "who ends is served here"
        ending.check_ends(self.state, requests)
        return int(ending.end(self.state, np.ascontiguousarray(requests, np.int64)))

    def counts(self) -> dict[str, int]:
        """The step's counts by their StepLog names; `finished` is complete after `commit()`."""
        return dict(zip(COUNTS, self.state.counts.tolist(), strict=True))

    def scheduled(self) -> Scheduled:
        """Who computes what, between `step()` and `commit()`: chunks, then decodes."""
        s = self.state.scalars[0]
        chunk = self.state.chunk[:, : int(s.chunks)]
        mine = self.holder == self.number
        decoding = np.flatnonzero(mine & (self.state.requests.status == DECODING))
        decoding = decoding[decode_now(self.state, decoding)]
        if not step.decodes_join(self.kind):
            decoding = decoding[:0]
        requests: Any = self.state.requests[decoding]
        context = requests.start_context + int(s.step) - requests.start_step
        return Scheduled(
            rows=self.rows[np.concatenate([chunk[0], decoding])],
            computed=np.concatenate([chunk[1], context - 1]),
            tokens=np.concatenate([chunk[2], np.ones(len(decoding), np.int64)]),
        )

    def check(self) -> None:
        """Assert conservation of blocks, tokens and requests, counted anew, between steps."""
        state = self.state
        s, requests = state.scalars[0], state.requests
        total = int(s.free + s.idle + s.shared_held + s.private)
        assert total == int(s.capacity), (
            f"free {s.free} + idle {s.idle} + shared {s.shared_held} + private {s.private} blocks "
            f"= {total}, not the capacity {s.capacity}"
        )
        status = np.where(self.holder == self.number, requests.status, NONE)
        running = np.flatnonzero(np.isin(status, (PREFILLING, DECODING)))
        arriving, lent = np.flatnonzero(status == ARRIVING), np.flatnonzero(status == LENT)
        self._check_counts(status, running)
        self._check_blocks(running, arriving, lent)
        _check_prefixes(state, np.concatenate([running, lent]))
        if state.host:
            check_host(state)
        if state.cascade:
            check_cascade(state, np.flatnonzero(self.holder == self.number))
        on_left = requests.side[running] == LEFT
        for members, counted in ((on_left, s.left_reserved), (~on_left, s.right_reserved)):
            reserved = int(requests.reserved[running[members]].sum())
            assert reserved == int(counted), f"{reserved} tokens are reserved, counted {counted}"
        _check_ends(state, np.append(running[requests.is_member[running] == 0], arriving))
        if self.rounds is not None:
            check_rounds(state, self.rounds)

    def _check_counts(self, status: Ints, running: Ints) -> None:
        """Assert that requests are counted by `status`, that of those that are served here."""
        state = self.state
        s = state.scalars[0]
        assert len(running) == int(s.running), f"{len(running)} requests run, counted {s.running}"
        assert int(np.isin(status, (DONE, LENT)).sum()) == int(s.done), "done requests are counted"
        if self.rounds is None:  # else check_rounds counts the line
            in_line = int(s.requeued) + int(s.back) - int(s.front) + 1
            if state.pace:
                in_line -= int(state.pace[0].record[0].holes)
            assert int((status == WAITING).sum()) == in_line, "who waits stands in line"

    def _check_blocks(self, running: Ints, arriving: Ints, lent: Ints) -> None:
        """Assert that the blocks that requests have for themselves, and lend, are counted."""
        s, requests = self.state.scalars[0], self.state.requests
        block, window = int(s.block_tokens), int(s.window_blocks)
        decoding = requests.status[running] == DECODING
        upcoming = next_steps(self.state, running)
        context = requests.start_context[running] + upcoming - requests.start_step[running]
        counted = counted_context(self.state)
        assert int(context[decoding].sum()) == counted, "Σ context of decodes is kept"
        computed = np.where(decoding, context - 1, requests.computed[running])
        on_path = np.minimum(computed // block, requests.path_blocks[running])
        private = int((-(-computed // block) - on_path).sum())
        assert len(arriving) == int(s.arriving), "requests whose KV is to come are counted"
        private += int((-(-requests.target[arriving] // block)).sum())
        private += window * (len(running) + len(arriving))
        assert private == int(s.private), f"{private} private blocks are held, counted {s.private}"
        away = int((-(-requests.target[lent] // block) - requests.path_blocks[lent]).sum())
        away += window * len(lent)
        assert away == int(s.lent), f"{away} blocks are lent, counted {s.lent}"
        assert int(s.capacity + s.lent) == self._capacity, "what is lent is off the capacity"


def _check_prefixes(state: State, holders: Ints) -> None:
    """Assert that prefixes are cached without gaps, and counted by whether one of the `holders`
    reads them; with eviction by plan, that who waits for each is counted.
    """
    s, requests = state.scalars[0], state.requests
    nodes: Any = state.nodes[: int(s.host_nodes)]
    readers = _readers(state, holders)
    assert np.array_equal(readers[1:], nodes.readers[1:]), "readers of every prefix are counted"
    held = readers > 0
    assert int(nodes.cached[held].sum()) == int(s.shared_held), "held shared blocks are counted"
    assert int(nodes.cached[~held].sum()) == int(s.idle), "idle blocks are counted"
    assert int(nodes.length[held].sum()) == int(s.shared_length), "held paths are counted"
    inner = np.flatnonzero((nodes.cached > 0) & (nodes.parent > 0))
    above = nodes.parent[inner]
    assert bool((nodes.cached[above] == nodes.length[above]).all()), "no gap in a cached prefix"
    assert int(s.free) >= 0, "no block is given out twice"
    if int(s.knows_plan):
        waiting = np.flatnonzero(requests.status == WAITING)
        expected = _readers(state, waiting)
        if int(s.own_nodes):
            expected[int(s.own_nodes) + waiting] = requests.was_preempted[waiting]
        assert np.array_equal(expected[1:], nodes.waiting[1:]), "waiting readers are counted"


def _check_ends(state: State, requests: Ints) -> None:
    """Assert that the predicted peak's sums are those of the expected ends of `requests`: of all,
    or, paced, of each end by itself.
    """
    s, r = state.scalars[0], state.requests[requests]
    is_left = (r.side == LEFT) & bool(state.pace)
    right = ("count", "base_sum", "final_sum"), ("expected_count", "expected_base")
    left = ("left_count", "left_base", "left_final"), ("left_expected", "left_expected_base")
    for mine, (columns, totals) in ((~is_left, right), (is_left, left)):
        at = r.end_bucket[mine] % BUCKETS
        values = (np.ones(len(at), np.int64), r.end_base[mine], r.end_final[mine])
        for column, value in zip(columns, values, strict=True):
            found = np.zeros(BUCKETS, np.int64)
            np.add.at(found, at, value)
            assert np.array_equal(found, state.buckets[column]), (
                f"every end is expected once: {column} is counted by bucket"
            )
        for total, value in zip(totals, values[:2], strict=True):
            assert int(value.sum()) == int(s[total]), f"{total} is counted"


def _readers(state: State, requests: Ints) -> Ints:
    """How many of `requests` pass through each prefix node, in another way than `readers_of`."""
    readers = np.zeros(int(state.scalars[0].host_nodes), np.int64)
    at = state.requests.node[requests]
    while (at > 0).any():
        at = at[at > 0]
        np.add.at(readers, at, 1)
        at = state.nodes.parent[at]
    return readers
