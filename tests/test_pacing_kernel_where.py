"""Kernels for states that have a field: what a call means for those that have not."""

from typing import Any, NamedTuple

import numba
import pytest

from blendsim.compiled import kernel_where


class Small(NamedTuple):
    """A state of one number, with more or without."""

    number: int
    more: tuple[int, ...]


@kernel_where("more", lambda state, n: -n)
def added(state: Small, n: int) -> int:
    """Cannot be typed for an empty tuple."""
    return state.more[0] + state.number + n


@numba.njit
def twice(state: Small, n: int) -> Any:
    return 2 * added(state, n)


BOTH = pytest.mark.parametrize("call", [twice, twice.py_func], ids=["compiled", "plain"])


@BOTH
def test_state_with_the_field_is_computed_with_it(call: Any) -> None:
    assert call(Small(1, (10,)), 100) == 222


@BOTH
def test_state_without_the_field_takes_the_other_meaning(call: Any) -> None:
    assert call(Small(1, ()), 100) == -200


def test_a_kernel_keeps_its_name_and_its_words() -> None:
    assert (added.__name__, added.__doc__) == ("added", "Cannot be typed for an empty tuple.")
