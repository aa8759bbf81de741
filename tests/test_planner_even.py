"""The compute-heavy end of a paced plan, evened out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blendsim.pacing import ABOUT_THE_SAME
from blendsim.planner.even import evened

FALLING = st.lists(
    st.sampled_from([0.1, 0.5, 0.9, 1.0, 1.5, 2.5, 7.0, 30.0, float("inf")]), max_size=40
).map(lambda values: np.array(sorted(values, reverse=True)))


def seen(rho: np.ndarray) -> np.ndarray:
    """All lengths are visible."""
    return np.ones(len(rho), np.bool_)


@given(FALLING)
def test_places_are_a_permutation_that_leaves_the_memory_heavy_end_alone(rho: np.ndarray) -> None:
    places = evened(rho, 1.0, seen(rho))
    assert sorted(places) == list(range(len(rho)))
    light = rho < 1.0
    assert places[light].tolist() == np.flatnonzero(light).tolist()


@given(FALLING)
def test_requests_of_one_node_stay_together_and_in_order(rho: np.ndarray) -> None:
    places = evened(rho, 1.0, seen(rho))
    for node in set(rho.tolist()):
        at = np.flatnonzero(rho[places] == node)
        assert (np.diff(at) == 1).all()
        assert (np.diff(places[at]) == 1).all()


def test_much_denser_nodes_come_first() -> None:
    rho = np.array([64.0, 40.0, 9.0, 8.5, 2.0, 1.5])
    levels = np.floor(np.log2(rho[evened(rho, 1.0, seen(rho))]))
    assert (np.diff(levels) <= 0.0).all()


def test_every_stretch_is_a_sample_of_what_is_about_as_dense() -> None:
    rho = np.linspace(ABOUT_THE_SAME * 0.999, 1.0, 1_000)
    stretches = rho[evened(rho, 0.49, seen(rho))].reshape(20, 50).mean(axis=1)
    assert stretches == pytest.approx(np.full(20, rho.mean()), abs=0.03)


def test_a_pool_without_a_dense_end_stays_as_it_is() -> None:
    assert evened(np.array([0.5, 0.2]), 1.0, seen(np.array([0.5, 0.2]))).tolist() == [0, 1]
    assert evened(np.zeros(0), 1.0, seen(np.zeros(0))).tolist() == []
    assert evened(np.zeros(3), 0.0, seen(np.zeros(3))).tolist() == [0, 1, 2]


def test_who_is_about_as_dense_as_the_pool_keeps_its_place() -> None:
    rho = np.array([9.0, 8.5, 8.0, 2.0, 1.9, 1.5, 1.1, 0.4])
    places = evened(rho, 1.0, seen(rho))
    assert sorted(places[:3]) == [0, 1, 2]
    assert places[3:].tolist() == [3, 4, 5, 6, 7]


def test_of_lengths_that_are_not_visible_all_that_are_denser_than_the_pool_are_evened() -> None:
    rho = np.repeat(np.linspace(1.9, 0.1, 19), 2)
    visible = np.arange(len(rho)) % 2 == 1
    places = evened(rho, 1.0, visible)
    dense = np.flatnonzero(~visible & (rho > 1.0 + 1e-6))
    assert sorted(places[: len(dense)]) == dense.tolist()
    assert places[: len(dense)].tolist() != dense.tolist()
    assert (np.diff(places[len(dense) :]) > 0).all()
