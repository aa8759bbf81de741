"""The table of parameters: what is searched, and that a point's schedule is what it says."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from blendsim import search
from blendsim.planner.blend import BlendSettings
from blendsim.planner.make import OVERLAPPED, PACED
from blendsim.request import from_lengths
from blendsim.search.problem import with_settings
from blendsim.search.space import Point, Schedule, Space, axes_of, plain
from blendsim.search.trial import find_engine
from blendsim.serving.knobs import Knobs


def problem(**settings: object) -> search.Problem:
    workload = from_lengths([300] * 40, [20] * 40)
    return search.prepare(workload, search.Settings(**settings))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def usual() -> Space:
    made = problem()
    return Space(axes_of(made), plain(made))


def names(**settings: object) -> list[str]:
    return [axis.name for axis in axes_of(problem(**settings))]


def moved(space: Space, point: Point, **values: object) -> Point:
    """The point with other values on the named axes."""
    at = list(point)
    for k, axis in enumerate(space.axes):
        if (name := axis.name.replace(" ", "_")) in values:
            at[k] = axis.values.index(values[name])
    return space.tidy(at)


def test_fixed_points_are_the_policies_as_plan_runs_them(usual: Space) -> None:
    made = problem()
    for point, policy in zip(usual.fixed(), OVERLAPPED, strict=True):
        schedule = usual.schedule(point)
        assert schedule.policy == policy
        assert schedule.blend == BlendSettings()
        scene = made._replace(settings=schedule.settings)
        assert find_engine(scene, "nanoflow") == find_engine(made, "nanoflow")


def test_every_value_of_every_axis_makes_a_schedule_that_can_run(usual: Space) -> None:
    made = problem()
    for k, axis in enumerate(usual.axes):
        for at, point in product(range(len(axis.values)), usual.fixed()[3:]):
            schedule = usual.schedule((*point[:k], at, *point[k + 1 :]))
            find_engine(made._replace(settings=schedule.settings), "nanoflow")
            search.plan_policy(made, schedule.policy, schedule.blend).check()


def test_only_the_blended_policies_order_by_density() -> None:
    base = plain(problem())
    blended = [policy for policy in OVERLAPPED if base._replace(policy=policy).is_blended]
    assert blended == ["blend", PACED]
    assert not base._replace(policy="one that is in order, and new").is_blended


def test_axes_that_mean_nothing_stay_at_their_defaults(usual: Space) -> None:
    dfs = usual.fixed()[2]
    assert moved(usual, dfs, merge_size=1, output_reserved=1.0) == dfs
    assert moved(usual, dfs, token_budget=512) != dfs


def test_reservation_means_nothing_where_one_end_alone_is_taken(usual: Space) -> None:
    blend = usual.fixed()[3]
    one_end = moved(usual, blend, ends="memory")
    assert moved(usual, one_end, output_reserved=1.0) == one_end
    assert moved(usual, blend, output_reserved=1.0) != blend


def test_what_the_user_fixed_is_no_axis() -> None:
    assert {"token budget", "eviction", "output reserved"} <= set(names())
    assert "token budget" not in names(token_budget=1_024)
    assert "eviction" not in names(eviction="lru")
    assert "output reserved" not in names(output_reserved=0.25)


def test_what_an_engine_does_not_model_is_no_axis() -> None:
    assert "eviction" not in names(engine="sglang")
    assert "eviction" not in names(engine="vllm")


def test_budgets_end_where_the_profile_does() -> None:
    made = problem()
    model = replace(made.model, coverage=replace(made.model.coverage, tokens=2_048))
    axis = next(a for a in axes_of(made._replace(model=model)) if a.name == "token budget")
    assert max(axis.values) == 2_048


def test_no_budget_is_below_the_requests_that_run_at_once() -> None:
    made = problem(engine="vllm", knobs=Knobs(max_num_active_seqs=600))
    space = Space(axes_of(made), plain(made))
    axis = next(axis for axis in space.axes if axis.name == "token budget")
    assert min(axis.values) == 640
    for at in range(len(axis.values)):
        schedule = axis.put(space.base, axis.values[at])
        assert with_settings(made, schedule.settings).settings.flavour().most_running == 600


def test_neighbours_of_an_ordered_axis_are_a_step_away(usual: Space) -> None:
    blend, k = usual.fixed()[3], 5
    assert usual.axes[k].name == "merge size"
    values = [usual.axes[k].values[p[k]] for p in usual.neighbours(blend, k, 2)]
    assert values == [16, 256]


def test_neighbours_of_a_choice_are_all_others(usual: Space) -> None:
    assert len(usual.neighbours(usual.fixed()[0], 0, 1)) == len(OVERLAPPED) - 1


def test_cube_holds_only_the_policies_asked_for(usual: Space) -> None:
    rng = np.random.default_rng(0)
    places = [usual.at(rng.random(len(usual.axes)), [1, 3]) for _ in range(50)]
    assert {place[0] for place in places} == {1, 3}


def test_told_are_the_values_that_matter(usual: Space) -> None:
    assert usual.told(usual.fixed()[0]) == {
        "policy": "fcfs",
        "token budget": 2_048,
        "eviction": "lru",
    }


def test_what_is_told_takes_one_schedule(usual: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    made, asked, blend = usual.schedule, [], usual.fixed()[3]

    def counted(_: Space, point: Point) -> Schedule:
        asked.append(point)
        return made(point)

    monkeypatch.setattr(Space, "schedule", counted)
    assert usual.told(blend)["policy"] == "blend"
    assert asked == [blend]
