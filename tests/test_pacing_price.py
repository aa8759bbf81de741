"""What a token is worth and how many a step computes: the price against a solver of the primal, the
rest against searches too slow to be wrong.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog

from blendsim.serving import price as price_module
from blendsim.serving.price import (
    choose_sizes,
    lower_hull,
    read_price,
    side_by_side,
    token_price,
)

KERNELS = ("side_by_side", "read_price", "token_price", "lower_hull", "choose_sizes")

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Machine(NamedTuple):
    """How steps overlap and what the compute of each size takes, in whole numbers: no rounding."""

    lines: Floats
    sizes: Ints
    seconds: Floats

    def time(self, i: int, memory: float) -> float:
        """t of size number i, in words of its own."""
        return max(float(a * self.seconds[i] + b * memory) for a, b in self.lines)


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """1–6 sizes whose compute grows, under 1–4 lines; alone, compute and memory take themselves."""
    sizes = np.cumsum(draw(st.lists(st.integers(1, 64), min_size=1, max_size=6)))
    seconds = np.cumsum(
        draw(st.lists(st.integers(1, 40), min_size=len(sizes), max_size=len(sizes)))
    )
    line = st.tuples(st.integers(1, 4), st.integers(1, 4))
    lines = draw(st.lists(line, min_size=1, max_size=4))
    return Machine(np.array(lines, np.float64), sizes.astype(np.int64), seconds.astype(np.float64))


def least_seconds(machine: Machine, most: float, tokens: float, reads: float) -> float:
    """The primal: for each size so many steps, seconds of reads and of time in all. t is
    homogeneous, so totals are as good as steps one by one.
    """
    n = len(machine.sizes)
    eye, none = np.eye(n), np.zeros((n, n))
    above = [
        np.hstack([np.diag(a * machine.seconds), b * eye, -eye]) for a, b in machine.lines
    ]  # a·c·steps + b·reads ≤ time
    above.append(np.hstack([-most * eye, eye, none]))  # reads ≤ most·steps
    above.append(np.concatenate([-machine.sizes, np.zeros(2 * n)])[None, :])
    above.append(np.concatenate([np.zeros(n), -np.ones(n), np.zeros(n)])[None, :])
    limit = np.zeros(n * (len(machine.lines) + 1) + 2)
    limit[-2:] = -tokens, -reads
    cost = np.concatenate([np.zeros(2 * n), np.ones(n)])
    found = linprog(cost, np.vstack(above), limit, bounds=(0, None))
    assert found.status == 0, found.message
    return float(found.fun)


amounts = st.integers(1, 200).map(float)


@settings(max_examples=80)
@given(machines(), st.integers(1, 40).map(float), amounts, amounts)
def test_at_the_token_price_the_dual_is_worth_the_least_time_of_the_primal(
    machine: Machine, most: float, tokens: float, reads: float
) -> None:
    x = token_price(*machine, most, tokens, reads)
    y = read_price(*machine, most, x)
    assert x * tokens + y * reads == pytest.approx(
        least_seconds(machine, most, tokens, reads), 1e-4
    )


@settings(max_examples=80)
@given(machines(), st.integers(1, 40).map(float), st.floats(0.0, 1.0))
def test_read_price_is_the_least_that_any_step_leaves_for_a_second_of_reads(
    machine: Machine, most: float, share: float
) -> None:
    highest = min(machine.time(i, 0.0) / n for i, n in enumerate(machine.sizes))
    x = share * highest
    reads = most * np.geomspace(1e-3, 1.0, 2_000)
    t = np.maximum.reduce([a * machine.seconds[:, None] + b * reads for a, b in machine.lines])
    tried = float(((t - x * machine.sizes[:, None]) / reads).min())
    found = read_price(*machine, most, x)
    assert found <= tried + 1e-9
    assert tried <= found + 0.01 * (4.0 + found)  # one step of the search changes no more


@settings(max_examples=80)
@given(machines(), st.integers(1, 40).map(float), amounts, amounts)
def test_no_step_earns_more_than_it_takes_at_the_two_prices(
    machine: Machine, most: float, tokens: float, reads: float
) -> None:
    x = token_price(*machine, most, tokens, reads)
    y = read_price(*machine, most, x)
    for i, size in enumerate(machine.sizes):
        for memory in np.linspace(0.0, most, 30):
            assert x * size + y * memory <= machine.time(i, memory) * (1 + 1e-9) + 1e-9


def test_reads_alone_that_fill_every_step_leave_a_token_worth_nothing() -> None:
    """Steps of 10 tokens are many more than the one token to compute needs."""
    machine = Machine(np.ones((1, 2)), np.array([10]), np.array([5.0]))
    assert token_price(*machine, 1.0, 1.0, 100.0) == pytest.approx(0.0, abs=1e-6)


def test_tokens_without_reads_are_worth_what_the_best_size_takes() -> None:
    machine = Machine(np.ones((1, 2)), np.array([10, 20]), np.array([5.0, 6.0]))
    assert token_price(*machine, 1.0, 1e6, 1e-6) == pytest.approx(0.3)


def slow_hull(machine: Machine, memory: float) -> list[int]:
    """Sizes that lie below every chord over them."""
    n = len(machine.sizes)
    t = [machine.time(i, memory) for i in range(n)]
    size = machine.sizes.tolist()

    def is_below(q: int) -> bool:
        return all(
            (t[q] - t[p]) * (size[r] - size[p]) < (t[r] - t[p]) * (size[q] - size[p])
            for p in range(q)
            for r in range(q + 1, n)
        )

    return [q for q in range(n) if is_below(q)]


@settings(max_examples=200)
@given(machines(), st.integers(0, 60).map(float))
def test_hull_holds_the_sizes_below_every_chord(machine: Machine, memory: float) -> None:
    hull = np.empty(len(machine.sizes), np.int64)
    n = lower_hull(*machine, memory, hull)
    assert hull[:n].tolist() == slow_hull(machine, memory)


def chosen(
    machine: Machine, price: float, slack: float, even: float, least: int = 1, unit: float = 4.0
) -> Ints:
    table = np.zeros((6, 2), np.int64)
    choose_sizes(table, *machine, unit, price, slack, even, least)
    return table


prices = st.floats(0.01, 4.0)
slacks = st.sampled_from([0.0, 0.05, 0.3, 1.0])
evens = st.floats(0.0, 400.0)


@settings(max_examples=150)
@given(machines(), prices, slacks, evens)
def test_chosen_sizes_are_best_at_a_price_within_the_slack(
    machine: Machine, price: float, slack: float, even: float
) -> None:
    for row, pair in enumerate(chosen(machine, price, slack, even)):
        t = [machine.time(i, (row + 0.5) * 4.0) for i in range(len(machine.sizes))]
        for size in pair:
            q = machine.sizes.tolist().index(size)
            for k, other in enumerate(machine.sizes):
                if other < size:
                    assert (t[q] - t[k]) / (size - other) <= price * (1.0 + slack) * (1 + 1e-12)
                if other > size:
                    assert (t[k] - t[q]) / (other - size) >= price * (1.0 - slack) * (1 - 1e-12)


@settings(max_examples=150)
@given(machines(), prices, slacks, evens, st.floats(0.0, 100.0))
def test_a_larger_even_share_never_chooses_smaller_steps(
    machine: Machine, price: float, slack: float, even: float, more: float
) -> None:
    assert (chosen(machine, price, slack, even) <= chosen(machine, price, slack, even + more)).all()


@settings(max_examples=150)
@given(machines(), prices, slacks, evens, st.integers(1, 200))
def test_no_chosen_size_is_below_the_least_and_the_second_is_not_below_the_first(
    machine: Machine, price: float, slack: float, even: float, least: int
) -> None:
    table = chosen(machine, price, slack, even, least)
    assert (table >= least).all()
    assert (table[:, 0] <= table[:, 1]).all()
    free = chosen(machine, price, slack, even)
    assert np.array_equal(table, np.maximum(free, least))


@settings(max_examples=150)
@given(machines(), prices, slacks, evens)
def test_two_different_sizes_lie_around_the_even_share(
    machine: Machine, price: float, slack: float, even: float
) -> None:
    for low, high in chosen(machine, price, slack, even):
        if low < high:
            assert low < even < high


def test_equal_slopes_around_the_even_share_are_alternated_between() -> None:
    """A token more costs 0.09 s up to 20 and 0.105 s above: both are within 30 % of 0.1 s."""
    machine = Machine(np.ones((1, 2)), np.array([10, 20, 40]), np.array([1.0, 1.9, 4.0]))
    assert chosen(machine, 0.1, 0.3, 15.0)[0].tolist() == [10, 20]
    assert chosen(machine, 0.1, 0.3, 25.0)[0].tolist() == [20, 40]
    assert chosen(machine, 0.1, 0.3, 5.0)[0].tolist() == [10, 10]
    assert chosen(machine, 0.1, 0.3, 90.0)[0].tolist() == [40, 40]
    assert chosen(machine, 0.1, 0.0, 90.0)[0].tolist() == [20, 20]
    plain = np.zeros((6, 2), np.int64)
    choose_sizes.py_func(plain, *machine, 4.0, 0.1, 0.3, 15.0, 1)
    assert np.array_equal(plain, chosen(machine, 0.1, 0.3, 15.0))


def test_the_longer_a_step_reads_beside_compute_the_more_it_computes() -> None:
    """f = max(c, m): under the reads compute is free, so that the corner moves with them."""
    machine = Machine(np.eye(2), np.array([10, 20, 40, 80]), np.array([2.0, 4.0, 9.0, 20.0]))
    table = chosen(machine, 0.05, 0.0, 0.0)
    assert all(a <= b for a, b in pairwise(table[:, 0].tolist()))
    assert table[0, 0] < table[-1, 0]


@settings(max_examples=25)
@given(machines(), st.integers(1, 40).map(float), amounts, amounts, slacks, evens)
def test_plain_twins_price_and_choose_alike(
    machine: Machine, most: float, tokens: float, reads: float, slack: float, even: float
) -> None:
    x = token_price(*machine, most, tokens, reads)
    y = read_price(*machine, most, x)
    t = side_by_side(machine.lines, 3.0, 2.0)
    table = chosen(machine, max(x, 0.01), slack, even)
    with pytest.MonkeyPatch.context() as patch:
        for name in KERNELS:
            patch.setattr(price_module, name, getattr(price_module, name).py_func)
        assert price_module.token_price(*machine, most, tokens, reads) == pytest.approx(x, 1e-9)
        assert price_module.read_price(*machine, most, x) == pytest.approx(y, 1e-9)
        assert price_module.side_by_side(machine.lines, 3.0, 2.0) == t
        again = np.zeros_like(table)
        price_module.choose_sizes(again, *machine, 4.0, max(x, 0.01), slack, even, 1)
    assert np.array_equal(again, table)
