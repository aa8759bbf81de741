"""§6.5 of the paper: which measured speed-ups its verdict is about."""

import pytest

from paper_repro import sec65
from paper_repro.lab import Lab
from paper_repro.table import Table


def table(*rows: tuple[float, int]) -> dict[str, Table]:
    """Speed-ups with these errors, and whether each counts."""
    told = [(f"run {k}", 1.0 + error, 1.0, error, counts) for k, (error, counts) in enumerate(rows)]
    return {"speedups": Table(sec65.COLUMNS, tuple(told))}


def test_the_verdict_is_the_mean_of_the_errors_that_count() -> None:
    (found,) = sec65.verdicts(table((0.01, 1), (-0.03, 1), (0.5, 0)))
    assert found.holds
    assert found.ours.startswith("2.00% in the mean of 2, 3.0% at most")
    (off,) = sec65.verdicts(table((0.01, 1), (-0.09, 1)))
    assert off.holds is False


def test_runs_that_the_calibration_was_fitted_to_do_not_count() -> None:
    (found,) = sec65.verdicts(table((0.001, 0)))
    assert found.holds is None
    rows = {row[0]: row for row in sec65.measure(Lab())["speedups"].rows}
    counted = {name for name, row in rows.items() if row[4]}
    assert {name.split(",")[0] for name in counted} == {"third", "sixth", "seventh"}
    assert {name.split(",")[0] for name in rows if "filled" in name} - {"fifth"} == {
        name.split(",")[0] for name in counted
    }


def test_measured_speed_ups_are_those_of_the_logs() -> None:
    """As docs/validation.md has them (a search over prefix order, the seventh visit)."""
    rows = {row[0]: row for row in sec65.measure(Lab())["speedups"].rows}
    simulated, measured, error = rows["seventh, trace2-filled: search over dfs"][1:4]
    assert measured == pytest.approx(60.37 / 55.95, rel=1e-3)
    assert error == pytest.approx(simulated / measured - 1)
