"""Who is served when: request by request what the step log counts."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_search import mixed_pool

from blendsim import search
from blendsim.errors import InputError
from blendsim.request import from_lengths, pool
from blendsim.search.served import serve, served_table, write_served
from blendsim.serving.core import ServingCore
from blendsim.serving.knobs import Knobs
from blendsim.serving.state import LEFT
from blendsim.settings import Settings
from blendsim.sim.run import simulate
from blendsim.sim.served import request_times
from blendsim.steplog import COUNTS, StepLog

SMALL = {"kv_bytes": 4_000_000_000}  # so that requests are thrown out

CASES: dict[str, dict[str, Any]] = {
    "paced": {"planner": "paced"},
    "dual scan": {"planner": "blend"},
    "thrown out": {"planner": "blend", "output_reserved": 0.0, **SMALL},
    "two replicas": {"planner": "blend", "dp": 2},
    "vllm": {"planner": "dfs", "engine": "vllm", **SMALL},
    "vllm, knobs turned": {
        "planner": "dfs",
        "engine": "vllm",
        "knobs": Knobs(long_prefill_token_threshold=512, watermark=0.01),
    },
    "rounds": {"planner": "dfs", "engine": "sglang", **SMALL},
    "host memory": {"planner": "dfs", "host_memory_bytes": 2_000_000_000, **SMALL},
}


class Run:
    """A simulated run and its table."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.settings = Settings(**asked)
        self.pool = mixed_pool(np.random.default_rng(3), 120)
        self.problem = problem = search.prepare(self.pool, self.settings)
        self.plan = search.plan_policy(problem, self.settings.planner)
        self.log: StepLog = simulate(
            self.plan,
            self.pool,
            problem.true_lengths,
            problem.prompts,
            problem.model,
            self.settings.flavour(),
            self.settings.cluster,
            host=self.settings.host,
        )
        self.table = served_table(serve(self.pool, self.plan, self.settings))

    def column(self, name: str) -> Any:
        return np.array(self.table[name].to_pylist())


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def run(request: pytest.FixtureRequest) -> Run:
    return Run(request.param)


def test_every_request_is_there_once_and_served_in_order(run: Run) -> None:
    assert sorted(run.column("id")) == sorted(run.pool.ids.tolist())
    entered, first, ended = (run.column(name) for name in ("entered", "first_token", "ended"))
    assert (entered >= 0.0).all()
    assert (entered < first).all()
    assert (first <= ended).all()
    one = run.column("output_tokens") == 1
    assert (first[one] == ended[one]).all()
    assert (first[~one] < ended[~one]).all()


def test_steps_count_what_the_table_names(run: Run) -> None:
    start, seconds = run.log.time("start"), run.log.time("seconds")
    for replica in range(run.settings.dp):
        here = run.log.replica == replica
        mine = run.column("replica") == replica
        begins, ends = start[here], start[here] + seconds[here]
        ended = np.searchsorted(ends, run.column("ended")[mine])
        assert np.bincount(ended, minlength=len(ends)).tolist() == (
            run.log.count("finished")[here].tolist()
        )
        entered = np.searchsorted(begins, run.column("entered")[mine])
        counted = np.bincount(entered, minlength=len(begins))
        again = run.log.count("admitted")[here] - counted
        assert (again >= 0).all()
        assert (again > 0).any() == run.column("was_preempted")[mine].any()
        assert run.column("place")[mine].tolist() == list(range(mine.sum()))
        assert (np.diff(run.column("entered")[mine]) >= 0.0).all()
        hits = run.log.count("hit_tokens")[here].sum()
        assert run.column("hit_tokens")[mine].sum() == hits


def test_some_case_throws_requests_out() -> None:
    assert Run(CASES["thrown out"]).column("was_preempted").any()
    assert not Run(CASES["paced"]).column("was_preempted").any()


def test_ends_are_told_where_a_plan_has_two() -> None:
    two = Run(CASES["dual scan"])
    ends, source = two.column("end"), two.column("source")
    assert set(ends) == {"compute", "memory"}
    assert (source[ends == "compute"] == "heavy").mean() > 0.8
    assert (ends[source == "long"] == "memory").mean() > 0.8
    assert "end" not in Run(CASES["vllm"]).table.column_names


def test_a_log_of_another_run_is_refused() -> None:
    one = Run(CASES["paced"])
    problem = one.problem
    rest = (problem.prompts, problem.model.system, one.settings.flavour())
    outputs = problem.true_lengths
    assert request_times(one.plan, one.pool, outputs, *rest, one.log).ended.max() > 0.0
    swapped = one.log.counts.copy()
    at = [name == "finished" for name in COUNTS]
    swapped[:, at] = swapped[::-1, at]  # as many steps, and as many ends
    for log in (Run({**CASES["paced"], **SMALL}).log, replace(one.log, counts=swapped)):
        with pytest.raises(InputError, match=r"give the log of this plan's run"):
            request_times(one.plan, one.pool, outputs, *rest, log)


def test_the_end_told_is_the_one_it_was_taken_from() -> None:
    """Not the one that it is counted to when it has overrun its estimate by far."""
    settings = Settings(planner="blend", sample=0.02)
    rng = np.random.default_rng(5)
    dense = from_lengths(rng.integers(500, 2_000, 300), rng.choice([3, 1_500], 300, p=[0.9, 0.1]))
    light = from_lengths(np.full(60, 20), np.full(60, 3_000), source="light")
    several = pool([dense, light])
    plan = search.plan_policy(search.prepare(several, settings), "blend")
    done = serve(several, plan, settings)
    assert done.served.is_left is not None
    core = ServingCore.from_plan(
        plan,
        several,
        done.output_len,
        search.prepare(several, settings).prompts,
        settings.system,
        settings.flavour(),
    )
    sides = np.full(len(several), -1)
    while not core.is_done:
        core.step()
        requests = core.state.requests
        fresh = (requests.status > 0) & (sides[core.rows] < 0)
        sides[core.rows[fresh]] = requests.side[fresh]
        core.commit()
    assert (done.served.is_left == (sides == LEFT)).all()
    at_last = np.zeros(len(several), np.int64)
    at_last[core.rows] = core.state.requests.side
    assert (at_last != sides).any(), "or this says nothing"


def test_a_file_keeps_the_table(tmp_path: Path) -> None:
    one = Run(CASES["paced"])
    write_served(one.table, tmp_path / "served.parquet", {"plan_sha256": "abc"})
    kept = pq.read_table(tmp_path / "served.parquet")
    assert kept.equals(one.table)
    told = json.loads(kept.schema.metadata[b"blendsim"])
    assert told == {"schema": "served", "version": 1, "plan_sha256": "abc"}
    write_served(one.table, tmp_path / "served.csv", {})
    lines = (tmp_path / "served.csv").read_text().splitlines()
    assert len(lines) == 1 + len(one.pool)
    assert lines[0].replace('"', "").split(",") == one.table.column_names


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_a_file_may_have_a_name_that_is_no_unicode(tmp_path: Path, ending: str) -> None:
    path = tmp_path / os.fsdecode(b"\xff" + ending.encode())
    write_served(Run(CASES["paced"]).table, path, {})
    assert path.stat().st_size > 0
