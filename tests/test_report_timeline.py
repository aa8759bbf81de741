"""What of a run's steps a page shows: equal parts of its time, durations, the longest."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from blendsim.perf.pricing import StepWork
from blendsim.report.opening import duration
from blendsim.report.plots.panel import draw_panel, line
from blendsim.report.timeline import PARTS, durations, few_running, longest_steps, timeline
from blendsim.steplog import COUNTS, MEASURED_ROWS, TIMES, StepLog


def log_of(seconds: list[float], **counts: list[int]) -> StepLog:
    """Steps one after the other on one replica."""
    times = np.zeros((len(seconds), len(TIMES)))
    times[:, TIMES.index("seconds")] = seconds
    times[:, TIMES.index("start")] = np.cumsum([0.0, *seconds[:-1]])
    table = np.zeros((len(seconds), len(COUNTS)), np.int64)
    for name, values in counts.items():
        table[:, COUNTS.index(name)] = values
    return StepLog(table, times, np.zeros(len(seconds), np.int32), {})


def test_step_over_two_parts_counts_in_both() -> None:
    log = log_of([1.0, 3.0], running=[4, 8])
    found = timeline(log, StepWork(np.array([0.5, 3.0]), np.array([1.0, 0.0])))
    (line,) = found.lines
    assert found.edges.tolist() == [0.0, 2.0, 4.0]
    assert line.held["running"].tolist() == [6.0, 8.0]
    assert line.compute is not None
    assert line.memory is not None
    assert line.compute.tolist() == [0.75, 1.0]
    assert line.memory.tolist() == [0.5, 0.0]


def test_idle_parts_have_no_value() -> None:
    log = log_of([1.0, 1.0, 1.0], running=[4, 8, 8])
    log.times[1:, TIMES.index("start")] = [4.0, 5.0]
    held = timeline(log, None).lines[0].held["running"]
    assert np.isnan(held).tolist() == [False, True, False]
    assert held[0] == 4.0


def test_long_run_has_no_more_parts_than_a_picture_shows() -> None:
    assert len(timeline(log_of([0.1] * 5_000), None).edges) == PARTS + 1


def test_time_in_durations_adds_up() -> None:
    found = durations(log_of([0.1, 0.2, 0.3, 5.0], prefill_tokens=[0, 1, 9, 9]))
    assert found.shares.sum() == pytest.approx(1.0)
    assert found.shares[0].sum() == pytest.approx(0.1 / 5.6)
    assert found.longest == 5.0


def test_equal_steps_have_durations_too() -> None:
    assert durations(log_of([0.5] * 4)).quantiles[0.5] == 0.5


def test_longest_steps_come_first_and_are_measured_ones() -> None:
    log = log_of([1.0, 5.0, 3.0, 9.0])
    assert longest_steps(log).tolist() == [3, 1, 2, 0]
    assert longest_steps(replace(log, meta={MEASURED_ROWS: [0, 2]})).tolist() == [2, 0]


def test_scale_holds_every_line() -> None:
    axes = []

    def draw(axis: Any) -> None:
        axes.append(axis)
        for high in (1.0, 50.0):
            line(axis, np.array([0.0, 1.0]), np.array([high]))

    draw_panel("name", "", "", draw, "time")
    low, high = axes[0].get_ylim()
    assert low == 0.0
    assert high >= 50.0


def test_time_of_a_long_run_is_told_in_hours_too() -> None:
    assert duration(9_107.9) == "9,107.9 s (2.53 h)"
    assert duration(90.0) == "90 s (1.5 min)"
    assert duration(0.51236) == "0.5124 s"


def running_log(rows: list[tuple[int, float, float, int]], **meta: Any) -> StepLog:
    """Steps of (replica, start, seconds, running requests)."""
    counts, times = np.zeros((len(rows), len(COUNTS)), int), np.zeros((len(rows), len(TIMES)))
    for at, (_, start, seconds, running) in enumerate(rows):
        counts[at, COUNTS.index("running")] = running
        times[at, TIMES.index("start")], times[at, TIMES.index("seconds")] = start, seconds
    return StepLog(counts, times, np.array([row[0] for row in rows], np.int32), meta)


def test_few_running_requests_are_timed_and_the_tail_apart() -> None:
    rows = [(0, 0.0, 2.0, 3), (0, 2.0, 5.0, 9), (0, 7.0, 1.0, 7), (0, 8.0, 4.0, 1)]
    assert few_running(running_log(rows)) == (7.0, 5.0, 4.0)
    assert few_running(running_log(rows[:2])) == (2.0, 0.0, 0.0)


def test_running_requests_of_all_ranks_count_together_and_idle_time_is_not_few() -> None:
    rows = [(0, 0.0, 4.0, 5), (0, 6.0, 1.0, 1), (1, 1.0, 2.0, 3)]
    assert few_running(running_log(rows)) == (3.0, 2.0, 1.0)


def test_few_running_is_unknown_where_running_requests_are_not_counted() -> None:
    assert few_running(running_log([(0, 0.0, 1.0, 1)], not_counted=["running"])) is None
