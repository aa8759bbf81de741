"""What vLLM's scheduler does, as rows of a step log.

Two methods of a scheduler are listened to, `schedule` and `update_from_output`, which have held
from vLLM 0.12 to 0.33; nothing about the schedule is changed. vLLM does not say which blocks it
would evict or what sharing a preempted request lost, so `cached_blocks` is 0 and `preempted_tokens`
counts all that a victim had computed.
"""

import time
from collections.abc import Callable
from typing import Any

from blendrt.clock import StepTime
from blendrt.recorder import Recorder
from blendsim.steplog import COUNTS

#: Columns vLLM has no figures for, or other ones.
NOT_TOLD = ("preempted_tokens", "cached_blocks", "left_tokens", "right_tokens")


class SchedulerWatch:
    """Listens to one scheduler; every step whose output was taken back becomes a row. `aside` of
    its KV blocks no request can have (feed.held_back).
    """

    def __init__(
        self,
        scheduler: Any,
        recorder: Recorder,
        replica: int,
        aside: int = 0,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._scheduler = scheduler
        self._aside = aside
        self._recorder = recorder
        self._replica = replica
        self._now = now
        self._zero: float | None = None
        self._free = 0.0  # when the engine took back its last step
        # KV tokens of running requests: of those that decode a token a step, and of the others.
        # They are counted between two steps, when vLLM's host work must not wait: 1,024 decodes
        # take 0.1 ms so, and 1.1 ms if each is looked at (one core of an AMD EPYC).
        self._decoding: dict[str, int] = {}
        self._computed: dict[str, int] = {}
        self._generated: dict[str, int] = {}  # output tokens of the latter, scheduled ones included
        self._seen: set[str] = set()
        # Steps under way by the id of what was scheduled, which is kept, so that no other gets its
        # id: with asynchronous scheduling there are two. Empty ones, which vLLM schedules when it
        # has to wait, are not listed, nor is one that was under way when the listening began.
        self._pending: dict[int, tuple[Any, float, dict[str, int]]] = {}
        self._schedule = scheduler.schedule
        self._update = scheduler.update_from_output
        scheduler.schedule = self._on_schedule
        scheduler.update_from_output = self._on_update

    def _on_schedule(self, *arguments: Any, **named: Any) -> Any:
        start = self._now()
        if self._zero is None:
            self._zero = self._free = start
        output = self._schedule(*arguments, **named)
        if output.num_scheduled_tokens:
            self._pending[id(output)] = output, start, self._count(output)
        return output

    def _on_update(self, output: Any, *arguments: Any, **named: Any) -> Any:
        before = len(self._scheduler.requests)
        outputs = self._update(output, *arguments, **named)
        step = self._pending.pop(id(output), None)
        end = self._now()
        if step is not None:
            _, start, counts = step
            counts["finished"] = before - len(self._scheduler.requests)
            # Scheduled while the step before still ran, it began when that one ended.
            start = max(start, self._free)
            assert self._zero is not None, "a step is scheduled before it ends"
            self._recorder.add(self._replica, counts, StepTime(start - self._zero, end - start))
            self._free = end
        return outputs

    def _count(self, output: Any) -> dict[str, int]:
        """The step's counts as `blendsim.steplog` means them."""
        counts = dict.fromkeys(COUNTS, 0)
        for name in output.preempted_req_ids or ():
            counts["preempted"] += 1
            held = self._decoding if name in self._decoding else self._computed
            counts["preempted_tokens"] += held.pop(name)
        decoding, decodes, contexts = self._decoding, 0, 0
        for name, tokens in output.num_scheduled_tokens.items():
            if name in decoding:
                assert tokens == 1, f"{name} decodes {tokens} tokens in a step"
                context = decoding[name] = decoding[name] + 1
                decodes += 1
                contexts += context
            else:
                self._count_request(name, tokens, counts)
        counts["decode_requests"] += decodes
        counts["sampled_tokens"] += decodes
        counts["context_tokens"] += contexts
        scheduler = self._scheduler
        pool = scheduler.kv_cache_manager.block_pool
        counts["running"] = len(scheduler.running)
        counts["waiting"] = len(scheduler.requests) - len(scheduler.running)
        # NOTE: vLLM keeps one block for itself, its null block.
        given = pool.num_gpu_blocks - 1 - self._aside
        counts["held_blocks"] = given - pool.get_num_free_blocks()
        return counts

    def _count_request(self, name: str, tokens: int, counts: dict[str, int]) -> None:
        request = self._scheduler.requests[name]
        prompt = request.num_prompt_tokens
        # NOTE: schedule() has counted this step's tokens as computed.
        before = request.num_computed_tokens - tokens
        if name not in self._computed:
            counts["admitted"] += 1
            self._generated[name] = request.num_tokens - prompt
            if name not in self._seen:
                self._seen.add(name)
                counts["hit_tokens"] += before
        if before + tokens < prompt + self._generated[name]:
            self._computed[name] = before + tokens
        else:  # its last token yields another, and from now on every step one
            self._decoding[name] = before + tokens
            self._computed.pop(name, None)
            counts["sampled_tokens"] += 1
            if self._generated[name] > 0:  # that last one is a decode, a recomputed one too
                counts["decode_requests"] += 1
                counts["context_tokens"] += before + tokens
                tokens -= 1
            del self._generated[name]
        if tokens > 0:
            counts["prefill_requests"] += 1
            counts["prefill_tokens"] += tokens
            counts["prefill_pairs"] += tokens * before + tokens * (tokens + 1) // 2
