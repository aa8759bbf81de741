"""A scheduler as vLLM's, in little: first come, first served, with chunked prompts, a prefix cache
evicted by last use, and preemption of the newest. Written from what vLLM 0.33's does, with its
names for what is used of it; its steps are held to the simulator's, which are held to vLLM's.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

BLOCK = 16  # tokens


class Request:
    """A request, its tokens, and the blocks it holds."""

    def __init__(
        self, name: str, prompt: list[int], most: int, ends: Iterable[int] = (), extra: Any = None
    ) -> None:
        self.request_id = name
        self.tokens = list(prompt)
        self.num_prompt_tokens = len(prompt)
        self.num_computed_tokens = 0
        self.num_output_placeholders = 0  # tokens on their way
        self.num_preemptions = 0
        self.is_prefill_chunk = False  # whether its last step yields no token
        self.max_tokens = most
        self.ends = frozenset(ends)
        self.blocks: list[int] = []
        self.sampling_params = SimpleNamespace(extra_args=extra)

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def output(self) -> list[int]:
        return self.tokens[self.num_prompt_tokens :]

    @property
    def is_over(self) -> bool:
        return len(self.output) == self.max_tokens or self.tokens[-1] in self.ends

    def key(self, block: int) -> int:
        """What the block is found by: all tokens up to its end."""
        return hash(tuple(self.tokens[: BLOCK * (block + 1)]))


class Queue(deque[Any]):
    """Who waits."""

    add_request = deque.append
    pop_request = deque.popleft
    prepend_request = deque.appendleft

    def peek_request(self) -> Request:
        return self[0]  # type: ignore[no-any-return]

    def remove_requests(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self.remove(request)


class Blocks:
    """The KV cache."""

    def __init__(self, number: int, is_sharing: bool) -> None:
        self.num_gpu_blocks = number + 1  # as vLLM counts, with its null block
        self.is_sharing = is_sharing
        self.free = OrderedDict.fromkeys(range(number))  # the first is taken first
        self.readers = [0] * number
        self.key_of: dict[int, int] = {}
        self.found: dict[int, dict[int, None]] = {}  # blocks with a key: a twin is stored twice

    def get_num_free_blocks(self) -> int:
        return len(self.free)

    def get_new_blocks(self, number: int) -> list[int]:
        return [self._take() for _ in range(number)]

    def free_blocks(self, blocks: list[int]) -> None:
        self.free.update(dict.fromkeys(blocks))

    def _take(self) -> int:
        block, _ = self.free.popitem(last=False)
        if (key := self.key_of.pop(block, None)) is not None:
            del self.found[key][block]
        return block

    def cached(self, request: Request) -> list[int]:
        """Blocks of its longest prefix there is; the last token is always computed."""
        blocks: list[int] = []
        for k in range((request.num_tokens - 1) // BLOCK if self.is_sharing else 0):
            if not (found := self.found.get(request.key(k))):
                break
            blocks.append(next(iter(found)))
        return blocks

    def allocate(self, request: Request, tokens: int, hit: list[int], whole: int = 0) -> bool:
        """Blocks for `tokens` more, behind those found, if there is room for them, or for a whole
        prompt.
        """
        held = len(request.blocks) + len(hit)
        done = request.num_computed_tokens + BLOCK * len(hit)
        idle = sum(block in self.free for block in hit)
        if -(-max(done + tokens, whole) // BLOCK) - held + idle > len(self.free):
            return False
        for block in hit:
            self.free.pop(block, None)
            self.readers[block] += 1
        request.blocks += hit
        for _ in range(-(-(done + tokens) // BLOCK) - held):
            block = self._take()
            self.readers[block] = 1
            request.blocks.append(block)
        for k in range(min(done + tokens, request.num_tokens) // BLOCK if self.is_sharing else 0):
            if request.blocks[k] not in self.key_of:
                self.key_of[request.blocks[k]] = request.key(k)
                self.found.setdefault(request.key(k), {})[request.blocks[k]] = None
        return True

    def release(self, request: Request) -> None:
        """Its last block is evicted first, those that nobody can find before all others."""
        lost: list[int] = []
        for block in reversed(request.blocks):
            self.readers[block] -= 1
            if self.readers[block] == 0:
                self.free[block] = None
                if block not in self.key_of:
                    lost.append(block)
        for block in reversed(lost):
            self.free.move_to_end(block, last=False)
        request.blocks = []


class SmallScheduler:
    """The parts of vLLM's scheduler that are used."""

    def __init__(
        self,
        blocks: int,
        budget: int,
        running: int,
        is_sharing: bool = True,
        is_ahead: bool = False,
    ) -> None:
        self.requests: dict[str, Request] = {}
        self.running: list[Request] = []
        self.waiting: Any = Queue()
        self.max_num_scheduled_tokens = budget
        self.max_num_running_reqs = running
        self.scheduler_config = SimpleNamespace(policy="fcfs")
        self.cache_config = SimpleNamespace(enable_prefix_caching=is_sharing)
        self.block_size, self.max_model_len = BLOCK, 1 << 17
        self.kv_cache_manager = SimpleNamespace(block_pool=Blocks(blocks, is_sharing))
        self.is_ahead = is_ahead  # steps are scheduled before the last one's tokens are back
        self._pool = self.kv_cache_manager.block_pool

    def add_request(self, request: Request) -> None:
        self.requests[request.request_id] = request
        self.waiting.add_request(request)

    def has_unfinished_requests(self) -> bool:
        return bool(self.running) or len(self.waiting) > 0

    def schedule(self) -> Any:
        tokens: dict[str, int] = {}
        out: set[str] = set()
        budget = self._run(tokens, self.max_num_scheduled_tokens, out)
        while not out and self.waiting and budget > 0:
            if len(self.running) == self.max_num_running_reqs:
                break
            request = self.waiting.peek_request()
            hit = self._pool.cached(request)
            left = request.num_tokens - BLOCK * len(hit)
            if not self._pool.allocate(request, min(left, budget), hit, request.num_tokens):
                break
            assert self.waiting.pop_request() is request, "who was looked at enters"
            request.num_computed_tokens = BLOCK * len(hit)
            self.running.append(request)
            tokens[request.request_id] = min(left, budget)
            budget -= min(left, budget)
        for name, number in tokens.items():
            request = self.requests[name]
            request.num_computed_tokens += number
            known = request.num_tokens + request.num_output_placeholders
            request.is_prefill_chunk = request.num_computed_tokens < known
            request.num_output_placeholders += self.is_ahead and not request.is_prefill_chunk
        total = sum(tokens.values())
        return SimpleNamespace(
            num_scheduled_tokens=tokens, total_num_scheduled_tokens=total, preempted_req_ids=out
        )

    def _run(self, tokens: dict[str, int], budget: int, out: set[str]) -> int:
        """Running requests, in order; returns the budget left."""
        place = 0
        while place < len(self.running) and budget > 0:
            request = self.running[place]
            on_their_way = request.num_output_placeholders
            place += 1
            if on_their_way and len(request.output) + on_their_way == request.max_tokens:
                continue
            left = request.num_tokens + on_their_way - request.num_computed_tokens
            number = min(left, budget)
            while not self._pool.allocate(request, number, []):
                last = self.running.pop()
                self._preempt_request(last, 0.0)
                out.add(last.request_id)
                if last is request:
                    return budget
            tokens[request.request_id] = number
            budget -= number
        return budget

    def _preempt_request(self, request: Request, timestamp: float) -> None:
        self._pool.release(request)
        request.num_computed_tokens = 0
        request.num_output_placeholders = 0
        request.num_preemptions += 1
        self.waiting.prepend_request(request)

    def update_from_output(self, output: Any, sampled: dict[str, int]) -> list[Request]:
        """`sampled`: the next token of each request that has one. Returns those that are over."""
        over = []
        for name, token in sampled.items():
            request = self.requests.get(name)
            if request is None:
                continue
            request.tokens.append(token)
            request.num_output_placeholders -= request.num_output_placeholders > 0
            if request.is_over:
                over.append(request)
                self._finish(request)
        return over

    def finish_requests(self, name: str) -> None:
        """From outside, as a stop text does."""
        if (request := self.requests.get(name)) is not None:
            self._finish(request)

    def _finish(self, request: Request) -> None:
        if request in self.running:
            self.running.remove(request)
        else:
            self.waiting.remove_requests([request])
        self._free_request(request)

    def _free_request(self, request: Request) -> None:
        self._pool.release(request)
        del self.requests[request.request_id]
