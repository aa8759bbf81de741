"""KV blocks against a model that keeps every stored block in one dictionary."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from oracle_kv import common_blocks
from oracle_serving import World
from serving_worlds import core_of

from blendsim.serving import kv

Key = tuple[int, ...]  # the tokens up to a block's end

PROMPTS = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 1), st.integers(0, 3)).map(
        # a common head, one of two middles, a tail
        lambda parts: (0,) * parts[0] + (1 + parts[1],) * 3 + (3,) * parts[2]
    ),
    min_size=2,
    max_size=6,
)


def state_of(
    prompts: list[tuple[int, ...]], capacity: int, block: int, knows_plan: bool = False
) -> Any:
    """An idle core's state for `prompts`."""
    world = World(
        prompts=tuple(prompts),
        outputs=(1,) * len(prompts),
        estimates=(1,) * len(prompts),
        densities=(1.0,) * len(prompts),
        capacity=capacity,
        block=block,
        knows_plan=knows_plan,
    )
    return core_of(world).state


class KeyValueCache(RuleBasedStateMachine):
    """Requests come, compute, and go in any order; several may fill the same prefix at once."""

    @initialize(
        prompts=PROMPTS,
        block=st.integers(1, 3),
        capacity=st.integers(4, 16),
        knows_plan=st.booleans(),
    )
    def begin(
        self, prompts: list[tuple[int, ...]], block: int, capacity: int, knows_plan: bool
    ) -> None:
        self.state = state_of(prompts, capacity, block, knows_plan)
        self.knows_plan = knows_plan
        self.waiting = set(range(len(prompts)))
        self.block, self.capacity = block, capacity
        self.paths: list[list[Key]] = []
        for k, prompt in enumerate(prompts):
            others = (p for j, p in enumerate(prompts) if j != k)
            depth = max(common_blocks(prompt, other, block) for other in others)
            self.paths.append([prompt[: (i + 1) * block] for i in range(depth)])
        self.keys = {key for path in self.paths for key in path}
        self.lengths = [len(prompt) for prompt in prompts]
        self.computed: dict[int, int] = {}  # tokens of those inside
        self.stored: dict[Key, int] = {}  # shared blocks, and when they lost their last reader
        self.borrowed = 0
        self.clock = 0

    # ---- the model

    def is_read(self, key: Key) -> bool:
        return any(key in self.paths[k] for k in self.computed)

    def private(self, k: int, tokens: int) -> int:
        return -(-tokens // self.block) - min(tokens // self.block, len(self.paths[k]))

    def used(self) -> int:
        own = sum(self.private(k, tokens) for k, tokens in self.computed.items())
        return own + self.borrowed + len(self.stored)

    def is_waited_for(self, key: Key) -> bool:
        return self.knows_plan and any(key in self.paths[k] for k in self.waiting)

    def evictable(self) -> list[Key]:
        idle = [key for key in self.stored if not self.is_read(key)]
        return sorted(idle, key=lambda key: (self.is_waited_for(key), self.stored[key]))

    def make_room(self) -> None:
        """Evict until nothing is stored beyond the capacity."""
        for key in self.evictable()[: max(0, self.used() - self.capacity)]:
            del self.stored[key]

    def hit(self, k: int) -> int:
        hit = 0
        while hit < len(self.paths[k]) and self.paths[k][hit] in self.stored:
            hit += 1
        return hit

    # ---- what may happen

    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        outside = [
            k
            for k in range(len(self.paths))
            if k not in self.computed and (k in self.waiting or not self.knows_plan)
        ]
        if not outside:
            return
        k = data.draw(st.sampled_from(outside))
        assert kv.cached_blocks(self.state, k) == self.hit(k)
        idle = [key for key in self.paths[k] if key in self.stored and not self.is_read(key)]
        assert kv.idle_path_blocks(self.state, k) == len(idle)
        unread = [key for key in self.paths[k] if not self.is_read(key)]
        assert kv.unheld_path_length(self.state, k) == len(unread)
        kv.hold_path(self.state, k)
        self.waiting.discard(k)
        self.computed[k] = self.block * min(self.hit(k), (self.lengths[k] - 1) // self.block)

    @precondition(lambda self: self.computed)
    @rule(data=st.data(), tokens=st.integers(1, 9))
    def extend(self, data: st.DataObject, tokens: int) -> None:
        k = data.draw(st.sampled_from(sorted(self.computed)))
        before, upto = self.computed[k], self.computed[k] + tokens
        new = [key for key in self.paths[k][: upto // self.block] if key not in self.stored]
        need = self.private(k, upto) - self.private(k, before) + len(new)
        assert kv.missing_blocks(self.state, k, before, upto) == need
        if need > self.capacity - self.used() + len(self.evictable()):
            with pytest.raises(AssertionError, match="has made room"):
                kv.extend(self.state, k, before, upto)
            return
        kv.extend(self.state, k, before, upto)
        self.computed[k] = upto
        self.stored |= dict.fromkeys(new, 0)
        self.make_room()

    @precondition(lambda self: self.computed)
    @rule(data=st.data(), comes_back=st.booleans())
    def release(self, data: st.DataObject, comes_back: bool) -> None:
        k = data.draw(st.sampled_from(sorted(self.computed)))
        computed = self.computed.pop(k)
        if self.knows_plan and comes_back:
            kv.wait_again(self.state, k)
            self.waiting.add(k)
        kv.release(self.state, k, computed, computed)
        for key in reversed(self.paths[k]):
            if key in self.stored and not self.is_read(key):
                self.clock += 1
                self.stored[key] = self.clock

    @rule(number=st.integers(1, 6))
    def take(self, number: int) -> None:
        """Blocks leave for something else, as decodes take them."""
        if number <= self.capacity - self.used() + len(self.evictable()):
            kv.take_blocks(self.state, number)
            self.state.scalars[0].private += number
            self.borrowed += number
            self.make_room()

    @precondition(lambda self: self.borrowed)
    @rule()
    def give_back(self) -> None:
        self.state.scalars[0].private -= self.borrowed
        self.state.scalars[0].free += self.borrowed
        self.borrowed = 0

    # ---- what always holds

    @invariant()
    def both_store_the_same_blocks(self) -> None:
        s = self.state.scalars[0]
        idle = len(self.evictable())
        assert int(s.free) == self.capacity - self.used()
        assert int(s.idle) == idle
        assert int(s.shared_held) == len(self.stored) - idle
        for k in range(len(self.paths)):
            assert kv.cached_blocks(self.state, k) == self.hit(k)

    @invariant()
    def waiting_readers_are_counted(self) -> None:
        if self.knows_plan:
            total = sum(len({k for k in self.waiting if key in self.paths[k]}) for key in self.keys)
            nodes = self.state.nodes
            assert int((nodes.waiting * nodes.length).sum()) == total

    @invariant()
    def no_stored_block_follows_a_gap(self) -> None:
        for key in self.stored:
            assert len(key) == self.block or key[: -self.block] in self.stored

    @invariant()
    def lengths_of_held_paths_are_counted(self) -> None:
        held = {key for k in self.computed for key in self.paths[k]}
        assert int(self.state.scalars[0].shared_length) == len(held)


TestKeyValueCache = KeyValueCache.TestCase
TestKeyValueCache.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)

HEAD, LEFT, RIGHT = (0,) * 4, (1,) * 4, (2,) * 4


def serve(state: Any, k: int, tokens: int) -> None:
    """Request k enters, computes `tokens` and leaves."""
    kv.hold_path(state, k)
    kv.extend(state, k, 4 * kv.cached_blocks(state, k), tokens)
    kv.release(state, k, tokens, tokens)


def test_prefix_left_first_is_evicted_first() -> None:
    state = state_of([LEFT, LEFT, RIGHT, RIGHT], capacity=4, block=4)
    serve(state, 0, 4)
    serve(state, 2, 4)
    serve(state, 1, 4)  # reads the first prefix once more
    kv.take_blocks(state, 3)
    assert [kv.cached_blocks(state, k) for k in range(4)] == [1, 1, 0, 0]


def test_child_is_evicted_before_its_parent() -> None:
    state = state_of([HEAD + LEFT, HEAD + LEFT, HEAD + RIGHT, HEAD + RIGHT], capacity=3, block=4)
    serve(state, 0, 8)
    serve(state, 2, 8)
    left = []
    for _ in range(3):
        kv.take_blocks(state, 1)
        left.append([kv.cached_blocks(state, k) for k in (0, 2)])
    assert left == [[1, 2], [1, 1], [0, 0]]


def test_free_blocks_are_used_before_a_prefix_is_evicted() -> None:
    state = state_of([LEFT, LEFT], capacity=3, block=4)
    serve(state, 0, 4)
    kv.take_blocks(state, 2)
    assert kv.cached_blocks(state, 1) == 1
    kv.take_blocks(state, 1)
    assert kv.cached_blocks(state, 1) == 0


def test_prefix_with_a_reader_stays() -> None:
    state = state_of([LEFT, LEFT], capacity=1, block=4)
    kv.hold_path(state, 0)
    kv.extend(state, 0, 0, 4)
    with pytest.raises(AssertionError, match="has made room"):
        kv.take_blocks(state, 1)


def test_prefix_loses_its_last_block_first() -> None:
    state = state_of([HEAD + LEFT, HEAD + LEFT], capacity=2, block=4)
    serve(state, 0, 8)
    kv.take_blocks(state, 1)
    assert kv.cached_blocks(state, 1) == 1
