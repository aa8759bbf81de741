"""Paced plans' two sides: the compute-heavy end is one account, taken from both its ends."""

from dataclasses import replace

import numpy as np
import pytest
from oracle_serving import World
from pacing_worlds import AMPLE, PacedWorld, record_of
from serving_worlds import core_of

from blendsim.pacing import Gains
from blendsim.serving import batcher, forecast, paced_line, sides
from blendsim.serving.core import ServingCore
from blendsim.serving.state import LEFT, RIGHT

pytestmark = pytest.mark.usefixtures("plain_throughout")


def started(drawn: PacedWorld, steps: int = 1) -> ServingCore:
    core = drawn.core()
    for _ in range(steps):
        core.step()
        core.commit()
    return core


@pytest.mark.parametrize("field", ["left_expected", "left_expected_base", "expected_base"])
def test_check_finds_a_total_of_expected_ends_that_is_off(field: str) -> None:
    core = started(AMPLE)
    core.check()
    core.state.scalars[0][field] += 1
    with pytest.raises(AssertionError, match=f"^{field} is counted"):
        core.check()


@pytest.mark.parametrize("field", ["left_count", "left_base", "left_final", "final_sum"])
def test_check_finds_a_bucket_of_expected_ends_that_is_off(field: str) -> None:
    """Though the buckets' sum is right."""
    core = started(AMPLE)
    core.state.buckets[field][:2] += (1, -1)
    with pytest.raises(AssertionError, match=f"once: {field} is counted by bucket"):
        core.check()


def test_what_the_dense_end_will_hold_is_its_private_tokens_over_its_outputs() -> None:
    """Of 30 + 25 + 20 prompt tokens nothing is shared; outputs are 2, 3 and 4."""
    hold = (30 + 1) * 2 + (25 + 1.5) * 3 + (20 + 2) * 4
    assert record_of(AMPLE.core()).hold_left == pytest.approx(hold)


def test_unknown_lengths_hold_more_by_their_spread() -> None:
    """By MACHINE's spread of 1.5."""
    core = AMPLE._replace(visible=(False, True, True, True, True, True)).core()
    hold = (30 + 1.5) * 2 + (25 + 1.5) * 3 + (20 + 2) * 4
    assert record_of(core).hold_left == pytest.approx(hold)


def test_shared_prefixes_are_nobodys_hold() -> None:
    prompts = tuple((7,) * 20 + (k,) for k in range(6))
    core = AMPLE._replace(world=replace(AMPLE.world, prompts=prompts)).core()
    assert record_of(core).hold_left == pytest.approx((1 + 1) * 2 + (1 + 1.5) * 3 + (1 + 2) * 4)


def test_nothing_is_left_to_hold_when_all_have_entered() -> None:
    core = AMPLE.core()
    while not core.is_done:
        core.step()
        core.commit()
    assert record_of(core).hold_left == pytest.approx(0.0, abs=1e-9)
    assert record_of(core).square_left == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("held", "place"), [(0, 2), (9, 2), (10, 0), (50, 0)])
def test_dense_end_is_taken_from_its_last_while_it_holds_less_than_its_even_share(
    held: int, place: int
) -> None:
    core = AMPLE.core()
    p = record_of(core)
    p.hold_left, p.steps_left = 1_000.0, 100.0
    core.state.scalars[0].left_reserved = held
    assert paced_line.left_place(core.state) == place


def test_last_of_the_dense_end_is_the_last_that_still_waits() -> None:
    core = AMPLE.core()
    paced_line.take(core.state, 2)
    assert paced_line.left_place(core.state) == 1
    paced_line.take(core.state, 1)
    assert paced_line.left_place(core.state) == 0
    paced_line.take(core.state, 0)
    assert paced_line.left_place(core.state) == 3  # of the other end: nobody else waits


def test_dense_end_enters_within_its_room_though_the_forecast_has_none() -> None:
    # All of the light end take equally long, so that none of it waits until the others are done.
    like = replace(AMPLE.world, outputs=(2, 3, 4, 50, 50, 50), estimates=(2, 3, 4, 50, 50, 50))
    core = started(AMPLE._replace(world=like))
    s, p = core.state.scalars[0], record_of(core)
    assert int(s.left_expected) == 0
    s.expected_base = 10_000  # of requests that outgrow all memory
    own = 30 + 2  # tokens it holds at its end
    p.hold_left, p.steps_left, p.left_room = float(own), 1.0, 0.0
    assert paced_line.kept_for_left(core.state) == own
    assert not forecast.peak_fits(core.state, 0, 0)
    assert paced_line.fits_left(core.state, 0)
    p.hold_left -= 1.0
    assert not paced_line.fits_left(core.state, 0)


def test_room_kept_is_the_even_share_and_standard_deviations_of_it() -> None:
    core = AMPLE.core()
    p = record_of(core)
    squares = (30 + 1) ** 2 * 2 + (25 + 1.5) ** 2 * 3 + (20 + 2) ** 2 * 4
    assert p.square_left == pytest.approx(squares)
    p.hold_left, p.square_left, p.steps_left, p.left_room = 1_000.0, 800.0, 50.0, 1.5
    assert paced_line.kept_for_left(core.state) == 20 + 1.5 * 4
    p.hold_left = p.square_left = -1.0  # sums of floats may end below 0
    assert paced_line.kept_for_left(core.state) == 0


def test_both_ends_are_forecast_by_their_ends_apart_from_each_other() -> None:
    core = started(AMPLE, 8)
    s, requests, buckets = core.state.scalars[0], core.state.requests, core.state.buckets
    running = np.flatnonzero(requests.reserved > 0)
    assert set(requests.side[running]) == {LEFT, RIGHT}
    on_left, on_right = (running[requests.side[running] == side] for side in (LEFT, RIGHT))
    assert int(s.expected_count) == buckets["count"].sum() == len(on_right)
    assert int(s.left_expected) == buckets["left_count"].sum() == len(on_left)
    base, final = requests.end_base[on_left].sum(), requests.end_final[on_left].sum()
    assert int(s.left_expected_base) == buckets["left_base"].sum() == base
    assert buckets["left_final"].sum() == final
    core.check()
    while not core.is_done:
        core.step()
        core.commit()
    assert int(s.left_expected) == int(s.left_expected_base) == 0
    assert not any(buckets[name].any() for name in ("left_count", "left_base", "left_final"))


def test_what_is_kept_for_the_dense_end_binds_though_nobody_ends_soon() -> None:
    """One long request runs in ample memory; more than all is to be kept."""
    world = replace(AMPLE.world, outputs=(2, 3, 4, 30, 40, 900), estimates=(2, 3, 4, 30, 40, 900))
    core = AMPLE._replace(world=replace(world, capacity=2_000)).core()
    core.state.scalars[0].max_running = 1
    core.step()
    core.commit()
    core.state.scalars[0].max_running = 32
    s = core.state.scalars[0]
    assert int(s.expected_count) == 1
    assert core.state.buckets[int(s.current_bucket)]["count"] == 0
    assert forecast.peak_fits(core.state, 4, 0)
    assert not forecast.peak_fits(core.state, 4, 10_000)


def overrunning(visible: bool) -> PacedWorld:
    """One dense request with an output ten times as long as estimated."""
    world = World(
        prompts=((1,) * 6, (2,) * 2),
        outputs=(60, 60),
        estimates=(6, 60),
        densities=(4.0, 0.2),
        capacity=400,
        block=1,
        budget=32,
        max_running=8,
        dual=True,
    )
    return PacedWorld(world, AMPLE.pacing, (visible, True), (0, 0))


def test_overrun_estimates_change_sides_only_without_pacing() -> None:
    drawn = overrunning(False)
    paced, plain = drawn.core(), core_of(drawn.world)
    for core in (paced, plain):
        for _ in range(40):
            core.step()
            core.commit()
    assert int(paced.state.requests.side[0]) == LEFT
    assert int(plain.state.requests.side[0]) == RIGHT


def test_reservation_of_an_unknown_length_counts_its_spread() -> None:
    seen, hidden = overrunning(True).core(), overrunning(False).core()
    assert sides.reservation(seen.state, 0) == 6 + 3  # blocks of one token, half the output
    assert sides.reservation(hidden.state, 0) == 6 + 4  # 1.5 · 3, rounded down


def crowded(left_reserved: int) -> ServingCore:
    """Two dense requests and two light ones run; the even share of the dense is 20 tokens."""
    world = World(
        prompts=((1,) * 6, (2,) * 6, (3,) * 9, (4,) * 2),
        outputs=(20, 20, 20, 20),
        estimates=(20, 20, 20, 20),
        densities=(4.0, 3.0, 0.2, 0.1),
        capacity=400,
        block=1,
        budget=64,
        max_running=8,
        dual=True,
    )
    pacing = replace(AMPLE.pacing, gains=Gains(left_room=0.0, efficiency=1.0))
    core = started(PacedWorld(world, pacing, (True,) * 4, (0,) * 4), 3)
    assert int(core.state.scalars[0].running) == 4
    p = record_of(core)
    p.hold_left, p.steps_left = 20.0, 1.0
    core.state.scalars[0].left_reserved = left_reserved
    return core


def test_newest_of_the_dense_end_leaves_while_that_end_has_half_of_its_room() -> None:
    core = crowded(10)
    out = paced_line.who_leaves(core.state)
    assert core.state.requests.side[out] == LEFT
    assert out == int(core.state.scalars[0].left_newest)


def test_lightest_of_the_memory_heavy_end_leaves_where_it_has_crowded_the_other_out() -> None:
    core = crowded(9)
    assert paced_line.who_leaves(core.state) == 3  # holds seven tokens less than the other


def test_last_of_the_memory_heavy_end_stays_however_crowded_it_is() -> None:
    core = crowded(9)
    batcher.preempt(core.state, 3)
    assert core.state.requests.side[paced_line.who_leaves(core.state)] == LEFT
