"""Dual scan: both ends of the plan, their memory shares, and who changes sides."""

from dataclasses import replace
from itertools import pairwise

import pytest
from oracle_serving import World
from serving_worlds import core_of, steps, triples

from blendsim.serving.sides import left_share


def ladder(n: int, **changes: object) -> World:
    """n requests of 9 + 2 tokens that each count with 10, the first half dense; blocks of 1."""
    world = World(
        prompts=tuple((k,) * 9 for k in range(n)),
        outputs=(2,) * n,
        estimates=(2,) * n,
        densities=(2.0,) * (n // 2) + (0.0,) * (n - n // 2),
        root_density=1.0,
        capacity=100,
        block=1,
        budget=200,
        max_running=50,
        predicted_peak=False,
        dual=True,
    )
    return replace(world, **changes)  # type: ignore[arg-type]


def first_step(world: World) -> tuple[list[int], int, int]:
    """Who enters in the first step, in order of admission, and what the two sides then hold."""
    core = core_of(world)
    core.step()
    counts = core.counts()
    return core.scheduled().rows.tolist(), counts["left_tokens"], counts["right_tokens"]


def test_requests_enter_from_both_ends_in_turn() -> None:
    assert first_step(ladder(6)) == ([0, 5, 1, 4, 2, 3], 30, 30)


def test_in_order_requests_enter_as_listed_and_count_on_the_left() -> None:
    assert first_step(ladder(6, dual=False)) == ([0, 1, 2, 3, 4, 5], 60, 0)


@pytest.mark.parametrize(
    ("root", "left", "right"), [(0.5, 2, 7), (1.5, 7, 2), (0.0, 1, 10), (9.0, 10, 1)]
)
def test_a_side_that_holds_its_share_waits(root: float, left: int, right: int) -> None:
    """100 tokens: ρ 2 and 0 at the ends and ρ_root of all give the left ρ_root/2 of them."""
    world = ladder(40, root_density=root, capacity=100)
    entered, left_tokens, right_tokens = first_step(world)
    # A side whose share is 0 still takes one request, as it holds nothing; 11 prompts of 9 fit.
    assert (left_tokens, right_tokens) == (10 * left, 10 * right)
    assert sorted(entered) == [*range(left), *range(40 - right, 40)]


def test_a_side_that_holds_nothing_takes_a_request_beyond_its_share() -> None:
    world = ladder(3, root_density=0.2, prompts=((0,) * 30, (1,) * 9, (2,) * 9))
    entered, left_tokens, right_tokens = first_step(replace(world, densities=(2.0, 0.0, 0.0)))
    assert (entered, left_tokens, right_tokens) == ([0, 2, 1], 31, 20)


def test_shares_are_the_papers_example() -> None:
    """60 GB, ρ_L = 3.73, ρ_R = 0.096, ρ_root = 1.27 → 19.38 and 40.62 GB (paper, Figure 6)."""
    core = core_of(ladder(2, densities=(3.73, 0.096), root_density=1.27, capacity=60_000))
    share = left_share(core.state) / 1_000
    assert (round(share, 2), round(60 - share, 2)) == (19.38, 40.62)


@pytest.mark.parametrize(
    ("densities", "root", "expected"),
    [((2.0, 1.0), 0.5, 0), ((2.0, 1.0), 3.0, 100), ((1.0, 1.0), 3.0, 50)],
)
def test_shares_are_clamped_and_equal_when_the_ends_are(
    densities: tuple[float, float], root: float, expected: int
) -> None:
    core = core_of(ladder(2, densities=densities, root_density=root))
    assert left_share(core.state) == expected


def test_while_sampled_requests_enter_shares_are_those_of_the_rest() -> None:
    world = ladder(6, first=2, densities=(0.0, 0.0, 2.0, 2.0, 0.0, 0.0), root_density=0.5)
    assert left_share(core_of(world).state) == 25


def test_shares_are_equal_once_the_pointers_have_met() -> None:
    core = core_of(ladder(4, root_density=0.1))
    core.step()
    assert left_share(core.state) == 50


def test_held_prefixes_are_taken_off_before_memory_is_shared() -> None:
    heads = tuple((0,) * 4 + (k,) * 5 for k in range(1, 41))
    core = core_of(ladder(40, prompts=heads))
    assert left_share(core.state) == 50
    core.step()
    assert left_share(core.state) == (100 - 4) / 2


def test_sampled_requests_run_first_and_count_where_their_density_belongs() -> None:
    world = ladder(6, first=3, densities=(0.5, 1.0, 3.0, 2.0, 1.0, 0.0))
    assert first_step(world) == ([0, 1, 2, 5, 4, 3], 30, 30)
    alone = first_step(replace(world, max_running=3))
    assert alone == ([0, 1, 2], 20, 10)


def sides_by_step(world: World) -> list[tuple[bool, bool]]:
    return [(row["left_tokens"] > 0, row["right_tokens"] > 0) for row in steps(core_of(world))][:-1]


def test_left_request_twice_past_its_estimate_moves_to_the_right() -> None:
    """Time leaves its bucket at steps 3 and 5; at step 5 it has 5 ≥ 2·2 tokens."""
    world = ladder(1, outputs=(8,))
    assert sides_by_step(world) == [(True, False)] * 5 + [(False, True)] * 2


def test_in_order_nobody_changes_sides() -> None:
    assert sides_by_step(ladder(1, outputs=(8,), dual=False)) == [(True, False)] * 7


def test_victim_is_the_newest_of_the_side_over_its_share() -> None:
    """Three requests from the left, one from the right; when memory is full, the left pays."""
    world = ladder(
        4,
        prompts=((0,) * 9, (1,) * 9, (2,) * 9, (3,) * 9),
        outputs=(9,) * 4,
        estimates=(1,) * 4,
        densities=(2.0, 2.0, 2.0, 0.0),
        root_density=1.9,
        capacity=44,
    )
    core = core_of(world)
    present = []
    while not core.is_done:
        core.step()
        present.append({k for k, _, _ in triples(core)})
        core.commit()
    before, after = next((a, b) for a, b in pairwise(present) if a - b)
    assert before == {0, 1, 2, 3}
    assert before - after == {2}


def test_victim_is_on_the_left_when_both_sides_are_equally_over() -> None:
    rows = list(steps(core_of(ladder(2, outputs=(16, 16), estimates=(16, 16), capacity=34))))
    row = next(row for row in rows if row["preempted"])
    assert (row["left_tokens"], row["right_tokens"]) == (0, 17)


def test_preempted_request_returns_to_its_side() -> None:
    world = ladder(2, outputs=(16, 25), estimates=(16, 25), capacity=34)
    rows = list(steps(core_of(world)))
    out = next(k for k, row in enumerate(rows) if row["preempted"])
    back = next(k for k, row in enumerate(rows) if k and row["admitted"])
    reserved = [(row["left_tokens"], row["right_tokens"]) for row in rows]
    assert reserved[:out] == [(17, 21)] * out
    assert reserved[out:back] == [(17, 0)] * (back - out)
    # Request 1 has 9 tokens by then: it counts with them and half of the 16 it still owes.
    assert reserved[back] == (0, 9 + 9 + 8)
