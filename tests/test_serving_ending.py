"""Answers that end before their room is used up: the core ends them as if it had known."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_serving import World
from pacing_worlds import PacedWorld, paced_worlds
from serving_worlds import core_of, worlds, worlds_without_host

from blendsim.serving.core import ServingCore
from blendsim.serving.state import DECODING, DONE, PREFILLING, WAITING

FINISHED = "finished"


class Ends:
    """Says in which order the requests that end in a step leave the core that knows."""

    def __init__(self, core: ServingCore, oldest_first: bool) -> None:
        self._core = core
        self._oldest_first = oldest_first
        self._entry: dict[int, int] = {}  # when each that decodes began to
        self._count = 0

    def after(self, before: np.ndarray, lengths: np.ndarray) -> list[int]:
        """Requests that have all their output now, decodes first; `before` is who decoded before
        the commit.
        """
        requests = self._core.state.requests
        chunks = self._core.state.chunk[0, : int(self._core.state.scalars[0].chunks)].tolist()
        started = [k for k in chunks if requests.status[k] == DECODING and not before[k]]
        over = set(np.flatnonzero(generated(self._core) == lengths).tolist())
        decodes = sorted((k for k in over if before[k]), key=self._entry.__getitem__)
        for k in started:
            self._count += 1
            self._entry[k] = self._count
        return [
            *(decodes if self._oldest_first else decodes[::-1]),
            *(k for k in started if k in over),
        ]


def generated(core: ServingCore) -> np.ndarray:
    """Tokens each request has generated so far; −1 for those that do not decode."""
    requests, step = core.state.requests, int(core.state.scalars[0].step)
    tokens = requests.generated + step - requests.start_step
    return np.where(requests.status == DECODING, tokens, -1)


def run_both(known: ServingCore, told: ServingCore, lengths: np.ndarray, oldest: bool) -> None:
    """Step by step the same, whether the core knows `lengths` or is told in time."""
    ends = Ends(told, oldest)
    for _ in range(20_000):
        assert known.is_done == told.is_done
        if known.is_done:
            assert bool((told.state.requests.status == DONE).all())
            assert told.state.requests.generated.tolist() == lengths.tolist()
            return
        known.step()
        told.step()
        assert [c.tolist() for c in known.scheduled()] == [c.tolist() for c in told.scheduled()]
        decoded = told.state.requests.status == DECODING
        known.commit()
        told.commit()
        over = ends.after(decoded, lengths)
        counts = told.counts()
        counts[FINISHED] += told.end(np.array(over, np.int64))
        told.check()
        assert counts == known.counts()
    raise AssertionError("not done")


def roomy(world: World, room: list[int]) -> World:
    """The world with `room` more tokens for each output than come."""
    more = zip(world.outputs, room, strict=True)
    return replace(world, outputs=tuple(output + extra for output, extra in more))


@st.composite
def rooms(draw: st.DrawFn, n: int) -> list[int]:
    return draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))


#: Every kind of state has kernels of its own to compile. Cascade attention is simulated only.
IN_MEMORY = worlds_without_host().map(lambda world: replace(world, cascade=False))
WITH_HOST = worlds().map(lambda w: replace(w, cascade=False, host=max(3, w.host), keeps_own=False))
PACED = paced_worlds().map(lambda p: p._replace(world=replace(p.world, cascade=False)))


@given(st.data(), IN_MEMORY)
@settings(max_examples=200, deadline=None)
def test_an_end_that_is_told_in_time_is_an_end_that_was_known(
    data: st.DataObject, world: World
) -> None:
    room = data.draw(rooms(len(world.outputs)))
    known, told = core_of(world), core_of(roomy(world, room))
    run_both(known, told, np.array(world.outputs), world.oldest_first)


@given(st.data(), PACED)
@settings(max_examples=100, deadline=None)
def test_the_same_where_steps_are_paced(data: st.DataObject, drawn: PacedWorld) -> None:
    room = data.draw(rooms(len(drawn.world.outputs)))
    told = drawn._replace(world=roomy(drawn.world, room)).core()
    run_both(drawn.core(), told, np.array(drawn.world.outputs), drawn.world.oldest_first)


def ends_at_random(core: ServingCore, luck: np.random.Generator) -> Iterator[list[int]]:
    """Run the core; before every step some of those that generated a token end, whatever they do.
    Yields who.
    """
    for _ in range(20_000):
        if core.is_done:
            return
        core.step()
        core.commit()
        core.check()
        requests = core.state.requests
        has_token = (requests.status == DECODING) | (
            np.isin(requests.status, (WAITING, PREFILLING)) & (requests.generated > 0)
        )
        could = np.flatnonzero(has_token)
        over = could[luck.random(len(could)) < 0.15]
        assert core.end(over) == len(over)
        core.check()
        assert bool((requests.status[over] == DONE).all())
        yield over.tolist()
    raise AssertionError("not done")


@given(IN_MEMORY | WITH_HOST, st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_requests_may_end_whatever_they_do(world: World, seed: int) -> None:
    core = core_of(world)
    list(ends_at_random(core, np.random.default_rng(seed)))
    assert bool((core.state.requests.status == DONE).all())


@given(PACED, st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_requests_may_end_whatever_they_do_where_steps_are_paced(
    drawn: PacedWorld, seed: int
) -> None:
    core = drawn.core()
    list(ends_at_random(core, np.random.default_rng(seed)))
    assert bool((core.state.requests.status == DONE).all())


#: The second request has to leave when the first one's context grows; a third waits behind it.
CROWDED = World(
    prompts=(tuple(range(10)), tuple(range(100, 108)), tuple(range(200, 204))),
    outputs=(9, 9, 2),
    estimates=(9, 9, 2),
    densities=(1.0,) * 3,
    capacity=6,
    block=4,
    budget=32,
    predicted_peak=False,
    keeps_own=True,
)


def preempted(world: World = CROWDED) -> tuple[ServingCore, int]:
    """A core between two steps, and who has just been thrown out."""
    core = core_of(world)
    while not core.is_done:
        core.step()
        core.commit()
        waiting = np.flatnonzero(
            (core.state.requests.status == WAITING) & (core.state.requests.was_preempted == 1)
        )
        if len(waiting):
            return core, int(waiting[0])
    raise AssertionError("nobody was thrown out")


def test_who_was_thrown_out_does_not_come_back_once_it_is_over() -> None:
    core, k = preempted()
    assert core.end(np.array([k])) == 1
    core.check()
    assert int(core.state.scalars[0].requeued) == 0
    admitted = 0
    while not core.is_done:
        core.step()
        assert k not in core.scheduled().rows
        core.commit()
        admitted += core.counts()["admitted"]
    assert admitted <= 1  # the third, if it was not in yet
    assert core.state.requests.generated[k] < CROWDED.outputs[k]


def test_what_it_left_in_the_cache_stays_there_for_others_to_evict() -> None:
    core, k = preempted(replace(CROWDED, block=1, capacity=24))
    idle = int(core.state.scalars[0].idle)
    assert idle > 0
    core.end(np.array([k]))
    assert int(core.state.scalars[0].idle) == idle


def test_who_is_done_is_passed_over() -> None:
    core = core_of(replace(CROWDED, outputs=(1, 9, 2)))
    core.step()
    core.commit()
    done = np.flatnonzero(core.state.requests.status == DONE)
    assert len(done) == 1
    assert core.end(done) == 0
    assert int(core.state.scalars[0].done) == 1


def test_nobody_ends_without_a_token() -> None:
    core = core_of(CROWDED)
    with pytest.raises(AssertionError, match="whoever ends has generated a token"):
        core.end(np.array([0]))


def test_engines_that_work_otherwise_end_no_answers() -> None:
    core = core_of(replace(CROWDED, watermark=1, oldest_first=True, multiple=1))
    with pytest.raises(AssertionError, match="rounds and knobs end no answers"):
        core.end(np.array([0]))
