"""Counts from targets, and what happens where there are none."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from blendsim.errors import InputError, UnknownName
from blendsim.synth.normalise import FRAME_TOKENS, video_tokens, with_chat_mean
from blendsim.synth.recipes import RECIPES, Recipe, grid, recipe
from blendsim.synth.solver import Totals, counts, reachable_density, reached

CODE = Totals(compute=20.0, memory=1.0, prompt=2000.0, shared=5.0)
EXAM = Totals(compute=6.0, memory=0.1, prompt=700.0, shared=600.0)
FILM = Totals(compute=150.0, memory=3000.0, prompt=140.0, shared=5.0)
RATES = [CODE, EXAM, FILM]

positive = st.floats(0.01, 1000.0)
shares = st.floats(0.02, 0.95)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Totals], list[float]]:
    """Three sources of any kind and a mix of them."""
    rates = []
    for _ in range(3):
        prompt = draw(st.floats(10.0, 5000.0))
        rates.append(Totals(draw(positive), draw(positive), prompt, prompt * draw(shares)))
    mix = [draw(st.floats(0.05, 1.0)) for _ in range(3)]
    return rates, [part / sum(mix) for part in mix]


def of_mix(rates: list[Totals], mix: list[float]) -> Totals:
    return Totals(*(np.array(mix) @ np.array(rates)).tolist())


@given(worlds())
def test_counts_reach_what_some_mix_has(world: tuple[list[Totals], list[float]]) -> None:
    rates, mix = world
    target = reached(*of_mix(rates, mix))
    try:
        found = counts(Recipe(target.density, target.sharing, 10_000_000), rates)
    except InputError:  # the equations do not tell these sources apart, or only just
        each = np.array([reached(*rate) for rate in rates])
        side = each[:2] - each[2]
        assert abs(np.linalg.det(side)) < 0.05 * np.abs(side).max() ** 2 + 1e-6
        return
    assert found.sum() == 10_000_000
    assert (
        reached(*of_mix(rates, found.tolist())).error(Recipe(target.density, target.sharing)) < 1e-3
    )


@given(worlds())
def test_no_mix_lies_outside_the_reachable_range(world: tuple[list[Totals], list[float]]) -> None:
    rates, mix = world
    assume(np.ptp([rate.shared / rate.prompt for rate in rates]) > 1e-6)
    target = reached(*of_mix(rates, mix))
    span = reachable_density(target.sharing, rates)
    assert span is not None
    low, high = span
    assert low * (1 - 1e-6) <= target.density <= high * (1 + 1e-6)


def test_counts_add_up_and_leave_no_source_out() -> None:
    found = counts(Recipe(1.4, 0.35, 40_000), RATES)
    assert found.sum() == 40_000
    assert (found >= 1).all()


def test_density_out_of_reach_names_the_range() -> None:
    with pytest.raises(InputError, match=r"density 90 is out of reach.* have 0\.033 to 17\.257"):
        counts(Recipe(90.0, 0.35), RATES)


def test_sharing_out_of_reach_names_the_range() -> None:
    with pytest.raises(InputError, match=r"sharing 0\.95 is out of reach.* 0\.003 to 0\.857"):
        counts(Recipe(1.4, 0.95), RATES)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"density": float("nan")}, "density nan"),
        ({"density": -1.0}, "density -1"),
        ({"sharing": 0.0}, "sharing 0"),
        ({"sharing": 1.0}, "sharing 1"),
        ({"requests": 2}, "requests 2"),
        ({"seed": -1}, "seed -1"),
        ({"sources": ("mmlu", "mmlu", "openvid")}, "three different"),
        ({"sources": ("mmlu",)}, "three different"),
    ],
)
def test_wrong_recipes_are_refused(change: dict[str, object], why: str) -> None:
    with pytest.raises(InputError, match=why):
        replace(RECIPES["trace1"], **change)  # type: ignore[arg-type]


def test_named_recipes_are_the_papers() -> None:
    found = [(r.density, r.sharing, r.requests >= 400_000, r.sources) for r in RECIPES.values()]
    sources = ("burstgpt", "mmlu", "openvid")
    assert found == [
        (1.4, 0.35, True, sources),
        (0.9, 0.35, True, sources),
        (1.4, 0.05, True, sources),
        (0.9, 0.05, True, sources),
    ]
    with pytest.raises(UnknownName, match="trace"):
        recipe("trace9")


def test_grid_has_65_points_of_40_000_requests() -> None:
    points = grid("azure")
    assert len({(point.density, point.sharing) for point in points}) == 65
    assert {point.requests for point in points} == {40_000}
    assert {point.sources for point in points} == {("azure", "mmlu", "openvid")}
    assert (points[0].density, points[-1].density) == (0.8, 1.4)
    assert (points[0].sharing, points[-1].sharing) == (0.05, 0.45)
    with pytest.raises(UnknownName, match="grid source"):
        grid("openvid")


@given(st.lists(st.integers(1, 4000), min_size=200, max_size=400), st.integers(0, 9))
def test_normalised_outputs_have_the_mean_and_keep_variance_and_order(
    lengths: list[int], extra: int
) -> None:
    before = np.array([*lengths, 1, 4000 - extra])
    if before.std() > 4 * 256:  # so few tokens cannot vary so much
        before = before // 4 + 1
    after = with_chat_mean(before)
    assert after.mean() == pytest.approx(256, rel=0.01)
    assert after.std() == pytest.approx(before.std(), rel=0.02)
    assert (np.diff(after[np.argsort(before, kind="stable")]) >= 0).all()


def test_equal_outputs_become_the_mean() -> None:
    assert with_chat_mean(np.array([9, 9])).tolist() == [256, 256]


def test_videos_are_whole_frames_with_a_mean_of_16_k() -> None:
    tokens = video_tokens(np.array([100.0, 176.0, 252.0]), 130_560)
    assert tokens.mean() == pytest.approx(16384, abs=FRAME_TOKENS)
    assert (tokens % FRAME_TOKENS == 0).all()
