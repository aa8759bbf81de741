"""What is computed so that the memory-heavy end is full while it lasts: pools whose requests are
alike, what waits, and how soon it must have been computed.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from oracle_serving import World
from pacing_worlds import AMPLE, MACHINE, PacedWorld, paced_worlds, record_of
from plain_kernels import plain_twins
from serving_worlds import steps

from blendsim.serving import batcher, pacing, remaining
from blendsim.serving.core import ServingCore
from blendsim.serving.state import LEFT, RIGHT, WAITING


@pytest.fixture(autouse=True, scope="module")
def _plain_kernels():  # type: ignore[no-untyped-def]
    with pytest.MonkeyPatch.context() as patch:
        assert plain_twins(patch) > 0
        yield


def alike(prompt: int, output: int, number: int, room: float, density: float = 1.0) -> ServingCore:
    """So many like requests in memory for `room` of them at their ends."""
    world = World(
        prompts=tuple((k,) * prompt for k in range(number)),
        outputs=(output,) * number,
        estimates=(output,) * number,
        densities=(density,) * number,
        root_density=1.0,
        capacity=int(room * (prompt + output)),
        block=1,
        budget=64,
        max_running=64,
        dual=True,
    )
    return PacedWorld(world, MACHINE, (True,) * number, (0,) * number).core()


@pytest.mark.parametrize("density", [1.0, 1.0 + 1e-12, 1.0 - 1e-12])
def test_like_requests_are_all_of_the_right_however_their_density_is_rounded(
    density: float,
) -> None:
    core = alike(10, 20, 5, 3.0, density)
    assert core.state.requests.side.tolist() == [RIGHT] * 5


@pytest.mark.parametrize(("prompt", "output"), [(20, 100), (40, 40)])
def test_the_last_of_like_requests_enters_while_others_fill_the_cache(
    prompt: int, output: int
) -> None:
    running = [(row["waiting"], row["running"]) for row in steps(alike(prompt, output, 80, 20.0))]
    beside = next(run for waits, run in running if not waits)
    assert beside > max(run for _, run in running) / 2


def test_tokens_to_compute_are_no_fewer_than_those_who_wait_compute_for_themselves() -> None:
    """As where less is shared than could be: the account has less than nothing left."""
    tables = []
    for left in (84.0 + 129.0 - 6.0, -1e6):
        core = AMPLE.core()
        record_of(core).tokens_left = left
        pacing.look(core.state)
        tables.append(core.state.pace[0].table.copy())
    assert tables[0].any()
    assert np.array_equal(*tables)


def filled(core: ServingCore, reads: float, most: float) -> tuple[float, float, float]:
    """Tokens, steps, reads a step."""
    full = np.empty((1, 2))
    tokens = remaining.fill_up(core.state, reads, most, full)
    return tokens, float(full[0, 0]), float(full[0, 1])


READS = 0.1 * (4 * 30 + 450 + 3 * 40 + 800 + 2 * 50 + 1_250)  # seconds, of AMPLE's right


def test_the_right_is_computed_in_as_many_steps_as_its_reads_fill() -> None:
    tokens, number, reads = filled(AMPLE.core(), 1e9, 4.0)
    assert tokens == 4 + 3 + 2 + 29 + 39 + 49
    assert number == pytest.approx(READS / 4.0)
    assert reads == 4.0
    assert filled(AMPLE.core(), 7.1, 4.0)[2] == pytest.approx(7.1 * 4.0 / READS)


def test_the_right_is_computed_in_one_step_at_least() -> None:
    assert filled(AMPLE.core(), 1e9, 1e6)[1] == 1.0


def test_steps_that_run_on_anyway_may_be_spent_on_the_next_but_for_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next of the right needs 50 steps once it has entered."""
    monkeypatch.setattr(remaining, "last_end", lambda _: 300)
    assert filled(AMPLE.core(), 1e9, 4.0)[1] == 250.0
    monkeypatch.setattr(remaining, "last_end", lambda _: 60)
    assert filled(AMPLE.core(), 1e9, 4.0)[1] == pytest.approx(READS / 4.0)


def test_steps_that_run_on_are_of_use_as_far_as_the_longest_that_waits_can_end_in_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not the next, which may be shorter where requests of one prefix stay together."""
    outputs = (2, 3, 4, 30, 90, 50)
    mixed = replace(AMPLE.world, outputs=outputs, estimates=outputs)
    core = AMPLE._replace(world=mixed).core()
    assert core.state.pace[0].longest.tolist() == [0, 0, 0, 30, 90, 90]
    monkeypatch.setattr(remaining, "last_end", lambda _: 300)
    assert filled(core, 1e9, 4_000.0)[1] == 300 - 90
    core.state.scalars[0].back = 3  # who is last in line then
    assert filled(core, 1e9, 4_000.0)[1] == 300 - 30


def test_the_left_fills_the_cache_where_none_of_the_right_is_left() -> None:
    core = AMPLE.core()
    p, s = record_of(core), core.state.scalars[0]
    p.right_tokens = p.right_reads = 0.0
    s.back = 2
    reads = 0.1 * (30 * 2 + 2 + 25 * 3 + 4.5 + 20 * 4 + 8)
    assert filled(core, 1e9, 4.0) == (75 + 1 + 2 + 3, pytest.approx(reads / 4.0), 4.0)
    s.right_newest = 5
    assert filled(core, 1e9, 4.0)[0] == 0.0


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(paced_worlds())
def test_accounts_of_each_end_are_those_of_its_requests_that_wait(drawn: PacedWorld) -> None:
    """Preempted ones among them, with what they had generated computed again."""
    core = drawn.core()
    block = drawn.world.block
    spread = np.array(drawn.pacing.spread)[list(drawn.source)]
    spread[list(drawn.visible)] = 1.0
    for _ in steps(core):
        p = record_of(core)
        for side, tokens, reads in (
            (LEFT, p.left_tokens, p.left_reads),
            (RIGHT, p.right_tokens, p.right_reads),
        ):
            mine = [
                (k, r)
                for k, r in enumerate(core.state.requests)
                if r.status == WAITING and r.side == side
            ]
            owed = [max(1, int(r.expected - r.generated)) for _, r in mine]
            begun = [len(drawn.world.prompts[k]) + int(r.generated) for k, r in mine]
            shared = [block * int(r.path_blocks) for _, r in mine]
            wanted = sum(b - h + o - 1 for b, h, o in zip(begun, shared, owed, strict=True))
            assert tokens == pytest.approx(wanted, abs=1e-6)
            reading = (
                o * (b + spread[k] * o / 2) for (k, _), b, o in zip(mine, begun, owed, strict=True)
            )
            assert reads == pytest.approx(sum(reading), abs=1e-6)


def test_a_request_that_is_ended_while_it_waits_to_come_back_counts_no_longer() -> None:
    core = AMPLE.core()
    for _ in range(6):
        core.step()
        core.commit()
    before = record_of(core).right_tokens
    core.state.scalars[0].opened = 0
    batcher.preempt(core.state, 5)
    assert record_of(core).right_tokens > before
    core.end(np.array([5]))
    assert record_of(core).right_tokens == before


def test_sampled_requests_run_first_and_wait_no_longer() -> None:
    """However long they are: their ends say nothing of what still has to enter."""
    outputs = (2, 3, 90, 30, 40, 50)
    sampled = replace(
        AMPLE.world, outputs=outputs, estimates=outputs, first=3, densities=(0.1,) * 6
    )
    core = AMPLE._replace(world=sampled).core()
    assert core.state.pace[0].longest.tolist() == [0, 0, 0, 30, 40, 50]
