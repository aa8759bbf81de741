"""What makes a scheduler of vLLM's follow a plan: before every step the serving core decides, and
vLLM's own `schedule` is left no other choice.

The requests the core throws out are preempted, those it admits are let in through the gate, and the
token budget is what the core's step computes. vLLM then allocates blocks, finds cached prefixes and
builds the step as ever. What it made of it is compared with what was decided. They can part: a
block stored twice, a prefix evicted in another order. From then on the budget is reckoned from what
vLLM lacks, until both agree again; and if a good part of the requests stays apart for long, vLLM
goes on alone. A class of vLLM's is to stand behind this one (scheduler.py).
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

_APART_SHARE = 0.25  # of running requests that only one side has running …
_APART_LEAST = 8  # … and so many at least …
_PATIENCE = 256  # … for so many steps on end: the core's memory is not vLLM's any more

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
    agrees: bool = True  # the same requests run, each as far, as the core believes
    apart: int = 0  # steps on end with many that only one side has running


class FollowsPlan:
    """A scheduler of vLLM's that follows a plan when told to, and else is as it was."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._following: _Following | None = None

    def follow(self, core: ServingCore) -> None:
        """From now on do as this fresh core decides, with requests whose `extra_args` have a `ROW`
        of its rows; others wait until it is done. It is to have as many KV blocks as vLLM has to
        give (`blocks_to_give`).
        """
        if self.scheduler_config.policy != "fcfs":
            raise InputError("vLLM runs by priority, and cannot follow a plan; leave its policy")
        assert not self.requests, "a plan is followed from its beginning"
        self._following = _Following(Lead(core), self.waiting)
        self.waiting = Gate()

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
        """KV blocks that requests can have: all but vLLM's null block."""
        return int(self.kv_cache_manager.block_pool.num_gpu_blocks) - 1

    def add_request(self, request: Any) -> None:
        """As vLLM's."""
        following = self._following
        if following is not None:
            row = ((request.sampling_params and request.sampling_params.extra_args) or {}).get(ROW)
            number = following.lead.number_of.get(row)
            if number is not None:
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
        longer = self._found_less(following, orders)
        entering = self._entering(following, orders)
        self.waiting.let_in(entering)
        usual = self.max_num_scheduled_tokens
        if following.agrees:
            budget = orders.tokens + sum(longer.values())
        else:
            budget = self._lacking(following, orders, entering)
        most = self.scheduler_config.max_num_batched_tokens
        self.max_num_scheduled_tokens = min(budget, most)
        try:
            output = super().schedule(*arguments, **named)
        finally:
            self.max_num_scheduled_tokens = usual
        # vLLM's worker learns from it who left its batch.
        own = set(output.preempted_req_ids or ()) - out
        output.preempted_req_ids = own | out
        self._compare(following, orders, output, longer, len(own))
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
        """Who is let in: whom the core admitted earlier and vLLM had no room for, then whom it
        admits now. Nobody in a step that throws out: its outputs may be on their way still.
        """
        if orders.out:
            return []
        numbers = [chunk.number for chunk in orders.entering]
        requests = following.requests
        missing = [number for number in numbers if number not in requests]
        if missing:
            following.early += missing
            following.agrees = False
        entering = [requests[number] for number in numbers if number in requests]
        if following.agrees:
            return entering
        now = set(numbers)
        late = [
            requests[number]
            for number in following.lead.running().tolist()
            if number not in now and number in requests and requests[number] in self.waiting
        ]
        return late + entering

    def _found_less(self, following: _Following, orders: Orders) -> dict[int, int]:
        """By how much more than decided those are to compute that come back, where vLLM finds less
        of what they left behind than the core believes: scheduling ahead, it leaves out a block
        whose last token it has not seen yet. (That it finds more is not said before decodes have
        taken their blocks.)
        """
        longer: dict[int, int] = {}
        for chunk in orders.entering:
            request = following.requests.get(chunk.number)
            if request is not None and request.num_preemptions > 0:
                found = self.kv_cache_manager.get_computed_blocks(request)[1]
                if found < chunk.computed:
                    longer[chunk.number] = chunk.computed - found
        return longer

    def _lacking(self, following: _Following, orders: Orders, entering: list[Any]) -> int:
        """Tokens vLLM has to compute to be where the core believes it to be."""
        tokens = {chunk.number: chunk.tokens for chunk in orders.entering}
        number_of = following.number_of
        lacking = 0
        for request in self.running:
            left = _left(request)
            number = number_of.get(request.request_id)
            target = None if number is None else following.lead.computed(number)
            if target is not None:
                left = min(left, target - request.num_computed_tokens)
            lacking += max(0, left)
        for request in entering:
            number = number_of.get(request.request_id, -1)
            lacking += tokens.get(number, request.num_tokens)
        return max(1, lacking)

    def _compare(
        self,
        following: _Following,
        orders: Orders,
        output: Any,
        longer: dict[int, int],
        own: int,
    ) -> None:
        """Whether the step is the one that was decided; `own` is how many vLLM threw out."""
        course, scheduled = following.course, output.num_scheduled_tokens
        if not scheduled and orders.tokens == 0:
            return
        course.steps += 1
        course.preempted += own
        requests = following.requests
        as_asked = (
            own == 0
            and len(scheduled) == orders.decodes - orders.over + len(orders.chunks)
            and output.total_num_scheduled_tokens == orders.tokens + sum(longer.values())
            and all(
                number in requests
                and scheduled.get(requests[number].request_id) == tokens + longer.get(number, 0)
                and requests[number].num_computed_tokens == computed + tokens
                for number, computed, tokens in orders.chunks
            )
        )
        if not as_asked or longer:
            course.differed += 1
            course.first = course.first or _difference(orders, output, own, course.steps)
        if not (as_asked and following.agrees):
            self._look_how_far_apart(following, as_asked)

    def _look_how_far_apart(self, following: _Following, same: bool) -> None:
        """Agree again if the same requests run, else count; give up when it goes on for long."""
        theirs = set(following.lead.running().tolist())
        ours = {following.number_of[request.request_id]: request for request in self.running}
        # Those whose last token is on its way the core has ended already.
        apart = len(theirs - ours.keys())
        apart += sum(_left(ours[number]) > 0 for number in ours.keys() - theirs)
        following.agrees = same and apart == 0
        if apart <= max(_APART_LEAST, _APART_SHARE * len(self.running)):
            following.apart = 0
            return
        following.apart += 1
        if following.apart < _PATIENCE:
            return
        following.course.given_up = following.course.steps
        self.waiting.stand_open()
        _log.warning("blendsim: %s", following.course.note())


def _left(request: Any) -> int:
    """Tokens of the request that vLLM could compute now: those of its prompt that are left, or one,
    or none if all its tokens are on their way.
    """
    on_their_way = request.num_output_placeholders
    known = request.num_computed_tokens + 2 - on_their_way
    if on_their_way > 0 and known >= request.num_prompt_tokens + request.max_tokens:
        return 0
    return int(request.num_tokens_with_spec + on_their_way - request.num_computed_tokens)


def _difference(orders: Orders, output: Any, own: int, step: int) -> str:
    """A difference in a few words."""
    if own:
        return f"step {step:,}, for which vLLM had not the memory and threw out {own}"
    decided = orders.decodes - orders.over + len(orders.chunks)
    return (
        f"step {step:,}: {len(output.num_scheduled_tokens):,} requests and "
        f"{output.total_num_scheduled_tokens:,} tokens, decided were {decided:,} and "
        f"{orders.tokens:,}"
    )
