"""What makes a scheduler of vLLM's follow a plan: before every step the serving core decides, and
vLLM's own `schedule` is left no other choice.

The requests the core throws out are preempted, those it admits are let in through the gate, and
where its step ends in the middle of a prompt the token budget is what it computes. vLLM then
allocates blocks, finds cached prefixes and builds the step as ever; what it made of it is compared
with what was decided. They can part: a block stored twice, a prefix evicted in another order. A
request that found no room is let in again with the next step, one that lags ends later, and one
that is ahead ends earlier, which the core is told. If a good part of the requests finds no room for
long, vLLM goes on alone. A class of vLLM's is to stand behind this one (scheduler.py).
"""

import logging
import time
from dataclasses import dataclass, field
from typing import Any

from blendrt.vllm.gate import Gate
from blendrt.vllm.lead import Lead, Orders
from blendsim.errors import InputError
from blendsim.serving.core import ServingCore

#: Where a request's `SamplingParams.extra_args` say which row of the workload it is.
ROW = "blendsim_row"
#: What vLLM is given as `scheduler_cls`.
SCHEDULER = "blendrt.vllm.scheduler.PlannedScheduler"

_LATE_SHARE = 0.25  # of running requests, as many that the core runs and vLLM has no room for, …
_LATE_LEAST = 8  # … and so many at least, …
_PATIENCE = 64  # … for so many steps on end: the core's memory is not vLLM's any more

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Course:
    """How far vLLM followed."""

    steps: int = 0  # decided by the core, with something to compute
    differed: int = 0  # in which other requests or other tokens of them were scheduled
    preempted: int = 0  # requests that vLLM threw out by itself
    given_up: int | None = None  # the step after which vLLM went on alone
    first: str = ""  # what the first difference was

    def note(self) -> str | None:
        """In a sentence, if there is something to say."""
        if self.given_up is not None:
            return (
                f"vLLM followed the plan for {self.given_up:,} steps, of which {self.differed:,} "
                "differed, and then went on in its own order: its KV cache and the plan's had "
                "grown too far apart"
            )
        if self.differed:
            return (
                f"{self.differed:,} of {self.steps:,} steps differed from what the plan decided; "
                f"first {self.first}"
            )
        return None


@dataclass(slots=True)
class _Following:
    """A plan that is being followed."""

    lead: Lead
    own_queue: Any  # vLLM's
    course: Course = field(default_factory=Course)
    requests: dict[int, Any] = field(default_factory=dict)  # vLLM's, by their number in the core
    number_of: dict[str, int] = field(default_factory=dict)  # by vLLM's id
    over: list[int] = field(default_factory=list)  # ended in vLLM, not yet told
    early: list[int] = field(default_factory=list)  # and not begun in the core
    late: list[int] = field(default_factory=list)  # run or over in the core, vLLM has them wait
    crowded: int = 0  # steps on end with many of those


class FollowsPlan:
    """A scheduler of vLLM's that follows a plan when told to, and else is as it was."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._following: _Following | None = None

    def follow(self, core: ServingCore) -> None:
        """From now on do as this fresh core decides, with requests whose `extra_args` have a `ROW`
        of its rows; others wait until it is done. It is to have as many KV blocks as vLLM has to
        give (`blocks_to_give`). InputError where vLLM works in a way the core knows nothing of.
        """
        self._require_followable()
        self._following = _Following(Lead(core), self.waiting)
        self.waiting = Gate()

    def _require_followable(self) -> None:
        for is_so, what in (
            (self._following is not None, "it follows one already; end that first"),
            (bool(self.requests), "it has requests already; add them when it follows"),
            (self.scheduler_config.policy != "fcfs", "it runs by priority; leave its policy"),
            (getattr(self, "num_spec_tokens", 0) > 0, "it decodes speculatively; turn that off"),
            (getattr(self, "use_pp", False), "its layers are on several GPUs in turn; use one"),
        ):
            if is_so:
                raise InputError(f"vLLM cannot follow a plan: {what}")

    def unfollow(self) -> Course:
        """Be vLLM's own scheduler again; says how far the plan was followed."""
        assert self._following is not None, "a plan is followed"
        left, self.waiting = self.waiting, self._following.own_queue
        for request in left:
            self.waiting.add_request(request)
        course, self._following = self._following.course, None
        return course

    @property
    def blocks_to_give(self) -> int:
        """KV blocks that requests can have, while there are none: all that nobody holds, of which
        vLLM's null block is one that is held.
        """
        return int(self.kv_cache_manager.block_pool.get_num_free_blocks())

    def add_request(self, request: Any) -> None:
        """As vLLM's."""
        following = self._following
        if following is not None:
            row = ((request.sampling_params and request.sampling_params.extra_args) or {}).get(ROW)
            number = following.lead.number_of.get(row)
            # NOTE: of two with one row the second is none of the plan's.
            if number is not None and number not in following.requests:
                following.requests[number] = request
                following.number_of[request.request_id] = number
        super().add_request(request)

    def schedule(self, *arguments: Any, **named: Any) -> Any:
        """As vLLM's, of what the core decides."""
        following = self._following
        if following is None or following.course.given_up is not None:
            return super().schedule(*arguments, **named)
        self._tell(following)
        if following.lead.is_done:
            # What is left is none of the plan's, or lags behind it.
            self.waiting.stand_open()
            return super().schedule(*arguments, **named)
        orders = following.lead.step()
        out = self._throw_out(following, orders)
        self.waiting.let_in(self._entering(following, orders))
        usual = self.max_num_scheduled_tokens
        # NOTE: else nobody is let in who would take more, and whoever lags can catch up.
        if orders.is_cut and not following.late:
            self.max_num_scheduled_tokens = min(orders.tokens + _more(following, orders), usual)
        try:
            output = super().schedule(*arguments, **named)
        finally:
            self.max_num_scheduled_tokens = usual
        own = set(output.preempted_req_ids or ()) - out
        output.preempted_req_ids = own | out  # vLLM's worker learns from it who left its batch
        self._compare(following, orders, output, own)
        return output

    def _free_request(self, request: Any, *arguments: Any, **named: Any) -> Any:
        """As vLLM's: called once for every request that is over, in order."""
        if self._following is not None:
            number = self._following.number_of.get(request.request_id)
            if number is not None:
                self._following.over.append(number)
        return super()._free_request(request, *arguments, **named)

    def _tell(self, following: _Following) -> None:
        """Tell the core which answers are over."""
        over, following.over = following.over, []
        for number in over:
            request = following.requests.pop(number)
            del following.number_of[request.request_id]
        # An answer that was over before the core began it is over as soon as it begins; so is one
        # that vLLM was never given.
        following.early = following.lead.end([*over, *following.early])

    def _throw_out(self, following: _Following, orders: Orders) -> set[str]:
        """Preempt whom the core throws out, unless they are over or out already."""
        names: set[str] = set()
        if not orders.out:
            return names
        running = {request.request_id for request in self.running}
        for number in orders.out:
            request = following.requests.get(number)
            if request is not None and request.request_id in running:
                self.running.remove(request)
                self._preempt_request(request, time.monotonic())
                names.add(request.request_id)
        return names

    def _entering(self, following: _Following, orders: Orders) -> list[Any]:
        """Who is let in: whom vLLM had no room for before, then whom the core admits now. Nobody in
        a step that throws out: its outputs may be on their way still.
        """
        following.early += [
            chunk.number for chunk in orders.entering if chunk.number not in following.requests
        ]
        following.late = [k for k in following.late if self._is_late(following, k)]
        if orders.out:
            return []
        numbers = [*following.late, *(chunk.number for chunk in orders.entering)]
        return [following.requests[k] for k in numbers if k in following.requests]

    def _is_late(self, following: _Following, number: int) -> bool:
        request = following.requests.get(number)
        has_entered = request is not None and not following.lead.waits(number)
        return has_entered and request in self.waiting

    def _compare(self, following: _Following, orders: Orders, output: Any, own: set[str]) -> None:
        """Whether the step is the one that was decided; `own` are those vLLM threw out itself."""
        course, scheduled = following.course, output.num_scheduled_tokens
        if not scheduled and orders.tokens == 0:
            return
        course.steps += 1
        course.preempted += len(own)
        requests = following.requests
        as_decided = (
            not own
            and len(scheduled) == orders.requests
            and output.total_num_scheduled_tokens == orders.tokens
            and all(
                number in requests
                and scheduled.get(requests[number].request_id) == tokens
                and requests[number].num_computed_tokens == computed + tokens
                for number, computed, tokens in orders.chunks
            )
        )
        if as_decided and not following.late:
            following.crowded = 0
            return
        course.differed += 1
        course.first = course.first or _difference(orders, output, own, course.steps)
        stayed = [chunk.number for chunk in orders.entering] + [
            following.number_of[name] for name in own
        ]
        following.late += [k for k in stayed if k not in following.late]
        following.late = [k for k in following.late if self._is_late(following, k)]
        self._lose_patience(following)

    def _lose_patience(self, following: _Following) -> None:
        """Give up when many have been late for long."""
        crowd = max(_LATE_LEAST, _LATE_SHARE * len(self.running))
        following.crowded = following.crowded + 1 if len(following.late) > crowd else 0
        if following.crowded < _PATIENCE:
            return
        following.course.given_up = following.course.steps
        self.waiting.stand_open()
        _log.warning("blendsim: %s", following.course.note())


def _more(following: _Following, orders: Orders) -> int:
    """Tokens by which vLLM lags with the prompt in progress, or is ahead (below 0)."""
    chunk = orders.going_on
    if chunk is None or chunk.number not in following.requests:
        return 0
    request = following.requests[chunk.number]
    if not request.is_prefill_chunk:
        return 1 - chunk.tokens  # its prompt is done, it decodes
    return max(0, chunk.computed + chunk.tokens - int(request.num_computed_tokens)) - chunk.tokens


def _difference(orders: Orders, output: Any, own: set[str], step: int) -> str:
    """A difference in a few words."""
    if own:
        return f"step {step:,}, for which vLLM had not the memory and threw out {len(own)}"
    return (
        f"step {step:,}: {len(output.num_scheduled_tokens):,} requests and "
        f"{output.total_num_scheduled_tokens:,} tokens, decided were {orders.requests:,} and "
        f"{orders.tokens:,}"
    )
