"""Page numbers for the core's blocks: every page a request reads holds its own prefix."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle_serving import World
from serving_worlds import core_of, some_that_can_end, worlds_without_host

from blendrt.pages import PagedStep, Pager, pool_pages

FLAVOURS = {
    "nanoflow": {"predicted_peak": True},
    "vllm": {"predicted_peak": False, "keeps_own": True, "oldest_first": True, "multiple": 1},
    "sequential": {"multiple": 1},
}


class Mirror:
    """Runs a world and keeps, for each place of the pool, the prefix whose token was written."""

    def __init__(self, world: World, flavour: str) -> None:
        self.world = replace(world, **FLAVOURS[flavour])  # type: ignore[arg-type]
        self.core = core_of(self.world)
        self.pager = Pager(self.core)
        self.pool = np.full((self.pager.pages, world.block), -1, np.int64)
        self.text = [self._prefixes(k) for k in range(len(world.prompts))]

    def _prefixes(self, request: int) -> np.ndarray:
        """A number for each prefix of the request's prompt and output, equal for equal prefixes."""
        tokens = [*self.world.prompts[request]]
        tokens += [(request, j) for j in range(self.world.outputs[request])]  # type: ignore[misc]
        return np.array([hash(tuple(tokens[: i + 1])) for i in range(len(tokens))])

    def run(self, rng: np.random.Generator | None = None) -> list[PagedStep]:
        """Run to the end; with `rng`, some answers end early."""
        steps = []
        while not self.core.is_done:
            self.core.step()
            steps.append(self.pager.follow())
            self.pager.check()
            self.read_and_write(steps[-1])
            self.core.commit()
            if rng is not None:
                self.core.end(some_that_can_end(self.core, rng))
            assert len(steps) < 20_000
        return steps

    def read_and_write(self, step: PagedStep) -> None:
        """Every scheduled request writes what it computes, then reads all it has."""
        written: dict[tuple[int, int], int] = {}
        views = []
        for i, k in enumerate(step.requests.tolist()):
            pages = step.indices[step.indptr[i] : step.indptr[i + 1]]
            start, end = int(step.computed[i]), int(step.computed[i] + step.tokens[i])
            assert len(pages) == -(-end // self.world.block)
            assert len(set(pages.tolist())) == len(pages), "blocks of one request are distinct"
            for position in range(start, end):
                place = int(pages[position // self.world.block]), position % self.world.block
                value = int(self.text[k][position])
                assert written.setdefault(place, value) == value, "one place, two owners"
                self.pool[place] = value
            views.append((k, pages, end))
        for k, pages, end in views:
            assert self.pool[pages].reshape(-1)[:end].tolist() == self.text[k][:end].tolist()

    def scheduled(self) -> list[tuple[int, int, int]]:
        return sorted(zip(*(c.tolist() for c in self.core.scheduled()), strict=True))


#: Here a step evicts an idle block for one request and another frees its own after that.
EVICTS_AND_FREES = World(
    prompts=((-1,), (-1,), (-1,), (-1,), (0, -1), (-1,), (-2,) * 13, (-1,), (-1,)),
    outputs=(1, 2, 2, 1, 5, 1, 1, 1, 1),
    estimates=(1,) * 9,
    densities=(0.25,) * 9,
    root_density=0.3,
    capacity=18,
    block=1,
    budget=5,
    max_running=2,
    output_reserved=0.0,
)


@pytest.mark.parametrize("flavour", FLAVOURS)
@given(world=worlds_without_host())
@example(world=EVICTS_AND_FREES)
@settings(max_examples=150)
def test_every_page_a_request_reads_holds_its_own_prefix(flavour: str, world: World) -> None:
    Mirror(world, flavour).run()


@pytest.mark.parametrize("flavour", FLAVOURS)
@given(world=worlds_without_host(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_pages_are_right_when_answers_end_early(flavour: str, world: World, seed: int) -> None:
    Mirror(world, flavour).run(np.random.default_rng(seed))


@given(world=worlds_without_host())
@settings(max_examples=50)
def test_step_with_pages_is_the_step_of_the_core(world: World) -> None:
    mirror = Mirror(world, "nanoflow")
    while not mirror.core.is_done:
        mirror.core.step()
        step = mirror.pager.follow()
        columns = (step.requests, step.computed, step.tokens)
        assert sorted(zip(*(c.tolist() for c in columns), strict=True)) == mirror.scheduled()
        assert int(step.samples.sum()) == mirror.core.counts()["sampled_tokens"]
        mirror.core.commit()


SHARING = World(
    prompts=((*range(8), 50), (*range(8), 60), (*range(8), 70)),
    outputs=(3, 3, 3),
    estimates=(3, 3, 3),
    densities=(1.0, 1.0, 1.0),
    capacity=32,
    block=4,
    budget=64,
)


def test_requests_with_a_common_prefix_read_the_same_pages() -> None:
    (first, *_) = Mirror(SHARING, "nanoflow").run()
    a, b, c = (first.indices[first.indptr[i] : first.indptr[i + 1]].tolist() for i in range(3))
    assert a[:2] == b[:2] == c[:2]
    assert len({a[2], b[2], c[2]}) == 3
    assert first.computed.tolist() == [0, 8, 8]


def test_without_prefix_sharing_no_page_has_two_readers() -> None:
    (first, *_) = Mirror(replace(SHARING, sharing=False), "nanoflow").run()
    assert len(set(first.indices.tolist())) == len(first.indices)


def test_preempted_request_finds_its_own_pages_again_where_the_engine_keeps_them() -> None:
    # 6 blocks of 4 tokens: the second request has to leave when the first one's context grows.
    world = World(
        prompts=(tuple(range(10)), tuple(range(100, 108))),
        outputs=(6, 6),
        estimates=(6, 6),
        densities=(1.0, 1.0),
        capacity=6,
        block=4,
        budget=32,
    )
    steps = Mirror(world, "vllm").run()
    back = [(i, s) for i, s in enumerate(steps) if i > 0 and 1 in s.requests[: s.chunks]]
    ((_, step),) = back
    before = next(s for s in steps if 1 in s.requests)
    place = step.requests.tolist().index(1)
    assert int(step.computed[place]) == 8
    kept = step.indices[step.indptr[place] :][:2].tolist()
    old = before.requests.tolist().index(1)
    assert kept == before.indices[before.indptr[old] :][:2].tolist()


def test_pool_has_no_more_pages_than_the_requests_can_fill() -> None:
    assert pool_pages(core_of(SHARING)) == 3 * 3
    assert pool_pages(core_of(replace(SHARING, capacity=5))) == 5
