"""Three kinds of work on one GPU: the lines of f when a network runs beside compute and memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from blendsim.perf import overlap
from blendsim.perf.kernels import overlapped
from blendsim.perf.overlap import INTERFERENCE, hull, overlap_lines
from blendsim.perf.sharing import NETWORK, beside_network, corners, modes_under, network_speed
from blendsim.specs import find_gpu, find_model
from blendsim.system import System

ONE = System(find_model("llama-3.1-8b"), find_gpu("a100-80g"))
EIGHT = System(find_model("llama-3.1-70b"), find_gpu("a100-80g"), 8)
TABLE, MAX, SUM = (overlap_lines(name, EIGHT) for name in ("table", "max", "sum"))
FIT = beside_network(modes_under(hull(np.array([0.25, 1.0, 4.0]), np.array([1.05, 1.35, 4.1]))))
ROUGH = beside_network(modes_under(hull(np.array([0.5, 20.0]), np.array([1.45, 20.05]))))
lines_of = st.sampled_from([TABLE, MAX, SUM, FIT, ROUGH])
beside = pytest.mark.parametrize("lines", [TABLE, FIT, ROUGH], ids=["table", "fit", "rough"])
seconds = st.floats(0, 1e3)
works = st.tuples(seconds, seconds, seconds)


@given(lines_of, works)
def test_f_lies_between_max_and_sum(lines, work):
    assert max(work) * (1 - 1e-9) <= overlapped(lines, *work) <= sum(work) * (1 + 1e-9)


@given(lines_of, works, st.floats(0, 1e3))
def test_f_is_homogeneous_of_degree_one(lines, work, k):
    scaled = [k * part for part in work]
    assert overlapped(lines, *scaled) == pytest.approx(k * overlapped(lines, *work))


@given(lines_of, works, works)
def test_f_of_sums_is_at_most_the_sum_of_f(lines, one, two):
    both = [a + b for a, b in zip(one, two, strict=True)]
    assert overlapped(lines, *both) <= sum(overlapped(lines, *w) for w in (one, two)) * (1 + 1e-9)


@given(lines_of, works, works)
def test_f_is_monotone(lines, work, more):
    larger = [a + b for a, b in zip(work, more, strict=True)]
    assert overlapped(lines, *work) <= overlapped(lines, *larger) * (1 + 1e-9)


@pytest.mark.parametrize("name", ["sum", "max", "table"])
@given(seconds, seconds)
def test_without_a_network_f_is_that_of_one_gpu(name, c, m):
    alone = overlapped(overlap_lines(name, ONE), c, m)
    assert overlapped(overlap_lines(name, EIGHT), c, m) == pytest.approx(alone)


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.floats(0.01, 10)] * 3))
def test_lines_are_the_best_time_spent_in_modes(work):
    """The table's f against the linear program it stands for: seconds in each way to run, where a
    GPU is divided into published shares that add up to one.
    """
    attention = ((0.0, 0.0), *INTERFERENCE, (1.0, 1.0))
    network = [(share, network_speed(share)) for share in np.linspace(0, 1, 21).round(2)]
    ways = [
        (1.0 - mine - theirs, kept, speed)
        for mine, kept in attention
        for theirs, speed in network
        if mine + theirs <= 1.0 + 1e-12
    ]
    solved = linprog(np.ones(len(ways)), A_ub=-np.array(ways).T, b_ub=-np.array(work))
    assert overlapped(TABLE, *work) == pytest.approx(solved.fun)


def test_a_network_hidden_by_compute_costs_a_quarter_of_its_time():
    """A tenth of the GPU keeps 0.4 of the network's speed: the best rate of exchange there is."""
    share, kept = NETWORK[0]
    assert overlapped(TABLE, 10.0, 0.0, 1.0) == pytest.approx(10.0 + share / kept)
    assert overlapped(TABLE, 0.0, 10.0, 1.0) == pytest.approx(10.0 + (1.0 - 0.95) / 0.4)


@beside
@given(works)
def test_overlapping_the_network_is_never_slower_than_running_it_with_compute(lines, work):
    c, m, n = work
    assert overlapped(lines, c, m, n) <= overlapped(lines, c + n, m) * (1 + 1e-9)


@beside
def test_every_line_binds_somewhere(lines):
    rng = np.random.default_rng(0)
    work = rng.dirichlet([0.4] * 3, 20_000)
    assert set((lines @ work.T).argmax(axis=0).tolist()) == set(range(len(lines)))
    assert len(lines) <= 24


def test_a_network_kernel_keeps_no_less_than_its_share():
    shares = np.linspace(0, 1, 101)
    speeds = np.array([network_speed(share) for share in shares])
    assert (speeds >= shares - 1e-12).all()
    assert (np.diff(speeds) > 0).all()
    assert [network_speed(share) for share, _ in NETWORK] == [kept for _, kept in NETWORK]


def test_corners_of_ways_that_do_not_disturb_each_other_are_max():
    assert (
        corners(np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])).tolist() == np.eye(3)[::-1].tolist()
    )


def test_a_measured_overlap_keeps_its_curve_on_several_gpus(tmp_path, monkeypatch):
    place = tmp_path / "a100-80g" / "llama-3.1-70b" / "tp8"
    place.mkdir(parents=True)
    (place / "overlap.csv").write_text("memory_over_compute,time_over_compute\n1,1.4\n")
    monkeypatch.setattr(overlap, "profiles_directory", lambda: tmp_path)
    overlap._measured.cache_clear()
    try:
        lines = overlap_lines("fit", EIGHT)
        assert overlapped(lines, 1.0, 1.0) == pytest.approx(1.4)
        assert overlapped(lines, 10.0, 0.0, 1.0) == pytest.approx(10.25)
    finally:
        overlap._measured.cache_clear()
