"""What `blendsim report` finds out about a log: its pool, its plan, and what is damaged in it."""

from dataclasses import replace
from pathlib import Path

import pytest
from command_line import run
from report_pages import Page, changed, figures_of, measured, page_of, runs_in

from blendsim.steplog import MEASURED_ROWS, TIMES, StepLog, read_steplog, write_steplog


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs_in(tmp_path_factory.mktemp("runs"))


def complaints(told: str) -> list[str]:
    """The lines of stderr but for stages, which a slow machine says."""
    return [line for line in told.splitlines() if not line.endswith("…")]


def test_lost_traces_cost_the_bounds_and_nothing_else(home: Path, tmp_path: Path) -> None:
    gone = {"traces": ["gone.csv"], "skip_oversize": False, "read": {}}
    log = changed(home / "one.parquet", tmp_path / "a.parquet", source=gone)
    told, full = figures_of(log), figures_of(home / "one.parquet")
    assert "gone.csv" in told["notes"][0]
    assert told["share_of_optimum"] is None
    for name in ("input_tokens", "output_tokens", "sharing_ratio", "kv_use", "gpu_hours"):
        assert told[name] == full[name]
    assert "gone.csv" in Page(page_of(log)).text


def test_traces_that_changed_are_noticed(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "t.csv"
    other.write_text((home / "t.csv").read_text().replace("\n", "\n1000,5\n", 1))
    source = {"traces": [str(other)], "skip_oversize": False, "read": {}}
    log = changed(home / "one.parquet", tmp_path / "a.parquet", source=source)
    assert "150 of 151 requests" in figures_of(log)["notes"][0]
    lines = (home / "t.csv").read_text().splitlines()
    other.write_text("\n".join([*lines[:-1], "1000,5"]) + "\n")
    assert "prompt tokens, the traces have" in figures_of(log)["notes"][0]
    lines[-1] = lines[-1].split(",")[0] + ",1000"
    other.write_text("\n".join(lines) + "\n")
    assert "output tokens, the traces have" in figures_of(log)["notes"][0]


@pytest.fixture(scope="module")
def full_memory(home: Path) -> Path:
    """The simulated log of a pool that threw requests out for want of memory."""
    (home / "c.toml").write_text(f"[settings]\nkv_bytes = {4_000 * 131_072}\nengine = 'vllm'\n")
    plan, log = home / "full-plan.parquet", home / "full.parquet"
    asked = ("--trace", home / "t.csv", "--config", home / "c.toml")
    run("plan", *asked, "--planner", "fcfs", "-o", plan)
    run("simulate", plan, "-o", log)
    assert read_steplog(log).count("preempted").any()
    return log


def test_another_pool_is_noticed_though_requests_were_thrown_out(
    home: Path, full_memory: Path, tmp_path: Path
) -> None:
    assert figures_of(full_memory)["notes"] == []
    other = tmp_path / "t.csv"
    source = {"traces": [str(other)], "skip_oversize": False, "read": {}}
    log = changed(full_memory, tmp_path / "a.parquet", source=source)
    first, *lines = (home / "t.csv").read_text().splitlines()
    for change, complaint in (
        (lambda prompt, _: f"{prompt},5", "output tokens, the traces have"),
        (lambda _, output: f"2000,{output}", "prompt tokens, the traces have"),
    ):
        rows = [change(*line.split(",")) for line in lines]
        other.write_text("\n".join([first, *rows]) + "\n")
        told = figures_of(log)
        assert complaint in told["notes"][0]
        assert told["share_of_reachable"] is None


def test_workload_that_is_named_takes_the_place_of_the_lost_one(home: Path, tmp_path: Path) -> None:
    full = figures_of(home / "one.parquet")
    for source in ({"traces": ["gone.csv"], "skip_oversize": False, "read": {}}, None):
        log = changed(home / "one.parquet", tmp_path / "a.parquet", source=source)
        told = figures_of(log, "--workload", home / "t.csv")
        assert told["share_of_optimum"] == full["share_of_optimum"]
        assert figures_of(log)["share_of_optimum"] is None


def test_workload_that_is_named_must_be_that_of_the_log(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "t.csv"
    other.write_text((home / "t.csv").read_text().replace("\n", "\n1000,5\n", 1))
    told = run("report", home / "one.parquet", "--workload", other, "--json", code=2)
    assert "150 of 151 requests" in told


def test_workload_that_is_named_for_a_run_that_broke_off_is_no_error(
    home: Path, tmp_path: Path
) -> None:
    log = changed(home / "one.parquet", tmp_path / "a.parquet", complete=False)
    assert "broke off" in figures_of(log, "--workload", home / "t.csv")["notes"][0]


def test_lost_profile_costs_the_bounds_and_nothing_else(home: Path, tmp_path: Path) -> None:
    full = figures_of(home / "one.parquet")
    settings = read_steplog(home / "one.parquet").meta["settings"] | {"profile": "gone"}
    log = changed(home / "one.parquet", tmp_path / "a.parquet", settings=settings)
    told = figures_of(log)
    assert "gone" in told["notes"][0]
    assert told["share_of_optimum"] is None
    for name in ("kv_use", "kv_most", "gpus", "gpu_hours", "token_budget", "input_tokens"):
        assert told[name] == full[name]
    assert "Compute and memory work" in Page(page_of(log)).text
    other = measured(home, tmp_path / "m.parquet", "NVIDIA A100 80GB")
    changed(other, other, settings=settings)
    assert figures_of(other)["kv_use"] == pytest.approx(full["kv_use"])
    assert "Compute and memory work" not in Page(page_of(other)).text


def test_plan_that_is_named_must_be_the_one_that_ran(home: Path) -> None:
    told = figures_of(home / "one.parquet", "--plan", home / "one-plan.parquet")
    assert told["notes"] == []
    wrong = run("report", home / "one.parquet", "--plan", home / "two-plan.parquet", code=2)
    assert "the log is of another plan" in wrong


def test_a_log_that_does_not_name_its_plan_is_noted_or_refused_by_its_policy(
    home: Path, tmp_path: Path
) -> None:
    log = read_steplog(home / "one.parquet")
    unnamed = tmp_path / "unnamed.parquet"
    meta = {name: value for name, value in log.meta.items() if name != "plan_sha256"}
    write_steplog(replace(log, meta=meta), unnamed)
    [note] = figures_of(unnamed, "--plan", home / "one-plan.parquet")["notes"]
    assert "does not name its plan" in note
    assert figures_of(unnamed)["notes"] == []
    other = tmp_path / "other.parquet"
    run("plan", "--trace", home / "t.csv", "--planner", "random", "-o", other)
    told = run("report", unnamed, "--plan", other, "--json", code=2)
    assert "other.parquet: is a plan of policy 'random', the log is of" in told


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", {}),
        ("source", {"traces": None, "read": {}, "skip_oversize": False}),
        ("source", {"traces": ["t.csv"], "skip_oversize": False}),
        ("settings", "llama"),
        ("machine", "NVIDIA A100"),
        ("machine", {"device": 5}),
        ("estimate", {}),
        ("estimate", {"measured": 3, "low": float("nan"), "high": 2.0, "level": 0.95}),
        (MEASURED_ROWS, []),
        (MEASURED_ROWS, None),
        ("not_counted", None),
        ("not_counted", "hit_tokens"),
        ("complete", "no"),
    ],
)
def test_damaged_metadata_are_told_in_one_line(
    home: Path, tmp_path: Path, name: str, value: object
) -> None:
    read = read_steplog(home / "one.parquet")
    log = tmp_path / "a.parquet"
    write_steplog(replace(read, meta={**read.meta, name: value}), log)
    for arguments in ((log,), (home / "one.parquet", "--against", log)):
        told = run("report", *arguments, "-o", tmp_path / "a.html", code=2)
        assert [line[:7] for line in complaints(told)] == ["error: "]
        assert f"{log}: {name}" in told
    assert not (tmp_path / "a.html").exists()


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_times_that_cannot_be_are_told_in_one_line(
    home: Path, tmp_path: Path, name: str, value: float
) -> None:
    read = read_steplog(home / "one.parquet")
    times = read.times.copy()
    times[3, TIMES.index(name)] = value
    write_steplog(replace(read, times=times), tmp_path / "a.parquet")
    told = run("report", tmp_path / "a.parquet", "--json", code=2)
    assert f"a.parquet: {name} = {value:g} in row 3" in told


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["gone.parquet"], "no such file"),
        (["one-plan.parquet"], "a steplog file is needed"),
        (["t.csv"], "not a Parquet file"),
        (["one.parquet", "-o", "none/a.html"], "does not exist"),
        (["one.parquet", "-o", "."], "is a directory"),
        (
            ["one.parquet", "-o", "a.pdf"],
            "a.pdf: a page is HTML; give -o a name that ends in .html",
        ),
        (["one.parquet", "--workload", "gone.csv"], "no such file"),
        (["one.parquet", "--against", "measured.parquet"], "is of plan"),
        (["measured.parquet", "--against", "measured.parquet"], "both logs were measured"),
        (["empty.parquet"], "holds no steps"),
    ],
)
def test_what_cannot_be_reported_is_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], complaint: str
) -> None:
    log = read_steplog(home / "one.parquet")
    empty = StepLog(log.counts[:0], log.times[:0], log.replica[:0], log.meta)
    write_steplog(empty, home / "empty.parquet")
    changed(home / "two.parquet", home / "measured.parquet", machine={"device": "cpu"})
    monkeypatch.chdir(home)
    told = run("report", *arguments, code=2)
    assert complaint in told
    assert [line[:7] for line in complaints(told)] == ["error: "]
    assert not (home / "report.html").exists()


def test_a_model_with_windows_has_an_account_that_adds_up(home: Path, tmp_path: Path) -> None:
    plan, log = tmp_path / "plan.parquet", tmp_path / "steps.parquet"
    asked = ("--trace", home / "t.csv", "--model", "gpt-oss-20b", "--gpu", "h100")
    run("plan", *asked, "--planner", "dfs", "-o", plan)
    run("simulate", plan, "-o", log)
    told = figures_of(log)
    assert sum(told["losses"].values()) == pytest.approx(told["seconds"])
    assert "Of “" not in Page(page_of(log)).text, "the bound counts windows, too"
