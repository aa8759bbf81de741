"""What requests hold of the cache beside what they read: prefixes that several of them share."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from oracle_serving import World
from pacing_worlds import AMPLE, MACHINE, PacedWorld, paced_worlds, record_of
from serving_worlds import steps

from blendsim.serving import held, paced_line, pacing, remaining
from blendsim.serving.core import ServingCore
from blendsim.serving.state import LEFT, NONE, RIGHT, WAITING

pytestmark = pytest.mark.usefixtures("plain_throughout")

PREFIX, OWN, ANSWER = 40, 3, 8


def world(groups: int, each: int, capacity: int = 10_000) -> PacedWorld:
    """Groups of light requests, each group with a prefix of its own, answers of one length."""
    n = groups * each
    prompts = tuple((k // each,) * PREFIX + (1_000 + k,) * OWN for k in range(n))
    return PacedWorld(
        World(
            prompts=prompts,
            outputs=(ANSWER,) * n,
            estimates=(ANSWER,) * n,
            densities=(0.5,) * n,
            root_density=1.0,
            capacity=capacity,
            block=1,
            budget=64,
            max_running=60,
            dual=True,
        ),
        MACHINE,
        (True,) * n,
        (0,) * n,
    )


def spared(drawn: PacedWorld) -> list[int]:
    return drawn.core().state.requests.spared.tolist()


def test_who_shares_nothing_holds_all_that_it_reads() -> None:
    assert spared(AMPLE) == [0] * 6
    p = record_of(AMPLE.core())
    assert p.reuse == 1.0
    assert p.left_spared == p.right_spared == 0.0


def test_a_prefix_counts_once_for_its_readers_where_all_of_them_fit() -> None:
    """Of 40 tokens that four share each counts for 10; of those that all eight do, for 5."""
    assert spared(world(2, 4)) == [30] * 8
    assert spared(world(1, 8)) == [35] * 8


def test_a_prefix_counts_for_as_many_as_run_at_a_time() -> None:
    """Each holds 3 + 8/2 tokens of its own in the mean. n of them hold 7·n + 40, so that n = 4 fill
    68 tokens.
    """
    tight = world(1, 8, capacity=73)  # of which 0.93 are expected to be filled
    (each,) = set(spared(tight))
    assert each == PREFIX - 10
    assert spared(world(1, 8, capacity=48)) == [0] * 8  # one at a time


def test_windows_are_held_and_no_context_to_read() -> None:
    wide = replace(AMPLE.world, window=7)
    assert spared(AMPLE._replace(world=wide)) == [-7] * 6


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(paced_worlds())
def test_as_many_run_as_fill_the_cache_with_what_they_count_for(drawn: PacedWorld) -> None:
    """Or all of them do, or one."""
    core = drawn.core()
    requests, nodes = core.state.requests, core.state.nodes
    block = drawn.world.block
    readers = np.zeros(len(nodes), np.int64)
    paths = []
    for r in requests:
        path, k = [], int(r.node)
        while k > 0:
            path.append(k)
            readers[k] += 1
            k = int(nodes[k].parent)
        paths.append(path)
    own, room = requests.prompt * requests.estimate * 1.0, 0.93 * drawn.world.capacity * block
    found = held.spared_reads(requests, nodes, readers, own, room, block)

    def counted(at_once: float) -> list[float]:
        return [
            sum(block * int(nodes[k].length) / max(1.0, min(readers[k], at_once)) for k in path)
            for path in paths
        ]

    def running(at_once: float) -> float:
        steps = requests.estimate
        return room * steps.sum() / max(float((own + counted(at_once) * steps).sum()), 1.0)

    at_once = float(len(requests))
    for _ in range(200):
        at_once = min(at_once, running(at_once))
    wanted = [block * r.path_blocks - c for r, c in zip(requests, counted(at_once), strict=True)]
    assert found == pytest.approx(wanted, rel=0.05, abs=0.05 * block)


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(paced_worlds())
def test_what_is_spared_is_of_each_end_as_it_waits(drawn: PacedWorld) -> None:
    core = drawn.core()
    for _ in steps(core):
        p = record_of(core)
        for side, kept in ((LEFT, p.left_spared), (RIGHT, p.right_spared)):
            mine = [r for r in core.state.requests if r.status == WAITING and r.side == side]
            wanted = sum(int(r.spared) * max(1, int(r.expected - r.generated)) for r in mine)
            assert kept == pytest.approx(wanted, abs=1e-6)


def test_a_full_cache_is_read_as_often_as_its_prefixes_are_shared() -> None:
    """Eight requests of 43 tokens and an answer of 8 read 47 a step, and count for 12."""
    core = world(1, 8).core()
    p = record_of(core)
    pacing.look(core.state)
    assert p.reuse == pytest.approx(47 / 12)
    assert p.most_reads == pytest.approx(0.93 * 10_000 * 47 / 12 * MACHINE.read_seconds)
    p.most_held = 12.0  # one at a time
    pacing.look(core.state)
    assert p.steps_left == pytest.approx(8 * ANSWER)


def test_what_is_read_stays_as_reckoned_when_nobody_waits() -> None:
    core = world(1, 8).core()
    p = record_of(core)
    p.left_reads = p.right_reads = p.left_spared = p.right_spared = 0.0
    before = float(p.reuse)
    pacing.look(core.state)
    assert float(p.reuse) == before > 1.0


@pytest.mark.parametrize(("reads", "spared", "often"), [(0.0, 0.0, 1.0), (8.0, 8.0, 8.0)])
def test_who_reads_nothing_or_holds_nothing_counts_as_one_token(
    reads: float, spared: float, often: float
) -> None:
    assert held.reads_per_held(reads, spared) == often


def test_one_end_alone_fills_the_cache_as_the_whole_pool_does() -> None:
    """`most` seconds a step are of the pool's mix, which is the right's here."""
    core = world(1, 8).core()
    pacing.look(core.state)
    full = np.empty((1, 2))
    remaining.fill_up(core.state, 1e9, 4.0, full)
    assert full[0, 0] == pytest.approx(8 * ANSWER * 47 * MACHINE.read_seconds / 4.0)


def test_the_right_fills_up_with_what_its_own_requests_count_for() -> None:
    core = world(1, 8).core()
    p = record_of(core)
    pacing.look(core.state)
    full = np.empty((1, 2))
    remaining.fill_up(core.state, 1e9, 4.0, full)
    as_all = float(full[0, 0])
    p.right_spared = 0.0  # as if it held all that it reads: as many times as many steps
    remaining.fill_up(core.state, 1e9, 4.0, full)
    assert float(full[0, 0]) == pytest.approx(as_all * 47 / 12)


def test_levels_of_the_table_reach_what_shared_prefixes_are_read() -> None:
    for drawn, most in ((AMPLE, 400), (world(1, 8), 10_000 * 47 // 12)):
        unit = int(record_of(drawn.core()).unit)
        assert most < unit * pacing.ROWS <= most + pacing.ROWS


@pytest.mark.parametrize(("budget", "sizes"), [(1, 1), (3, 2), (12, 5), (63, 8), (500, 9)])
def test_no_size_above_the_engines_budget_is_weighed(
    budget: int, sizes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "least_size", lambda *_: 0)
    core = AMPLE._replace(world=replace(AMPLE.world, budget=budget, max_running=1)).core()
    assert core.state.pace[0].weighed == sizes
    pacing.look(core.state)
    assert int(core.state.pace[0].table[:, :2].max()) <= MACHINE.sizes[sizes - 1]


def test_the_least_size_is_weighed_though_the_budget_is_smaller() -> None:
    coarse = replace(MACHINE, sizes=MACHINE.sizes[3:], seconds=MACHINE.seconds[3:])
    small = AMPLE._replace(world=replace(AMPLE.world, budget=2, max_running=1), pacing=coarse)
    assert small.core().state.pace[0].weighed == 1


# ---- who enters out of turn


def cached(core: ServingCore, request: int, tokens: int) -> None:
    """Put so many tokens of its prefix into the cache."""
    node = core.state.requests[request].node
    core.state.nodes[node].cached = tokens


@pytest.mark.parametrize(("tokens", "finds"), [(0, False), (36, False), (37, True), (40, True)])
def test_what_lacks_of_a_prefix_may_be_as_much_as_the_request_holds(
    tokens: int, finds: bool
) -> None:
    core = world(2, 4).core()
    cached(core, 0, tokens)
    assert paced_line.finds_prefix(core.state, 0) == finds
    assert paced_line.finds_prefix(AMPLE.core().state, 0)  # which has none


def test_who_has_to_bring_its_prefix_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last in line may not enter, all others may."""
    core = world(2, 4).core()
    monkeypatch.setattr(paced_line, "may_enter", lambda state, k, _: k != state.queue[7])
    assert paced_line.longest_fitting(core.state, 0) == NONE
    cached(core, 0, PREFIX)  # of the group of 0 to 3
    assert paced_line.longest_fitting(core.state, 0) == 3
    cached(core, 4, PREFIX)
    assert paced_line.longest_fitting(core.state, 0) == 6


def test_the_last_in_line_enters_whatever_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    core = world(2, 4).core()
    monkeypatch.setattr(paced_line, "may_enter", lambda *_: True)
    assert paced_line.longest_fitting(core.state, 0) == 7


def test_the_dense_end_goes_on_at_its_front_where_its_last_would_bring_a_prefix() -> None:
    drawn = world(2, 4)
    dense = drawn._replace(world=replace(drawn.world, densities=(9.0,) * 7 + (0.5,)))
    core = dense.core()
    s, p = core.state.scalars[0], record_of(core)
    p.hold_left, p.steps_left, s.left_reserved = 1_000.0, 100.0, 0
    assert paced_line.left_place(core.state) == 0
    cached(core, 6, PREFIX)
    assert paced_line.left_place(core.state) == 6


def test_the_dense_end_is_not_held_up_by_the_other_ends_request_at_the_front() -> None:
    """Of a plan that somebody else ordered."""
    drawn = world(2, 4)
    dense = drawn._replace(world=replace(drawn.world, densities=(0.5,) + (9.0,) * 7))
    core = dense.core()
    p = record_of(core)
    p.hold_left, p.steps_left = 1_000.0, 100.0
    assert paced_line.left_place(core.state) == 7
