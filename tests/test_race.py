"""The course of a search, on made-up seconds: what is tried, in which order, and when it ends."""

from collections.abc import Callable

import pytest

from blendsim.planner.blend import BlendSettings
from blendsim.search import race as race_module
from blendsim.search.race import Finish, Heat, _better_half, best_of, race
from blendsim.search.space import Axis, Point, Schedule, Space
from blendsim.settings import Settings

BASE = Schedule("fcfs", BlendSettings(), Settings())
POLICIES = ("fcfs", "random", "dfs", "blend")


def space(sizes: tuple[int, ...] = (9, 9, 9)) -> Space:
    """Four policies and three ordered axes that mean something for `blend` alone."""
    first = Axis(
        "policy", POLICIES, 3, lambda s, v: s._replace(policy=v), lambda _: True, is_ordered=False
    )
    others = [
        Axis(f"axis {k}", tuple(range(n)), 0, lambda s, _: s, lambda s: s.policy == "blend")
        for k, n in enumerate(sizes)
    ]
    return Space([first, *others], BASE)


def bowl(point: Point) -> float:
    """Least at (blend, 5, 2, 7)."""
    if point[0] != 3:
        return 1_000.0 + point[0]
    return 100.0 + sum((a - b) ** 2 for a, b in zip(point[1:], (5, 2, 7), strict=True))


class Judge:
    """Seconds of a made-up objective; remembers what it was asked."""

    def __init__(self, seconds: Callable[[Point], float] = bowl) -> None:
        self._seconds = seconds
        self.asked: list[Heat] = []

    def __call__(self, heats: list[Heat]) -> list[float]:
        self.asked += heats
        return [self._seconds(heat.point) + 1_000.0 * heat.level for heat in heats]


def raced(most: int, levels: int = 1, seed: int = 0) -> list[Finish]:
    return race(space(), levels, seed, most, Judge())


def test_every_fixed_policy_runs_however_few_runs_are_allowed() -> None:
    points = [run.heat.point for run in raced(1)]
    assert points == space().fixed()
    assert [point[0] for point in points] == [0, 1, 2, 3]


def test_shorter_search_is_the_beginning_of_a_longer_one() -> None:
    assert raced(50, levels=3) == raced(90, levels=3)[:50]


def test_seed_decides_where_points_are_scattered() -> None:
    assert raced(30, seed=1) == raced(30, seed=1)
    assert raced(30, seed=1) != raced(30, seed=2)


def test_no_heat_is_run_twice() -> None:
    heats = [run.heat for run in raced(120, levels=2)]
    assert len(heats) == len(set(heats)) == 120


def test_late_search_ends_after_its_batch_and_can_be_repeated() -> None:
    asked: list[int] = []

    def late() -> bool:
        asked.append(1)
        return len(asked) == 5

    stopped = race(space(), 1, 0, 1 << 40, Judge(), late)
    assert len(asked) == 5
    assert stopped == raced(len(stopped))


def test_the_walk_reaches_the_bottom_of_a_bowl() -> None:
    best = best_of(raced(120))
    assert best.heat.point == (3, 5, 2, 7)
    assert best.seconds == 100.0


def test_small_pools_sort_out_what_runs_on_larger_ones() -> None:
    runs = raced(26, levels=3)
    small, middle = ([run for run in runs if run.heat.level == level] for level in (2, 1))
    best = sorted(small, key=lambda run: run.seconds)[: len(middle)]
    assert 4 * len(middle) <= len(small) <= 32
    assert [run.heat.point for run in middle] == [run.heat.point for run in best]


def test_only_the_better_half_of_the_policies_is_scattered() -> None:
    runs = raced(18, levels=2)
    assert any(run.heat.level == 1 for run in runs)
    assert {run.heat.point[0] for run in runs if run.heat.level == 1} <= {0, 3}


def test_of_three_policies_two_are_the_better_half() -> None:
    known = {Heat((k,), 0): seconds for k, seconds in enumerate((3.0, 9.0, 5.0))}
    assert _better_half(list(known), known) == [0, 2]


def test_the_best_is_judged_on_the_whole_pool_alone() -> None:
    runs = [Finish(Heat((0,), 1), 1.0), Finish(Heat((1,), 0), 3.0), Finish(Heat((2,), 0), 3.0)]
    assert best_of(runs) == runs[1]


def test_exhausted_space_ends_the_search() -> None:
    runs = race(space((2,)), 1, 0, 1 << 40, Judge(lambda point: -float(sum(point))))
    assert len(runs) == 5  # four policies, and blend at its other value


def test_progress_hears_of_every_batch() -> None:
    heard: list[int] = []
    race(space(), 1, 0, 20, Judge(), say=lambda runs: heard.append(len(runs)))
    assert heard == sorted(heard)
    assert heard[0] == 4
    assert heard[-1] == 20


@pytest.mark.parametrize("most", [4, 17, 63])
def test_number_of_runs_is_what_was_asked_for(most: int) -> None:
    judge = Judge()
    assert len(race(space(), 2, 0, most, judge)) == len(judge.asked) == most


def test_walk_runs_on_the_whole_only_what_a_smaller_pool_finds_no_slower() -> None:
    judge = Judge()
    runs = race(space(), 2, 0, 110, judge)
    assert best_of(runs).heat.point == (3, 5, 2, 7)
    small = {run.heat.point for run in runs if run.heat.level == 1}
    fixed = set(space().fixed())
    assert {run.heat.point for run in runs if run.heat.level == 0} - fixed <= small
    assert sum(run.heat.level == 0 for run in runs) < len(runs) / 2


def test_walk_goes_on_where_a_smaller_pool_finds_no_difference() -> None:
    """A bowl on the whole pool alone."""

    def seconds(heats: list[Heat]) -> list[float]:
        return [bowl(heat.point) if heat.level == 0 else 50.0 for heat in heats]

    assert best_of(race(space(), 2, 0, 100, seconds)).heat.point == (3, 5, 2, 7)


def test_every_lap_walks_however_many_runs_were_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer runs than the fixed policies and the scattered points are, and enough for the bowl."""
    monkeypatch.setattr(race_module, "WALKED", 8)
    assert best_of(raced(60)).heat.point == (3, 5, 2, 7)
