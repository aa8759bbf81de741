"""Whole paced runs in small worlds: what is conserved, what is never exceeded, who enters first."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from oracle_serving import World
from pacing_worlds import AMPLE, PacedWorld, paced_worlds, record_of
from serving_worlds import core_of, steps, triples

from blendsim.pacing import Gains
from blendsim.serving import batcher, pacing
from blendsim.serving.core import ServingCore
from blendsim.serving.kinds import correction, unknown_tokens
from blendsim.serving.pacing import step_budget
from blendsim.serving.reads import expected_reads
from blendsim.serving.state import DECODING, LEFT, PREFILLING, RIGHT, WAITING

slow = settings(
    max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


pytestmark = pytest.mark.usefixtures("plain_throughout")


@slow
@given(paced_worlds())
def test_every_paced_world_runs_to_its_end_and_is_sound_after_every_step(
    drawn: PacedWorld,
) -> None:
    done = sum(row["finished"] for row in steps(drawn.core()))
    assert done == len(drawn.world.prompts)


@slow
@given(paced_worlds())
def test_no_step_computes_more_than_gains_and_budget_allow(drawn: PacedWorld) -> None:
    most = min(drawn.world.budget, drawn.pacing.gains.most_tokens)
    assert all(
        row["prefill_tokens"] + row["decode_requests"] <= most for row in steps(drawn.core())
    )


@slow
@given(paced_worlds())
def test_no_step_wants_more_than_allowed_or_a_size_that_was_not_offered(
    drawn: PacedWorld,
) -> None:
    core = drawn.core()
    offered = {*drawn.pacing.sizes, drawn.world.budget, drawn.pacing.gains.most_tokens}
    while not core.is_done:
        assert step_budget(core.state) in offered
        core.step()
        core.commit()


@slow
@given(paced_worlds())
def test_every_token_is_computed_once_unless_thrown_out(drawn: PacedWorld) -> None:
    rows = list(steps(drawn.core()))
    total = {name: sum(row[name] for row in rows) for name in rows[0]}
    if total["preempted"] == 0:
        prompts = sum(map(len, drawn.world.prompts))
        assert total["prefill_tokens"] == prompts - total["hit_tokens"]
        assert total["decode_requests"] == sum(d - 1 for d in drawn.world.outputs)
    assert total["sampled_tokens"] >= sum(drawn.world.outputs)


def test_nothing_is_thrown_out_where_memory_is_ample() -> None:
    rows = list(steps(AMPLE.core()))
    assert sum(row["preempted"] for row in rows) == 0
    assert sum(row["prefill_tokens"] for row in rows) == 84
    assert sum(row["decode_requests"] for row in rows) == 123


@slow
@given(paced_worlds())
def test_reads_left_are_those_of_the_true_lengths_less_what_was_read(drawn: PacedWorld) -> None:
    core = drawn.core()
    read = sum(row["context_tokens"] for row in steps(core))
    prompt = np.array([len(p) for p in drawn.world.prompts])
    whole = expected_reads(prompt, np.array(drawn.world.outputs), 1.0).sum()
    assert record_of(core).reads_left == pytest.approx(whole - read, abs=1e-6)


@slow
@given(paced_worlds())
def test_tokens_left_at_the_end_are_what_sharing_fell_short_of(drawn: PacedWorld) -> None:
    core = drawn.core()
    at_first = record_of(core).tokens_left
    prompts = sum(map(len, drawn.world.prompts))
    saved = prompts + sum(e - 1 for e in drawn.world.estimates) - at_first
    hits = sum(row["hit_tokens"] for row in steps(core))
    assert record_of(core).tokens_left == pytest.approx(hits - saved)


@slow
@given(paced_worlds())
def test_at_the_end_nobody_is_a_member_and_nobody_waits_to_read(drawn: PacedWorld) -> None:
    core = drawn.core()
    for _ in steps(core):
        pass
    kinds = core.state.pace[0].kinds
    assert not core.state.requests.is_member.any()
    for name in ("running", "held_base"):
        assert not kinds[name].any(), name
    for name in ("mean_sum", "rate_sum", "rate_base", "waiting_reads"):
        assert kinds[name] == pytest.approx(0.0, abs=1e-6), name


@slow
@given(paced_worlds())
def test_kinds_count_exactly_the_members(drawn: PacedWorld) -> None:
    """Every sum over members, anew from the requests, and who they are."""
    core = drawn.core()
    requests = core.state.requests
    for _ in steps(core):
        running = np.isin(requests.status, (PREFILLING, DECODING))
        unknown = ~np.array(drawn.visible) & (requests.side == RIGHT)
        assert requests.is_member[running].tolist() == unknown[running].tolist()
        for i, kind in enumerate(core.state.pace[0].kinds):
            mine = requests[(requests.is_member == 1) & (requests.kind == i)]
            assert kind.running == len(mine)
            assert kind.held_base == mine.end_base.sum()
            assert kind.mean_sum == pytest.approx(mine.estimate.sum())
            assert kind.rate_sum == pytest.approx((1.0 / mine.estimate).sum())
            assert kind.rate_base == pytest.approx(
                (mine.rate_start / mine.estimate).sum(), abs=1e-9
            )


@slow
@given(paced_worlds())
def test_unknown_lengths_are_forecast_as_the_formula_says(drawn: PacedWorld) -> None:
    core = drawn.core()
    for _ in steps(core):
        for ahead in (0, 3, 50):
            assert unknown_tokens(core.state, ahead) == pytest.approx(
                slow_unknown_tokens(core, drawn, ahead), rel=1e-9, abs=1e-9
            )


def slow_unknown_tokens(core: ServingCore, drawn: PacedWorld, ahead: int) -> float:
    """Σ over kinds of (n·q + z·√(2·n·q·(1 − q)), n at most)·(C/n + u), member by member."""
    requests = core.state.requests
    step = int(core.state.scalars[0].step)
    total = 0.0
    for i in range(max(drawn.source) + 1):
        members = requests[(requests.is_member == 1) & (requests.kind == i)]
        n = len(members)
        if n == 0:
            continue
        factor = correction(core.state, i)
        age = np.mean([(step - int(m.rate_start)) / m.estimate for m in members]) / factor
        aged = max(1.0, drawn.pacing.spread[i] / 2)
        life = 1.0 + (aged - 1.0) * min(1.0, age / aged)
        mean = factor * life * members.estimate.mean()
        held = sum(int(m.end_base) + step for m in members)
        q = np.exp(-ahead / mean)
        number = n * q + drawn.pacing.gains.caution * np.sqrt(2 * n * q * (1 - q))
        total += min(number, n) * (held / n + ahead)
    return float(total)


#: Two sources; of the first two lengths are visible, of the second none. All enter from the right.
UNKNOWN = PacedWorld(
    World(
        prompts=((1,) * 6, (2,) * 5, (3,) * 4, (4,) * 3, (5,) * 2),
        outputs=(3, 3, 8, 5, 12),
        estimates=(3, 3, 4, 10, 10),
        densities=(0.5, 0.4, 0.3, 0.2, 0.1),
        capacity=400,
        block=1,
        budget=32,
        max_running=32,
        dual=True,
    ),
    AMPLE.pacing,
    (True, True, False, False, False),
    (0, 0, 0, 1, 1),
)


def test_means_are_corrected_by_what_was_generated_over_what_ended() -> None:
    """Prior, then members one by one: generated in units of the mean over ends, as written out."""
    core = UNKNOWN.core()
    assert correction(core.state, 0) == correction(core.state, 1) == 1.0
    for _ in steps(core):
        pass
    # the first source: two visible ends, and one of 8 tokens where 4 were expected
    assert correction(core.state, 0) == pytest.approx((2 + 8 / 4) / (2 + 1))
    # the second: a prior of one, and ends after 5 and 12 tokens of 10
    assert correction(core.state, 1) == pytest.approx((1 + 5 / 10 + 12 / 10) / (1 + 2))


def test_members_that_run_count_with_what_they_have_generated() -> None:
    core = UNKNOWN.core()
    for _ in range(4):
        core.step()
        core.commit()
    requests, step = core.state.requests, int(core.state.scalars[0].step)
    assert requests.is_member.tolist() == [0, 0, 1, 1, 1]
    assert requests.rate_start.tolist()[2:] == [0, 0, 0]
    assert correction(core.state, 1) == pytest.approx((1 + step / 10 + step / 10) / (1 + 0))


def entered(core: ServingCore) -> list[int]:
    """Requests in the order in which they begin."""
    seen: list[int] = []
    while not core.is_done:
        core.step()
        seen += [row for row, computed, _ in triples(core) if computed == 0 and row not in seen]
        core.commit()
    return seen


def test_longest_expected_output_enters_first_and_the_dense_end_fills_the_rest() -> None:
    """One prompt a step: the budget is spent by then. The dense end's longest is its first to fill,
    and then it holds its share.
    """
    world = replace(AMPLE.world, prompts=tuple((k,) * 40 for k in range(6)), budget=32)
    drawn = AMPLE._replace(world=world)
    assert entered(drawn.core()) == [5, 4, 3, 2, 0, 1]
    tight = drawn._replace(world=replace(world, capacity=100))
    assert entered(tight.core())[:2] == [5, 2]


def test_the_sampled_requests_enter_in_order_before_all_others() -> None:
    drawn = AMPLE._replace(
        world=replace(AMPLE.world, prompts=tuple((k,) * 40 for k in range(6)), first=2)
    )
    core = drawn.core()
    assert entered(core) == [0, 1, 5, 4, 3, 2]


def test_while_sampled_requests_wait_steps_are_full() -> None:
    """All others wait for them. Then steps have the sizes that were reckoned, and owe nothing for
    the larger ones before.
    """
    world = replace(AMPLE.world, prompts=tuple((k,) * 400 for k in range(6)), capacity=10_000)
    core = AMPLE._replace(world=replace(world, outputs=(90,) * 6, first=3)).core()
    record_of(core).next_look = 1 << 40  # of its own it would not reckon sizes so small
    core.state.pace[0].table[:] = (4, 8, 6)
    done, credit = [], []
    while not core.is_done:
        core.step()
        core.commit()
        done.append(core.counts())
        credit.append(float(record_of(core).credit))
    alone = [row["running"] < 3 for row in done]  # the third one has not entered
    last = alone.index(False)
    assert last > 20
    assert all(alone[:last])
    tokens = [row["prefill_tokens"] + row["decode_requests"] for row in done]
    assert tokens[:last] == [world.budget] * last
    assert set(tokens[last + 1 : last + 40]) == {4, 8}
    assert credit[: last + 1] == [0.0] * (last + 1)


def test_a_plan_without_pacing_has_no_pace_and_spends_the_whole_budget() -> None:
    core = core_of(AMPLE.world)
    assert core.state.pace == ()
    assert next(iter(steps(core)))["prefill_tokens"] == AMPLE.world.budget


@pytest.mark.parametrize("kept", [0.0, 1e9])
def test_a_long_one_that_waits_to_come_back_does_not_keep_the_dense_end_out(
    kept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room beside what is kept for the left it waits, and the left goes on. Steps are as
    large as run well, so that all of the left is in before the others end.
    """
    monkeypatch.setattr(
        pacing, "least_size", lambda pace, even, memory: int(pace.sizes[pace.efficient])
    )
    core = AMPLE.core()
    core.step()
    core.commit()
    requests, s = core.state.requests, core.state.scalars[0]
    assert requests.status[5] == DECODING
    s.opened = 0
    batcher.preempt(core.state, 5)
    record_of(core).left_room = kept
    waits = []
    while s.front <= s.back:
        core.step()
        waits.append(requests.status[5] == WAITING)
        core.commit()
    assert len(waits) > 3
    assert waits[:-1] == [kept > 0.0] * (len(waits) - 1)
    assert not requests.was_preempted[3:5].any()
    assert requests.status[3:5].tolist() == [DECODING] * 2  # nobody had to end for it


def left_of(drawn: PacedWorld, core: ServingCore) -> np.ndarray:
    """(n,), who is of the compute-heavy end: who is more than twice as dense as the pool, and, of
    unknown length, denser than it but for rounding.
    """
    root = float(core.state.scalars[0].root_density)
    least = [2.0 if visible else 1.0 + 1e-9 for visible in drawn.visible]
    return np.asarray(core.state.density > root * np.array(least))


@slow
@given(paced_worlds())
def test_what_the_dense_end_has_still_to_hold_is_that_of_those_who_have_not_entered(
    drawn: PacedWorld,
) -> None:
    core = drawn.core()
    requests = core.state.requests
    is_left = left_of(drawn, core)
    hold = np.array([pacing.hold_of(core.state, k) for k in range(len(requests))])
    square = hold**2 / requests.estimate
    for _ in steps(core):
        waits = is_left & (requests.status == WAITING) & (requests.was_preempted == 0)
        p = record_of(core)
        assert p.hold_left == pytest.approx(hold[waits].sum(), abs=1e-6 * (1 + hold.sum()))
        assert p.square_left == pytest.approx(square[waits].sum(), abs=1e-6 * (1 + square.sum()))


@slow
@given(paced_worlds())
def test_everybody_runs_on_the_side_of_its_density(drawn: PacedWorld) -> None:
    core = drawn.core()
    requests = core.state.requests
    is_left = left_of(drawn, core)
    for _ in steps(core):
        running = np.isin(requests.status, (PREFILLING, DECODING))
        assert ((requests.side == LEFT) == is_left)[running].all()


def test_who_has_least_to_lose_is_thrown_out_first() -> None:
    """Estimates half of what comes, so that blocks run out: the newest of the dense end goes,
    though newer ones run.
    """
    world = World(
        prompts=((1,) * 6, (2,) * 6, (3,) * 2, (4,) * 2),
        outputs=(20, 20, 20, 20),
        estimates=(10, 10, 10, 10),
        densities=(4.0, 3.0, 0.2, 0.1),
        capacity=50,
        block=1,
        budget=32,
        max_running=8,
        dual=True,
        first=2,
    )
    gains = Gains(left_room=0.0, caution=0.0)
    drawn = PacedWorld(world, replace(AMPLE.pacing, gains=gains), (False,) * 4, (0,) * 4)
    core = drawn.core()
    requests = core.state.requests
    while not requests.was_preempted.any():
        core.step()
        sides = requests.side.tolist()
        core.commit()
    assert sides == [LEFT, LEFT, RIGHT, RIGHT]
    assert requests.was_preempted.tolist() == [0, 1, 0, 0]
