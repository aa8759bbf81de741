"""Sorting again what has hardly changed gives what sorting gives."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from blendsim.planner import resort
from blendsim.planner.resort import resorted


@given(data=st.data())
def test_any_order_before_gives_the_stable_order(data: st.DataObject) -> None:
    values = np.array(
        data.draw(st.lists(st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0, np.inf]), max_size=30))
    )
    before = np.array(data.draw(st.permutations(range(len(values)))), np.int64)
    stable = np.argsort(values, kind="stable").tolist()
    assert resorted(values, before).tolist() == stable
    assert resorted(values, None).tolist() == stable


def test_the_plain_twin_orders_ties_alike() -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    for order_ties in (resort._order_ties, resort._order_ties.py_func):
        order = np.array([4, 1, 3, 0, 2])
        order_ties(values, order)
        assert order.tolist() == [1, 4, 0, 2, 3]
