"""Who is served when: request by request what the step log counts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_search import mixed_pool

from blendsim import search
from blendsim.errors import InputError
from blendsim.search.served import served_table, write_served
from blendsim.serving.knobs import Knobs
from blendsim.settings import Settings
from blendsim.sim.run import simulate
from blendsim.steplog import StepLog

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
        problem = search.prepare(self.pool, self.settings)
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
        self.table = served_table(self.pool, self.plan, self.settings, self.log)

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
    other = replace(one.settings, **SMALL)
    with pytest.raises(InputError, match="give the log of this plan's run"):
        served_table(one.pool, one.plan, other, one.log)


def test_a_file_keeps_the_table(tmp_path: Path) -> None:
    one = Run(CASES["paced"])
    write_served(one.table, tmp_path / "served.parquet")
    assert pq.read_table(tmp_path / "served.parquet").equals(one.table)
    write_served(one.table, tmp_path / "served.csv")
    lines = (tmp_path / "served.csv").read_text().splitlines()
    assert len(lines) == 1 + len(one.pool)
    assert lines[0].replace('"', "").split(",") == one.table.column_names
