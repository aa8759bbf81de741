"""What a token is worth and how many a step computes: the price against a solver of the primal, the
rest against searches too slow to be wrong.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from blendsim.arrays import Floats, Ints
from blendsim.perf.hull import lower_hull
from blendsim.serving import price as price_module
from blendsim.serving.price import (
    Overlap,
    best_size,
    choose_sizes,
    side_by_side,
    times_beside,
    token_price,
    tokens_at,
)

KERNELS = (
    "side_by_side",
    "measured_overlap",
    "overlapped",
    "times_beside",
    "best_size",
    "tokens_at",
    "token_price",
    "lower_hull",
    "choose_sizes",
)


class Machine(NamedTuple):
    """How steps overlap and what the compute of each size takes, in whole numbers: no rounding."""

    overlap: Overlap
    sizes: Ints
    seconds: Floats

    def time(self, i: int, memory: float) -> float:
        """t of size number i, in words of its own."""
        return max(float(a * self.seconds[i] + b * memory) for a, b, _ in self.overlap.lines)


def of_lines(lines: Any) -> Overlap:
    """An overlap by its (a, b); there is no network."""
    return Overlap(np.array([(a, b, 1) for a, b in lines], np.float64), np.empty(0), np.empty(0))


def of_points(ratios: Floats, times: Floats) -> Overlap:
    return Overlap(np.ones((1, 3)), ratios, times)


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """1–6 sizes whose compute grows, under 1–4 lines; alone, compute and memory take themselves."""
    sizes = np.cumsum(draw(st.lists(st.integers(1, 64), min_size=1, max_size=6)))
    seconds = np.cumsum(
        draw(st.lists(st.integers(1, 40), min_size=len(sizes), max_size=len(sizes)))
    )
    line = st.tuples(st.integers(1, 4), st.integers(1, 4))
    lines = draw(st.lists(line, min_size=1, max_size=4))
    return Machine(of_lines(lines), sizes.astype(np.int64), seconds.astype(np.float64))


def least_seconds(machine: Machine, ahead: Floats, tokens: float) -> float:
    """The primal: each kind of step ahead is of some sizes by turns, and as many steps without
    reads as are worth it come after them.
    """
    t = [[machine.time(i, m) for i in range(len(machine.sizes))] for _, m in ahead]
    t.append([machine.time(i, 0.0) for i in range(len(machine.sizes))])
    cost = np.concatenate(t)
    counts = np.kron(np.eye(len(ahead), len(ahead) + 1), np.ones(len(machine.sizes)))
    found = linprog(
        cost,
        -np.tile(machine.sizes, len(ahead) + 1)[None, :],
        [-tokens],
        counts,
        ahead[:, 0],
        bounds=(0, None),
    )
    assert found.status in (0, 2), found.message
    return float(found.fun) if found.status == 0 else np.inf


amounts = st.integers(1, 2_000).map(float)
aheads = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 60)), min_size=1, max_size=4).map(
    lambda rows: np.array(rows, np.float64)
)


@settings(max_examples=80)
@given(machines(), aheads, amounts)
def test_at_the_token_price_the_dual_is_worth_the_least_time_of_the_primal(
    machine: Machine, ahead: Floats, tokens: float
) -> None:
    """Steps must be taken, so that fewer tokens than they compute at least cost nothing more."""
    x = token_price(*machine, ahead, tokens)
    worth = x * tokens
    for steps, memory in ahead:
        worth += steps * min(machine.time(i, memory) - x * n for i, n in enumerate(machine.sizes))
    assert worth == pytest.approx(least_seconds(machine, ahead, tokens), rel=1e-4)


@settings(max_examples=80)
@given(machines(), st.integers(0, 60).map(float), st.floats(0.01, 4.0))
def test_best_size_earns_most_at_the_price(machine: Machine, memory: float, price: float) -> None:
    gains = [machine.time(i, memory) - price * n for i, n in enumerate(machine.sizes)]
    assert best_size(*machine, memory, price) == machine.sizes[int(np.argmin(gains))]


@settings(max_examples=80)
@given(machines(), aheads, st.floats(0.01, 4.0), st.floats(1.0, 2.0))
def test_a_dearer_token_never_has_fewer_computed(
    machine: Machine, ahead: Floats, price: float, more: float
) -> None:
    assert tokens_at(*machine, ahead, price) <= tokens_at(*machine, ahead, price * more)


def test_steps_that_compute_enough_anyhow_leave_a_token_worth_nothing() -> None:
    machine = Machine(of_lines(np.ones((1, 2))), np.array([10]), np.array([5.0]))
    assert token_price(*machine, np.array([[5.0, 1.0]]), 40.0) == pytest.approx(0.0, abs=1e-6)


def test_tokens_beyond_what_steps_ahead_may_take_are_worth_what_the_best_size_takes() -> None:
    machine = Machine(of_lines(np.ones((1, 2))), np.array([10, 20]), np.array([5.0, 6.0]))
    assert token_price(*machine, np.array([[1.0, 1.0]]), 1e6) == pytest.approx(0.3)


def test_full_steps_take_what_is_free_and_later_ones_the_rest() -> None:
    """f = max(c, m): beside 8 s of reads 40 tokens are free, beside none each costs its compute."""
    machine = Machine(of_lines(np.eye(2)), np.array([10, 20, 40]), np.array([2.0, 4.0, 8.0]))
    ahead = np.array([[3.0, 8.0], [5.0, 0.5]])
    x = token_price(*machine, ahead, 200.0)
    assert tokens_at(*machine, ahead, x * 0.99) == 3 * 40 + 5 * 10


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
    hull, times = np.empty(len(machine.sizes), np.int64), np.empty(len(machine.sizes))
    times_beside(machine.overlap, machine.seconds, memory, times)
    n = lower_hull(machine.sizes, times, hull)
    assert hull[:n].tolist() == slow_hull(machine, memory)


def chosen(
    machine: Machine, price: float, slack: float, share: float, least: int = 1, unit: float = 4.0
) -> Ints:
    table = np.zeros((6, 3), np.int64)
    choose_sizes(table, *machine, unit, price, slack, share, least)
    return table


prices = st.floats(0.01, 4.0)
slacks = st.sampled_from([0.0, 0.05, 0.3, 1.0])
shares = st.floats(0.0, 1.0)


@settings(max_examples=150)
@given(machines(), prices, slacks, shares)
def test_chosen_sizes_are_best_at_a_price_within_the_slack(
    machine: Machine, price: float, slack: float, share: float
) -> None:
    for row, pair in enumerate(chosen(machine, price, slack, share)):
        t = [machine.time(i, (row + 0.5) * 4.0) for i in range(len(machine.sizes))]
        for size in pair[:2]:
            q = machine.sizes.tolist().index(size)
            for k, other in enumerate(machine.sizes):
                if other < size:
                    assert (t[q] - t[k]) / (size - other) <= price * (1.0 + slack) * (1 + 1e-12)
                if other > size:
                    assert (t[k] - t[q]) / (other - size) >= price * (1.0 - slack) * (1 - 1e-12)


@settings(max_examples=150)
@given(machines(), prices, slacks, shares, st.floats(0.0, 1.0))
def test_a_larger_share_never_chooses_smaller_steps(
    machine: Machine, price: float, slack: float, share: float, more: float
) -> None:
    assert (
        chosen(machine, price, slack, share)
        <= chosen(machine, price, slack, min(1.0, share + more))
    ).all()


@settings(max_examples=150)
@given(machines(), prices, slacks, shares, st.integers(1, 200))
def test_no_chosen_size_is_below_the_least_and_the_second_is_not_below_the_first(
    machine: Machine, price: float, slack: float, share: float, least: int
) -> None:
    table = chosen(machine, price, slack, share, least)
    assert (table >= least).all()
    assert (table[:, 0] <= table[:, 1]).all()
    free = chosen(machine, price, slack, share)
    assert np.array_equal(table, np.maximum(free, least))


@settings(max_examples=150)
@given(machines(), prices, slacks, shares)
def test_two_different_sizes_lie_around_what_the_step_is_to_compute(
    machine: Machine, price: float, slack: float, share: float
) -> None:
    for low, high, wanted in chosen(machine, price, slack, share):
        if low < high:
            assert low <= wanted < high


def test_sizes_of_equal_slopes_are_alternated_between() -> None:
    """A token more costs 0.09 s up to 20 and 0.105 s above: both are within 30 % of 0.1 s."""
    machine = Machine(of_lines(np.ones((1, 2))), np.array([10, 20, 40]), np.array([1.0, 1.9, 4.0]))
    assert chosen(machine, 0.1, 0.3, 0.2)[0].tolist() == [10, 20, 16]
    assert chosen(machine, 0.1, 0.3, 0.5)[0].tolist() == [20, 40, 25]
    assert chosen(machine, 0.1, 0.3, 0.0)[0].tolist() == [10, 10, 10]
    assert chosen(machine, 0.1, 0.3, 1.0)[0].tolist() == [40, 40, 40]
    assert chosen(machine, 0.1, 0.0, 0.9)[0].tolist() == [20, 20, 20]
    plain = np.zeros((6, 3), np.int64)
    choose_sizes.py_func(plain, *machine, 4.0, 0.1, 0.3, 0.5, 1)
    assert np.array_equal(plain, chosen(machine, 0.1, 0.3, 0.5))


def test_the_longer_a_step_reads_beside_compute_the_more_it_computes() -> None:
    """f = max(c, m): under the reads compute is free, so that the corner moves with them."""
    machine = Machine(
        of_lines(np.eye(2)), np.array([10, 20, 40, 80]), np.array([2.0, 4.0, 9.0, 20.0])
    )
    table = chosen(machine, 0.05, 0.0, 0.0)
    assert all(a <= b for a, b in pairwise(table[:, 0].tolist()))
    assert table[0, 0] < table[-1, 0]


@settings(max_examples=25)
@given(machines(), aheads, amounts, slacks, shares)
def test_plain_twins_price_and_choose_alike(
    machine: Machine, ahead: Floats, tokens: float, slack: float, share: float
) -> None:
    x = token_price(*machine, ahead, tokens)
    t = side_by_side(machine.overlap, 3.0, 2.0)
    table = chosen(machine, max(x, 0.01), slack, share)
    with pytest.MonkeyPatch.context() as patch:
        for name in KERNELS:
            patch.setattr(price_module, name, getattr(price_module, name).py_func)
        assert price_module.token_price(*machine, ahead, tokens) == pytest.approx(x, 1e-9)
        assert price_module.side_by_side(machine.overlap, 3.0, 2.0) == t
        again = np.zeros_like(table)
        price_module.choose_sizes(again, *machine, 4.0, max(x, 0.01), slack, share, 1)
    assert np.array_equal(again, table)


# ---- where the overlap was measured

#: Together they take the sum, but for reads as long as the compute, which save a quarter of it.
ONE_DIP = of_points(np.array([0.5, 1.0, 2.0]), np.array([1.5, 1.5, 3.0]))


def test_a_measured_overlap_takes_what_was_measured_and_not_its_hull() -> None:
    assert side_by_side(ONE_DIP, 2.0, 2.0) == 3.0
    assert side_by_side(ONE_DIP, 2.0, 1.0) == 3.0  # the hull has 2.5
    assert side_by_side(ONE_DIP, 2.0, 8.0) == 10.0


def test_sizes_are_chosen_where_a_measured_overlap_pays() -> None:
    """Compute is 1 s for 10 tokens; a token is worth 0.09 s, and only the step whose compute is as
    long as its reads, 2 s, is cheaper a token than that.
    """
    sizes = np.array([10, 20, 40, 80])
    machine = Machine(ONE_DIP, sizes, sizes / 10.0)
    assert best_size(*machine, 2.0, 0.09) == 20
    assert chosen(machine, 0.09, 0.0, 0.0)[0].tolist() == [20, 20, 20]  # reads of 2 s
    assert chosen(machine, 0.09, 0.0, 0.0)[4].tolist() == [10, 10, 10]  # of 18 s, too long for any


def test_points_on_the_sum_are_priced_as_the_sum() -> None:
    sizes = np.array([10, 20, 40, 80])
    seconds, ahead = np.array([2.0, 3.0, 5.5, 12.0]), np.array([[5.0, 1.0], [7.0, 4.0]])
    ratios = np.array([0.5, 1.0, 2.0])
    plain = Machine(of_lines(np.ones((1, 2))), sizes, seconds)
    measured = plain._replace(overlap=of_points(ratios, 1.0 + ratios))
    for tokens in (150.0, 400.0, 900.0):
        x = token_price(*plain, ahead, tokens)
        assert token_price(*measured, ahead, tokens) == pytest.approx(x)
        assert np.array_equal(chosen(measured, x, 0.05, 0.5), chosen(plain, x, 0.05, 0.5))
