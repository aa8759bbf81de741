"""Overlap functions: what bounds rest on, and where the published one comes from."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_opinions import KERNELS

from blendsim.errors import ProfileError, UnknownName
from blendsim.perf import overlap
from blendsim.perf.kernels import overlapped
from blendsim.perf.overlap import INTERFERENCE, default_overlap, hull, overlap_lines
from blendsim.specs import find_gpu, find_model
from blendsim.system import System

A100 = System(find_model("llama-3.1-8b"), find_gpu("a100-80g"))
seconds = st.floats(0, 1e3)
ratios = st.floats(0, 50)


@st.composite
def measured(draw):
    """Points (m/c, f/c) as a noisy profiler may see them: some above sum, some below max."""
    points = draw(st.lists(st.tuples(ratios, st.floats(0.2, 1.5)), min_size=1, max_size=12))
    r = np.array([ratio for ratio, _ in points])
    return r, np.array([share for _, share in points]) * (1.0 + r)


lines_of = st.one_of(
    st.sampled_from(["sum", "max", "table"]).map(lambda name: overlap_lines(name, A100)),
    measured().map(lambda points: hull(*points)),
)


@given(lines_of, seconds, seconds)
def test_f_lies_between_max_and_sum(lines, c, m):
    f = overlapped(lines, c, m)
    assert max(c, m) * (1 - 1e-9) <= f <= (c + m) * (1 + 1e-9)


@given(lines_of, seconds, seconds, st.floats(0, 1e3))
def test_f_is_homogeneous_of_degree_one(lines, c, m, k):
    assert overlapped(lines, k * c, k * m) == pytest.approx(k * overlapped(lines, c, m))


@given(lines_of, seconds, seconds, seconds, seconds)
def test_f_of_sums_is_at_most_the_sum_of_f(lines, c, m, c2, m2):
    parts = overlapped(lines, c, m) + overlapped(lines, c2, m2)
    assert overlapped(lines, c + c2, m + m2) <= parts * (1 + 1e-9)


@given(lines_of, seconds, seconds, seconds, seconds)
def test_f_is_monotone(lines, c, m, more_c, more_m):
    assert overlapped(lines, c, m) <= overlapped(lines, c + more_c, m + more_m) * (1 + 1e-12)


def test_the_published_table_gives_two_lines():
    assert overlap_lines("table", A100) == pytest.approx(np.array([[1, 1 / 2, 1], [1 / 3, 1, 1]]))


@pytest.mark.skipif(not KERNELS.exists(), reason="published overlap curve not beside the checkout")
def test_table_is_nanoflows_published_curve():
    with (KERNELS / "nanoflow_overlap_curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = overlap_lines("table", A100)
    for row in rows:
        ratio, theirs = float(row["Tattn_over_Tgemm"]), float(row["with_table3_interference"])
        assert overlapped(lines, 1.0, ratio) == pytest.approx(theirs, abs=6e-4)
    assert len(rows) == 14


@given(st.floats(0.01, 10))
def test_no_single_split_of_the_gpu_beats_the_table(ratio):
    """Every published split simulated: both run until the first ends, the rest runs alone."""
    times = []
    for share, kept in INTERFERENCE:
        both = min(ratio / kept, 1.0 / (1.0 - share))
        rest = max(1.0 - (1.0 - share) * both, 0.0) + max(ratio - kept * both, 0.0)
        times.append(both + rest)
    assert overlapped(overlap_lines("table", A100), 1.0, ratio) == pytest.approx(min(times))


def test_a_convex_measured_curve_is_kept_point_by_point():
    r = np.array([0.25, 0.5, 1.0, 2.0, 4.0])
    f = np.array([1.05, 1.12, 1.35, 2.2, 4.1])
    assert [overlapped(hull(r, f), 1.0, x) for x in r] == pytest.approx(f.tolist())


@given(measured())
def test_the_hull_stays_below_every_admissible_point(points):
    r, f = points
    lines = hull(r, f)
    for ratio, time in zip(r, f, strict=True):
        allowed = min(max(time, 1.0, ratio), 1.0 + ratio)
        assert overlapped(lines, 1.0, ratio) <= allowed * (1 + 1e-9)


def test_a_bump_in_the_measured_curve_is_bridged():
    lines = hull(np.array([0.5, 1.0, 2.0]), np.array([1.1, 2.0, 2.2]))
    assert overlapped(lines, 1.0, 1.0) == pytest.approx((1.1 / 1.5 + 2.2 / 3.0) / 2 * 2)


def test_fit_without_a_measurement_is_refused():
    with pytest.raises(ProfileError, match="no overlap is measured yet for a100-80g"):
        overlap_lines("fit", A100)


def test_an_unknown_overlap_names_the_known_ones():
    with pytest.raises(UnknownName, match=r"unknown overlap 'tabel'; nearest known: table"):
        overlap_lines("tabel", A100)


def test_fit_is_the_default_where_an_overlap_was_measured(tmp_path, monkeypatch):
    place = tmp_path / "a100-80g" / "llama-3.1-8b" / "tp1"
    place.mkdir(parents=True)
    (place / "overlap.csv").write_text("memory_over_compute,time_over_compute\n1,1.4\n")
    monkeypatch.setattr(overlap, "profiles_directory", lambda: tmp_path)
    overlap._measured.cache_clear()
    try:
        assert default_overlap(A100) == "fit"
        assert overlapped(overlap_lines("fit", A100), 1.0, 1.0) == pytest.approx(1.4)
        h200 = System(find_model("llama-3.1-8b"), find_gpu("h200"))
        assert default_overlap(h200) == "table"
    finally:
        overlap._measured.cache_clear()
