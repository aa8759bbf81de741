"""bench/gpu_vllm.py on a stand-in for vLLM: which runs it makes on one engine, when it stops."""

import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from replay_worlds import job_of, planned
from vllm_stand_in import StandInLLM, StandInScheduler, install

from blendsim.serving.flavour import find_flavour
from blendsim.settings import Settings
from blendsim.steplog import read_steplog


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[StandInLLM]:
    return install(monkeypatch)


@pytest.fixture
def script(
    vllm: type[StandInLLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """bench/gpu_vllm.py on two orders of the pool, with further arguments: what it prints."""
    import gpu_vllm

    plans = tmp_path / "plans"
    plans.mkdir()
    jobs = {policy: job_of(*planned(policy, "vllm")) for policy in ("dfs", "blend")}
    for policy in jobs:
        (plans / f"small-{policy}.parquet").touch()

    def job(one: Any, engine: str) -> tuple[Any, dict[str, Any]]:
        return jobs[one.policy], {"settings": {"engine": "vllm", "token_budget": None}}

    def run(*further: str) -> str:
        argv = ["gpu_vllm.py", "--plans", str(plans), "--pool", "small", "--model", "tiny"]
        monkeypatch.setattr(sys, "argv", [*argv, "-o", str(tmp_path / "out"), *further])
        printed = StringIO()
        with redirect_stdout(printed):
            gpu_vllm.main()
        return printed.getvalue()

    monkeypatch.setattr(gpu_vllm, "read_job", job)
    return run


def runs_told(printed: str) -> list[list[str]]:
    """Policy and budget of every row of the table."""
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| small")]
    return [row[1:3] for row in rows]


def test_the_script_runs_every_order_on_one_engine_and_goes_on_where_it_stopped(
    vllm: type[StandInLLM], script: Callable[..., str], tmp_path: Path
) -> None:
    first = script("--budget", "96", "48")
    assert runs_told(first) == [["dfs", "96"], ["dfs", "48"], ["blend", "96"], ["blend", "48"]]
    assert len(vllm.made) == 1
    assert (tmp_path / "out" / "summary.md").read_text() == first
    assert script("--budget", "96", "48") == first
    assert len(vllm.made) == 1


def test_vllm_follows_every_plan_beside_itself(
    vllm: type[StandInLLM], script: Callable[..., str], tmp_path: Path
) -> None:
    printed = script("--budget", "96", "--scheduler", "plan", "vllm")
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| small")]
    assert [[each[1], each[4]] for each in rows] == [
        ["dfs", "plan"],
        ["dfs", "vllm"],
        ["blend", "plan"],
        ["blend", "vllm"],
    ]
    differed = [each[8] for each in rows]
    assert differed[1:] == ["–", "0", "–"]
    assert int(differed[0]) <= 3, "of hundreds: where whole prompts are shared the two can part"
    assert len(vllm.made) == 1
    in_order = read_steplog(tmp_path / "out" / "small-dfs-followed-96.parquet")
    greedy = read_steplog(tmp_path / "out" / "small-dfs-vllm-96.parquet")
    preempted = [int(log.count("preempted").sum()) for log in (in_order, greedy)]
    assert preempted[0] < preempted[1], "who enters goes by the predicted peak"
    followed = read_steplog(tmp_path / "out" / "small-blend-followed-96.parquet")
    by_itself = read_steplog(tmp_path / "out" / "small-blend-vllm-96.parquet")
    assert followed.meta["followed"][0]["steps"] == len(followed)
    assert followed.count("held_blocks").tolist() != by_itself.count("held_blocks").tolist()


def test_a_plan_with_a_token_budget_of_its_own_is_followed_under_that_alone(
    script: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import gpu_vllm

    usual = gpu_vllm.read_job

    def job(one: Any, engine: str) -> tuple[Any, dict[str, Any]]:
        return usual(one, engine)[0], {"settings": {"engine": "vllm", "token_budget": 48}}

    monkeypatch.setattr(gpu_vllm, "read_job", job)
    printed = script("--policy", "blend", "--budget", "96", "72", "--scheduler", "plan", "vllm")
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| small")]
    assert [[row[2], row[4]] for row in rows] == [["48", "plan"], ["96", "vllm"], ["72", "vllm"]]


def test_runs_are_named_one_by_one_with_a_limit_of_their_own(
    vllm: type[StandInLLM], script: Callable[..., str], tmp_path: Path
) -> None:
    printed = script("--runs", "small/blend/vllm/96/5", "small/dfs/vllm/48", "small/dfs/plan/96")
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| small")]
    usual = f"{find_flavour('vllm', 96).max_running:,}"
    assert [row[1:5] for row in rows] == [
        ["blend", "96", "5", "vllm"],
        ["dfs", "48", "48", "vllm"],
        ["dfs", "96", usual, "plan"],
    ]
    assert len(vllm.made) == 1
    log = read_steplog(tmp_path / "out" / "small-blend-vllm-96-of-5.parquet")
    assert log.count("running").max() == 5
    assert (log.meta["token_budget"], log.meta["max_running"]) == (96, 5)


def test_a_run_that_is_none_is_refused(
    script: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("small/dfs/vllm", "small/dfs/nobody/96", "small/dfs/vllm/96/5/5"):
        with pytest.raises(SystemExit):
            script("--runs", text)
        assert text in capsys.readouterr().err


def test_pools_of_less_memory_run_on_the_engine_of_the_most(
    vllm: type[StandInLLM],
    script: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import gpu_vllm

    alone = script("--budget", "96", "--scheduler", "vllm", "plan", "--policy", "dfs")
    whole = {path.name: read_steplog(path) for path in (tmp_path / "out").glob("*.parquet")}
    usual = gpu_vllm.read_job

    def job(one: Any, engine: str) -> tuple[Any, dict[str, Any]]:
        job, meta = usual(one, engine)
        if one.policy == "blend":
            job = job._replace(system=replace(job.system, kv_bytes=3 * job.system.kv_bytes))
        return job, meta

    monkeypatch.setattr(gpu_vllm, "read_job", job)
    beside = tmp_path / "beside"
    both = script("--budget", "96", "--scheduler", "vllm", "plan", "-o", str(beside))
    assert [row[:2] for row in runs_told(both)] == [["dfs", "96"]] * 2 + [["blend", "96"]] * 2
    assert len(vllm.made) == 2
    assert runs_told(alone) == [["dfs", "96"]] * 2
    for name, log in whole.items():
        assert read_steplog(beside / name).counts.tolist() == log.counts.tolist()
    held = read_steplog(beside / "small-blend-vllm-96.parquet").count("held_blocks")
    usual_blocks = max(int(log.count("held_blocks").max()) for log in whole.values())
    assert held.max() > usual_blocks


def test_vllm_reserves_of_outputs_what_the_plan_asks_for(script: Callable[..., str]) -> None:
    import gpu_vllm

    asked = Settings(token_budget=512, output_reserved=0.125)
    flavour = gpu_vllm.vllm_job(job_of(*planned("blend", "vllm")), asked, 96).flavour
    assert flavour == find_flavour("vllm", 96, output_reserved=0.125)
    assert flavour != find_flavour("vllm", 96)


def test_the_script_starts_no_run_when_its_time_is_over(
    vllm: type[StandInLLM], script: Callable[..., str]
) -> None:
    script("--budget", "96", "--policy", "dfs")
    assert runs_told(script("--budget", "96", "--within", "0")) == [["dfs", "96"]]
    assert len(vllm.made) == 1


def test_a_run_that_does_not_end_in_time_is_cut_short(
    script: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = StandInScheduler.schedule

    def slow(scheduler: StandInScheduler) -> Any:
        time.sleep(0.2)
        return plain(scheduler)

    assert script("--budget", "96", "--prepare") == ""  # compiles, out of the time below
    script("--budget", "96", "--policy", "dfs")
    monkeypatch.setattr(StandInScheduler, "schedule", slow)
    monkeypatch.setattr("blendrt.vllm.feed.warm_up", lambda engine, job, vocab: None)
    assert runs_told(script("--budget", "96", "--within", "4")) == [["dfs", "96"]]
    broken = read_steplog(tmp_path / "out" / "small-blend-vllm-96.broken.parquet")
    assert not broken.meta["complete"]
    assert 0 < broken.count("finished").sum() < 200
