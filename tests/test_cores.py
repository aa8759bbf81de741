"""Work on all cores: results in order, and never more threads than cores."""

import os
import threading
from collections.abc import Callable

import pytest

from blendsim import cores
from blendsim.cores import on_all_cores, usable_cores


class Threads:
    """Counts the threads that are at work, at most."""

    def __init__(self) -> None:
        self.most, self._now, self._lock = 0, 0, threading.Lock()

    def at_work(self, call: Callable[[], int]) -> int:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            return call()
        finally:
            with self._lock:
                self._now -= 1


@pytest.mark.parametrize("number", [1, 2, 7])
def test_results_are_in_order(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: number)
    assert on_all_cores(lambda item: 2 * item, range(20)) == list(range(0, 40, 2))
    assert on_all_cores(str, []) == []


def test_calls_run_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 3)
    together = threading.Barrier(3, timeout=30)
    assert sorted(on_all_cores(lambda _: together.wait(), range(3))) == [0, 1, 2]


@pytest.mark.parametrize(("number", "outer", "inner"), [(4, 8, 8), (4, 2, 8), (6, 4, 3), (1, 2, 2)])
def test_calls_inside_calls_take_no_more_threads_than_cores(
    number: int, outer: int, inner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: number)
    threads = Threads()

    def run(item: int) -> list[int]:
        return on_all_cores(lambda other: threads.at_work(lambda: 10 * item + other), range(inner))

    found = on_all_cores(run, range(outer))
    assert found == [[10 * item + other for other in range(inner)] for item in range(outer)]
    assert threads.most <= number


def test_one_call_has_all_cores_for_those_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 3)
    together = threading.Barrier(3, timeout=30)
    (found,) = on_all_cores(lambda _: on_all_cores(lambda _: together.wait(), range(3)), [0])
    assert sorted(found) == [0, 1, 2]


def test_an_error_in_a_call_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        on_all_cores(lambda item: 1 // item, [1, 0, 1])


def test_cores_that_a_container_keeps_back_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5}, raising=False)
    assert usable_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1
