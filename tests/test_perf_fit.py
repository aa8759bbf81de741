"""The fit of an overlap to measured pairs, on pairs made from a known f."""

import numpy as np
import pytest

from blendsim.errors import ProfileError
from blendsim.perf.fit import Pairs, fit_overlap, read_shares, write_overlap
from blendsim.perf.kernels import overlapped
from blendsim.perf.overlap import hull, interference_lines, read_points
from blendsim.perf.store import OVERLAP_FILE

KNOWN = interference_lines(((0.2, 0.3), (0.4, 0.8), (0.8, 0.85), (0.9, 0.95)))  # best at m/c = 4/3
SHARES = {0: 1.12, 32: 1.05, 48: 1.0, 64: 1.04}  # attention's SMs: how much longer than f it takes


def pairs_of(
    rng: np.random.Generator, noise: float = 0.0, repeats: int = 1, ratios=(0.25, 0.5, 1, 4 / 3, 2)
) -> Pairs:
    """Pairs of several sizes whose time at 48 SMs is the known f."""
    rows = []
    for tokens in (256, 512, 1024, 2048):
        c = tokens * 5e-7
        for i, ratio in enumerate(ratios):
            for sms, slower in SHARES.items():
                for _ in range(repeats):
                    f = overlapped(KNOWN, c, ratio * c) * slower
                    wobble = 1.0 + noise * rng.standard_normal()
                    rows.append((tokens, 128, 100 + i, sms, c, ratio * c, f * wobble))
    columns = [np.array(values) for values in zip(*rows, strict=True)]
    return Pairs(*(x.astype(np.int64) for x in columns[:4]), *(x * 1.0 for x in columns[4:]))


def test_exact_pairs_give_back_the_f_they_were_made_from():
    fit = fit_overlap(pairs_of(np.random.default_rng(0)))
    assert fit.ratios == pytest.approx([0.25, 0.5, 1.0, 4 / 3, 2.0])
    assert fit.times == pytest.approx([overlapped(KNOWN, 1.0, r) for r in fit.ratios])
    for ratio in (0.1, 0.7, 4 / 3, 1.9, 8.0):
        assert overlapped(fit.lines, 1.0, ratio) >= overlapped(KNOWN, 1.0, ratio) * (1 - 1e-9)


def test_the_best_share_is_found_and_the_others_do_not_count():
    fit = fit_overlap(pairs_of(np.random.default_rng(0)))
    assert set(fit.attention_sms.tolist()) == {48}


def test_what_overlap_buys_at_best_and_where():
    gain, ratio = fit_overlap(pairs_of(np.random.default_rng(0))).best
    assert gain == pytest.approx(1.4)
    assert ratio == pytest.approx(4 / 3)


def test_held_back_sizes_are_predicted_from_the_others():
    """Twenty sizes of five ratios, every fifth held back; what errs is the noise."""
    exact = fit_overlap(pairs_of(np.random.default_rng(0)))
    assert (exact.sizes, exact.held_back) == (20, 4)
    assert exact.median_error == pytest.approx(0.0, abs=1e-9)
    noisy = fit_overlap(pairs_of(np.random.default_rng(1), noise=0.02, repeats=5))
    assert 0.0 < noisy.median_error < 0.03
    assert noisy.median_error <= noisy.p90_error < 0.06


def test_a_held_back_size_is_no_part_of_its_own_prediction():
    """Spoil one held-back size: the error must show it, whole."""
    pairs = pairs_of(np.random.default_rng(0))
    sizes = sorted(
        {(r, t) for r, t in zip(pairs.memory / pairs.compute, pairs.tokens, strict=True)}
    )
    ratio, tokens = sizes[2]
    spoiled = (pairs.tokens == tokens) & np.isclose(pairs.memory / pairs.compute, ratio)
    together = np.where(spoiled, pairs.together / 3, pairs.together)
    fit = fit_overlap(pairs._replace(together=together))
    assert fit.p90_error > 1.0


def test_repetitions_become_their_median():
    pairs = pairs_of(np.random.default_rng(0), repeats=5)
    together = pairs.together.copy()
    together[::5] *= 10  # one of five timings disturbed
    assert fit_overlap(pairs._replace(together=together)).times == pytest.approx(
        fit_overlap(pairs).times
    )


def test_too_few_pairs_to_hold_any_back_say_so():
    fit = fit_overlap(pairs_of(np.random.default_rng(0), ratios=(1.0,)))
    assert (fit.sizes, fit.held_back) == (4, 0)
    assert np.isnan(fit.median_error)
    assert np.isnan(fit.p90_error)


def test_no_pairs_are_refused():
    empty = Pairs(*(x[:0] for x in pairs_of(np.random.default_rng(0))))
    with pytest.raises(ProfileError, match="no pair was measured"):
        fit_overlap(empty)


def test_pairs_that_do_not_overlap_give_the_sum():
    pairs = pairs_of(np.random.default_rng(0))
    fit = fit_overlap(pairs._replace(together=pairs.compute + pairs.memory))
    assert fit.best[0] == pytest.approx(1.0)
    assert overlapped(fit.lines, 2.0, 3.0) == pytest.approx(5.0)


def test_an_overlap_survives_writing_and_reading(tmp_path):
    pairs = pairs_of(np.random.default_rng(2), noise=0.01, repeats=3)
    fit = fit_overlap(pairs)
    write_overlap(fit, tmp_path / OVERLAP_FILE)
    shares = read_shares(tmp_path / OVERLAP_FILE)
    assert shares.ratios == pytest.approx(fit.ratios, rel=1e-5)
    assert shares.attention_sms.tolist() == fit.attention_sms.tolist()
    assert hull(fit.ratios, fit.times) == pytest.approx(fit.lines)


def test_a_step_takes_the_share_of_the_nearest_ratio(tmp_path):
    path = tmp_path / OVERLAP_FILE
    path.write_text(
        "memory_over_compute,time_over_compute,attention_sms\n0.25,1.1,16\n1,1.4,48\n4,4.2,0\n"
    )
    shares = read_shares(path)
    found = [shares.at(1.0, m) for m in (0.0, 0.3, 0.9, 1.9, 2.1, 100.0)]
    assert found == [16, 16, 48, 48, 0, 0]


def test_an_overlap_without_shares_is_refused_where_shares_are_asked_for(tmp_path):
    (tmp_path / OVERLAP_FILE).write_text("memory_over_compute,time_over_compute\n1,1.4\n")
    with pytest.raises(ProfileError, match=r"line 1: columns"):
        read_shares(tmp_path / OVERLAP_FILE)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("", "no rows under the header; add what was measured"),
        ("1,,8\n", "line 2, column 2: '' is no number above 0"),
        ("0.5,1.2,8\n-1,1.4,8\n", "line 3, column 1: '-1' is no number above 0"),
    ],
)
def test_an_overlap_of_what_is_no_ratio_is_refused(tmp_path, rows, told):
    path = tmp_path / OVERLAP_FILE
    path.write_text(f"memory_over_compute,time_over_compute,attention_sms\n{rows}")
    with pytest.raises(ProfileError, match=told):
        read_points(path)


def pairs_with(*rows: tuple[float, dict[int, float]]) -> Pairs:
    """One timing a share of sizes of these ratios, by their f/c."""
    told = [(i, r, sms, f) for i, (r, by_share) in enumerate(rows) for sms, f in by_share.items()]
    size, ratio, sms, together = (np.array(column) for column in zip(*told, strict=True))
    ones = np.ones(len(told), np.int64)
    return Pairs(100 + size, ones, ones, sms, np.ones(len(told)), ratio * 1.0, together * 1.0)


def test_a_share_is_judged_by_what_it_costs_each_size_against_its_best() -> None:
    """Seconds alone would let the size that overlaps worse decide."""
    fit = fit_overlap(pairs_with((1.0, {0: 1.0, 32: 1.25}), (1.01, {0: 1.95, 32: 1.65})))
    assert fit.attention_sms.tolist() == [0]


def test_sizes_are_one_point_as_far_as_the_first_of_them_reaches() -> None:
    fit = fit_overlap(pairs_with(*((r, {0: 1.0 + 0.2 * r}) for r in (1.0, 1.04, 1.08, 1.12))))
    assert fit.ratios == pytest.approx([1.02, 1.10])
