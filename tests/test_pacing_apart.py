"""Answers of the memory-heavy end that would end together enter one after another."""

from dataclasses import replace
from math import floor

import pytest
from hypothesis import HealthCheck, given, settings
from oracle_serving import World
from pacing_worlds import MACHINE, PacedWorld, paced_worlds, record_of
from serving_worlds import steps

from blendsim.serving import forecast, paced_line, sides
from blendsim.serving.core import ServingCore
from blendsim.serving.paced_line import ALIKE, TURNS
from blendsim.serving.state import BUCKETS, NONE, RIGHT, WAITING

LENGTH = 200


pytestmark = pytest.mark.usefixtures("plain_throughout")


def alike(crowd: float, outputs: tuple[int, ...] = (LENGTH,) * 60, sampled: int = 0) -> ServingCore:
    """Light requests, by themselves of one length, in memory for eleven of them at their ends."""
    n = len(outputs)
    world = World(
        prompts=tuple((k,) for k in range(n)),
        outputs=outputs,
        estimates=outputs,
        densities=(0.5,) * n,
        root_density=1.0,
        capacity=11 * (LENGTH + 4),
        block=1,
        budget=64,
        max_running=60,
        dual=True,
        first=sampled,
    )
    gains = replace(MACHINE.gains, crowd=crowd, left_room=0.0)
    pacing = replace(MACHINE, gains=gains)
    return PacedWorld(world, pacing, (True,) * n, (0,) * n).core()


def run(core: ServingCore) -> tuple[list[int], list[int]]:
    """How many ended in every step, and the tokens held."""
    rows = list(steps(core))
    return [row["finished"] for row in rows], [row["held_blocks"] for row in rows]


def most_within(ended: list[int], steps: int) -> int:
    """The most that ended in so many steps on end."""
    return max(sum(ended[at : at + steps]) for at in range(len(ended)))


def test_answers_of_one_length_end_apart_and_fill_the_cache_better() -> None:
    together, held_before = run(alike(1e9))
    apart, held = run(alike(1.0))
    assert sum(together) == sum(apart) == 60
    assert most_within(together, 20) == 11  # all that fit end at once
    early = apart[: len(apart) // 3]  # later ones take long beside the steps left
    assert sum(early) > 11
    assert most_within(early, 20) < 8
    assert len(apart) < 0.9 * len(together)
    assert sum(held) / len(held) > 1.1 * sum(held_before) / len(held_before)


def test_answers_of_unlike_lengths_are_not_held_up() -> None:
    outputs = tuple(20 + 9 * k for k in range(40))
    free, _ = run(alike(1e9, outputs))
    apart, _ = run(alike(1.0, outputs))
    assert len(apart) <= 1.02 * len(free)


def apart_by_hand(core: ServingCore, request: int) -> bool:
    """The rule of docs/paced.md over a list of those that run."""
    state, s = core.state, core.state.scalars[0]
    if s.running == 0 or state.requests[request].kind != NONE:
        return True
    width = int(s.bucket_steps)
    end = int(forecast.expected_end(state, request))
    stays = end - int(s.step)
    if TURNS * stays > record_of(core).steps_left:
        return True
    final = int(sides.private_tokens(state, request)) + stays
    capacity = int((s.capacity - s.shared_length) * s.block_tokens)
    even = final * capacity / (final - stays / 2) / stays * width
    wide = max(1, min(ALIKE * final / even, BUCKETS / 4))
    last = min(end // width, int(s.current_bucket) + BUCKETS - 1)
    first = last + 1 - wide
    together = final / 2
    for r in state.requests:
        is_forecast = r.status != WAITING and r.side == RIGHT and r.is_member == 0
        if is_forecast and floor(first) <= r.end_bucket <= last:
            together += int(r.end_final) * min(1.0, int(r.end_bucket) + 1 - first)
    return bool(together <= record_of(core).crowd * even * wide)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(paced_worlds())
def test_who_would_end_apart_is_who_does_by_hand(drawn: PacedWorld) -> None:
    core = drawn.core()
    seen = 0
    while not core.is_done and seen < 40:
        for k, r in enumerate(core.state.requests):
            if r.status == WAITING and r.side == RIGHT:
                assert paced_line.ends_apart(core.state, k) == apart_by_hand(core, k)
                seen += 1
        core.step()
        core.commit()


def test_sampled_requests_are_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody would end apart all sampled ones enter, and then one at a time."""
    monkeypatch.setattr(paced_line, "ends_apart", lambda state, _: state.scalars[0].running == 0)
    running = [row["running"] for row in steps(alike(1.0, sampled=5))]
    assert max(running) == 5
    assert running[-1] == 1
    assert running.count(1) > 50 * LENGTH
