"""Seconds without a step log are those of the log."""

import numpy as np
import pytest

from blendsim import search
from blendsim.request import from_lengths, pool
from blendsim.search.trial import find_engine, log_in
from blendsim.sim import engine, timing
from blendsim.sim.timing import time_plan

CASES = {
    "one replica": {},
    "two ranks": {"dp": 2},
    "stealing": {"dp": 2, "steals": True},
    "pools": {"topology": "1P1D"},
    "rounds": {"engine": "sglang"},
    "host memory": {"host_memory_bytes": 10**10},
}


@pytest.mark.parametrize("case", CASES)
def test_seconds_are_those_of_the_log(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_FEW_ROWS", 64)  # what a replica without a log remembers
    rng = np.random.default_rng(6)
    heavy = from_lengths(rng.integers(500, 3_000, 150), rng.integers(2, 30, 150), source="heavy")
    long = from_lengths(rng.integers(10, 100, 150), rng.integers(500, 3_000, 150), source="long")
    settings = search.Settings(**CASES[case])  # type: ignore[arg-type]
    problem = search.prepare(pool([heavy, long]), settings)
    plan = search.plan_policy(problem, "blend")
    flavour = find_engine(problem, settings.engine)
    log = log_in(problem, plan, flavour, problem.drawn)
    assert np.bincount(log.replica).min() > 64
    assert (
        time_plan(
            plan,
            problem.workload,
            problem.drawn,
            problem.prompts,
            problem.model,
            flavour,
            settings.cluster,
            settings.host,
        ).seconds
        == log.end
    )


def test_no_log_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a step log was made")

    monkeypatch.setattr(timing, "simulate", forbidden)
    problem = search.prepare(from_lengths([100] * 50, [400] * 50), search.Settings())
    plan = search.plan_policy(problem, "fcfs")
    flavour = find_engine(problem, "nanoflow")
    pool = (plan, problem.workload, problem.drawn, problem.prompts, problem.model, flavour)
    assert time_plan(*pool).seconds > 0
