"""How small a paced step may be: as small as runs well, or as all steps could be."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pacing_worlds import AMPLE, MACHINE, PacedWorld, record_of
from serving_worlds import steps

from blendsim.pacing import Gains
from blendsim.serving import pacing as pacing_module
from blendsim.serving import remaining
from blendsim.serving.core import ServingCore

pytestmark = pytest.mark.usefixtures("plain_throughout")


def least(gains: Gains, even: float, memory: float = 0.0, **machine: Any) -> int:
    """The floor of a machine as MACHINE is, but for its `machine` and `gains`."""
    pacing = replace(AMPLE.pacing, gains=gains, **machine)
    pace = AMPLE._replace(pacing=pacing).core().state.pace[0]
    return int(pacing_module.least_size(pace, even, memory))


def test_smallest_step_has_the_asked_share_of_the_best_rate() -> None:
    for efficiency, size in ((0.0, 1), (0.5, 4), (0.85, 8), (1.0, 16)):
        gains = replace(AMPLE.pacing.gains, efficiency=efficiency)
        assert least(gains, 1e9) == size


def test_a_step_may_be_as_small_as_even_steps_are() -> None:
    """The floor is the largest size above neither what runs well nor the even tokens."""
    gains = AMPLE.pacing.gains
    below = [1, 2, 4, 8]
    assert [least(gains, n) for n in below] == below
    assert [least(gains, n + 0.5) for n in below] == below
    assert [least(gains, n - 0.5) for n in below] == [0, *below[:-1]]


def test_where_others_by_turns_are_faster_the_next_size_is_the_floor() -> None:
    """Two steps of 4 tokens, in 4 s each, and one of 16, in 8.5, compute 24: 5.5 s for 8 of them,
    where a step of 8 takes 5.7 here, and 7 for 12, where one takes 8.
    """
    seconds = tuple(
        5.7 if n == 8 else c for n, c in zip(MACHINE.sizes, MACHINE.seconds, strict=True)
    )
    for slack, expected in ((0.0, [4, 16, 16, 16]), (0.05, [4, 8, 16, 16]), (0.2, [4, 8, 12, 16])):
        gains = replace(AMPLE.pacing.gains, slack=slack, efficiency=1.0)
        found = [least(gains, even, seconds=seconds) for even in (4, 8, 12, 1e9)]
        assert found == expected


def test_beside_reads_others_by_turns_gain_less() -> None:
    """MACHINE's f(c, m) is max of c + m/2 and 0.3·c + m: beside reads of 2 s steps of 4, 8 and 16
    tokens take 5, 8 and 9.5 s where one of 8 takes 7 alone, beside such of 20 s 21.2, 22.1 and
    22.55: by turns 6.5 for 8 and 21.65.
    """
    seconds = tuple(
        7.0 if n == 8 else c for n, c in zip(MACHINE.sizes, MACHINE.seconds, strict=True)
    )
    gains = replace(AMPLE.pacing.gains, efficiency=1.0)
    assert [least(gains, 8, memory, seconds=seconds) for memory in (0.0, 2.0, 20.0)] == [16, 16, 8]


def test_the_floor_is_asked_for_even_steps_beside_even_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The longest of AMPLE takes 50 steps, the last 4 of which may compute no prompts: 46 for its
    84 + 123 tokens, and for what the left (229.5) and the right (2840) read at 0.1 s.
    """
    core, asked = AMPLE.core(), []
    record_of(core).most_held = 1e9
    monkeypatch.setattr(
        pacing_module, "least_size", lambda _, even, memory: asked.append((even, memory)) or 0
    )
    pacing_module.look(core.state)
    assert asked == [
        pytest.approx((207 / 50, 306.95 / 50)),  # whether even steps over the longest run well
        pytest.approx((207 / 46, 306.95 / 46)),
    ]


@pytest.mark.parametrize(("tokens", "share"), [(30, 0.0), (40, 0.0), (100, 0.5), (200, 1.0)])
def test_steps_lie_between_the_sizes_that_are_worth_about_the_price(
    tokens: int, share: float
) -> None:
    """Of MACHINE a token is worth 0.25 s from 4 to 8 tokens and 0.4375 s from 8 to 16: half of 0.3
    pays for steps of 4, and one and a half times as much for steps of 16. Ten are ahead.
    """
    core = AMPLE.core()
    record_of(core).slack = 0.5
    ahead = np.array([[10.0, 0.0]])
    assert pacing_module.share_at(core.state.pace[0], ahead, tokens, 0.3) == share


def test_there_are_as_many_steps_for_compute_as_full_ones_or_a_visible_length_takes() -> None:
    """Less the longest answer of the compute-heavy end, 4 tokens here."""
    core = AMPLE.core()
    p, s = record_of(core), core.state.scalars[0]
    assert p.left_longest == 4
    longest = float(core.state.requests.expected[core.state.queue[s.back]])
    assert longest == 50.0
    assert remaining.steps_for_compute(core.state, 0.0) == 46.0
    assert remaining.steps_for_compute(core.state, 90.0) == 86.0
    p.left_longest = 1_000
    assert remaining.steps_for_compute(core.state, 0.0) == 1.0


def test_beside_full_steps_only_a_visible_length_makes_steps_for_compute() -> None:
    hidden = AMPLE._replace(visible=(True,) * 5 + (False,)).core()
    assert remaining.steps_for_compute(hidden.state, 0.0) == 1.0
    assert remaining.longest_left(hidden.state) > 1.0


def test_where_one_answer_takes_most_steps_what_is_computed_is_spread_over_them() -> None:
    """Steps as large as run well would have computed all prompts in an eighth of its 400."""
    world = replace(
        AMPLE.world,
        prompts=tuple((k,) * 20 for k in range(20)),
        outputs=(*[2] * 19, 400),
        estimates=(*[2] * 19, 400),
        densities=(*[9.0] * 19, 0.1),
        capacity=1_000,
    )
    drawn = PacedWorld(world, AMPLE.pacing, (True,) * 20, (0,) * 20)

    def last_prompt(core: ServingCore) -> int:
        return max(step for step, counts in enumerate(steps(core)) if counts["prefill_requests"])

    core = drawn.core()
    record_of(core).left_longest = 1_000
    assert last_prompt(core) < 60  # of 8 tokens
    assert last_prompt(drawn.core()) > 120  # of 4, which take as long as 1
