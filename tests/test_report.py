"""`blendsim report`: a run's log as one page, and what the page may not do."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from blendsim.cli.app import app
from blendsim.perf.pricing import StepWork
from blendsim.report.opening import duration
from blendsim.report.plots.panel import draw_panel, line
from blendsim.report.timeline import PARTS, durations, longest_steps, ranks, timeline
from blendsim.report.validate import as_json, validate
from blendsim.steplog import COUNTS, MEASURED_ROWS, TIMES, StepLog, read_steplog, write_steplog

REPOSITORY = Path(__file__).resolve().parents[1]
EVIL = "<script>alert('a & b')</script>"
VOID = {"meta", "br", "hr", "img", "link"}


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace, plans of it for one replica and for two, and their simulated logs."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(5)
    rows = [f"{p},{d}" for p, d in zip(*rng.integers(1, 900, (2, 150)).tolist(), strict=True)]
    trace = folder / "t.csv"
    trace.write_text("num_prefill_tokens,num_decode_tokens\n" + "\n".join(rows) + "\n")
    for name, dp in (("one", 1), ("two", 2)):
        plan = folder / f"{name}-plan.parquet"
        run("plan", "--trace", trace, "--planner", "blend", "--dp", dp, "-o", plan)
        told = run("simulate", plan, "-o", folder / f"{name}.parquet", "--json")
        (folder / f"{name}.json").write_text(told)
    return folder


def changed(log: Path, place: Path, **meta: Any) -> Path:
    """A copy of the log with other metadata; None takes an entry away."""
    read = read_steplog(log)
    kept = {key: value for key, value in {**read.meta, **meta}.items() if value is not None}
    write_steplog(replace(read, meta=kept), place)
    return place


def page_of(log: Path, *options: object) -> str:
    """The page that `report` writes beside the log."""
    place = log.with_suffix(".html")
    assert run("report", log, *options, "-o", place) == f"page written to {place}\n"
    return place.read_text()


def figures_of(log: Path, *options: object) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(run("report", log, *options, "--json"))
    return told


class Page(HTMLParser):
    """Tags that stand open, all attributes' values, and the text; the tags must match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.values: list[tuple[str, str]] = []
        self.text = ""
        self.source = text
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.values += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.values += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def page(home: Path) -> Page:
    """The page of the run on one replica."""
    return Page(page_of(home / "one.parquet"))


def test_key_figures_are_those_of_simulate(home: Path) -> None:
    for name in ("one", "two"):
        told = figures_of(home / f"{name}.parquet")
        simulated = json.loads((home / f"{name}.json").read_text())
        same = simulated.keys() & told.keys() - {"log", "notes"}
        assert {"seconds", "share_of_reachable", "share_of_optimum", "kv_use"} <= same
        assert {key: told[key] for key in same} == {key: simulated[key] for key in same}


def test_page_shows_the_figures_that_json_tells(home: Path, page: Page) -> None:
    told = figures_of(home / "one.parquet")
    for shown in (
        f"{told['tokens_per_second']:,.0f}",
        f"{100 * told['share_of_reachable']:.1f} %",
        f"{100 * told['share_of_optimum']:.1f} %",
        f"{told['input_tokens']:,} prompt",
        f"{100 * told['kv_use']:.1f} %",
        told["advice"][0],
    ):
        assert shown in page.text


def test_account_adds_up_to_the_run(home: Path) -> None:
    told = figures_of(home / "one.parquet")
    assert sum(told["losses"].values()) == pytest.approx(told["seconds"])
    assert told["losses"]["bound"] == pytest.approx(told["reachable_seconds"], 1e-5)
    assert told["losses"]["size"] > 1.0


def test_page_stands_alone(page: Page) -> None:
    assert page.open == []
    assert page.tags & {"script", "link", "img", "iframe", "object"} == set()
    reached = [value for name, value in page.values if name in ("src", "href", "xlink:href")]
    assert [value for value in reached if not value.startswith("#")] == []


def test_pictures_share_no_names(page: Page) -> None:
    names = [value for name, value in page.values if name == "id"]
    assert len(names) > 100
    assert len(names) == len(set(names))
    values = " ".join(f'{name}="{value}"' for name, value in page.values)
    meant = {a or b for a, b in re.findall(r"url\(#([^)]*)\)|href=\"#([^\"]*)\"", values)}
    assert meant
    assert meant <= set(names)


def test_same_log_gives_the_same_page(home: Path, page: Page) -> None:
    assert Page(page_of(home / "one.parquet")).source == page.source


def test_text_from_the_log_is_escaped(home: Path, tmp_path: Path) -> None:
    machine = {"device": EVIL, EVIL: EVIL}
    log = changed(
        home / "two.parquet",
        tmp_path / f"a{EVIL.replace('/', '')}.parquet",
        policy=EVIL,
        machine=machine,
        runtime=EVIL,
        topology=EVIL,
        pools=[EVIL, EVIL],
        source={"traces": [EVIL], "read": {}, "skip_oversize": False},
    )
    page = Page(page_of(log))
    assert "script" not in page.tags
    assert page.text.count(EVIL) > 6


def test_name_of_the_second_log_is_escaped(home: Path, tmp_path: Path) -> None:
    log = changed(home / "one.parquet", tmp_path / "a.parquet")
    other = measured(home, tmp_path / "<script>m.parquet", "NVIDIA A100 80GB")
    page = Page(page_of(log, "--against", other))
    assert "script" not in page.tags
    assert "<script>m.parquet" in page.text


def test_every_rank_has_its_line_and_the_last_is_named(home: Path, tmp_path: Path) -> None:
    log = changed(home / "two.parquet", tmp_path / "a.parquet")
    text = Page(page_of(log)).text
    each = ranks(read_steplog(log))
    last = max(each, key=lambda rank: rank.ends)
    assert f"Rank {last.replica} finishes last" in text
    assert all(f"{rank.tokens:,}" in text for rank in each)
    assert "losses are told for one" in text


def test_broken_off_run_says_so_and_has_no_bounds(home: Path, tmp_path: Path) -> None:
    whole = read_steplog(home / "one.parquet")
    half = len(whole) // 2
    part = StepLog(
        whole.counts[:half],
        whole.times[:half],
        whole.replica[:half],
        {**whole.meta, "complete": False},
    )
    write_steplog(part, tmp_path / "a.parquet")
    told = figures_of(tmp_path / "a.parquet")
    assert told["is_complete"] is False
    assert told["reachable_seconds"] is None
    assert "The run broke off" in told["notes"][0]
    assert "did not serve all of its pool" in told["notes"][1]
    text = Page(page_of(tmp_path / "a.parquet")).text
    assert "The run broke off" in text
    told_tokens = f"{told['input_tokens']:,} prompt and {told['output_tokens']:,} output tokens"
    assert 0 < told["requests"] < 150
    assert f"{told['requests']} requests finished; {told_tokens} processed, in {half:,}" in text


def test_sampled_replay_that_broke_off_is_told_as_a_guess(home: Path, tmp_path: Path) -> None:
    rows = {MEASURED_ROWS: list(range(12)), "complete": False}
    log = changed(home / "one.parquet", tmp_path / "a.parquet", **rows)
    steps = f"12 of {len(read_steplog(log)):,} steps were measured"
    told, text = figures_of(log), Page(page_of(log)).text
    assert steps in told["notes"][0]
    assert "a guess" in told["notes"][0]
    assert "150 of 150" not in told["notes"][1]
    assert f"{steps}; the whole" in text
    assert "finished" not in text


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


def test_log_without_settings_is_shown_as_far_as_it_tells(home: Path, tmp_path: Path) -> None:
    bare = dict.fromkeys(("settings", "source", "policy", "engine", "topology", "plan_sha256"))
    log = changed(home / "one.parquet", tmp_path / "a.parquet", **bare)
    told = figures_of(log)
    assert "does not say by which settings" in told["notes"][0]
    assert (told["policy"], told["gpus"], told["kv_use"]) == (None, None, None)
    assert Page(page_of(log)).open == []


def test_columns_that_were_not_counted_are_left_out(home: Path, tmp_path: Path) -> None:
    unknown = ["hit_tokens", "held_blocks", "preempted", "preempted_tokens"]
    for name in ("one", "two"):
        log = changed(home / f"{name}.parquet", tmp_path / "a.parquet", not_counted=unknown)
        log = changed(log, log, source=None)
        told = figures_of(log)
        assert {told[key] for key in ("sharing_ratio", "kv_use", "input_tokens")} == {None}
        assert told["preempted_tokens"] is None
        page = Page(page_of(log)).text
        shown = page.split("Over time")[1]
        assert "KV" not in shown
        assert "recomputed" not in shown
        assert "preempted" not in shown


@pytest.mark.parametrize(
    ("unknown", "title"),
    [
        ("decode_requests", "Decodes and the context they read"),
        ("context_tokens", "Decodes and the context they read"),
        ("running", "Requests in the engine and in line"),
        ("waiting", "Requests in the engine and in line"),
    ],
)
def test_pictures_of_what_was_not_counted_are_left_out(
    home: Path, tmp_path: Path, page: Page, unknown: str, title: str
) -> None:
    log = changed(home / "one.parquet", tmp_path / "a.parquet", not_counted=[unknown])
    assert title in page.text
    assert title not in Page(page_of(log)).text


def test_blocks_that_were_not_counted_are_not_shown_as_free(home: Path, tmp_path: Path) -> None:
    log = changed(home / "one.parquet", tmp_path / "a.parquet", not_counted=["cached_blocks"])
    text = Page(page_of(log)).text
    assert "held by running requests" in text
    assert "free" not in text.split("Where the seconds go")[0]


def test_tokens_are_known_where_an_engine_does_not_tell_those_it_lost(
    home: Path, tmp_path: Path
) -> None:
    full = figures_of(home / "one.parquet")
    unknown = ["preempted_tokens", "cached_blocks"]
    told = figures_of(
        changed(home / "one.parquet", tmp_path / "a.parquet", not_counted=unknown, source=None)
    )
    for name in ("input_tokens", "output_tokens", "preempted_tokens"):
        assert told[name] == full[name]


def measured(home: Path, place: Path, device: str) -> Path:
    """The log as a machine might have written it: whole steps timed, a tenth longer."""
    log = read_steplog(home / "one.parquet")
    times = log.times * 1.1
    times[:, TIMES.index("compute_seconds") :] = 0.0
    meta = {**log.meta, "runtime": "blendrt", "machine": {"device": device}}
    write_steplog(replace(log, times=times, meta=meta), place)
    return place


def test_second_log_is_set_beside_the_first(home: Path, tmp_path: Path) -> None:
    log = changed(home / "one.parquet", tmp_path / "a.parquet")
    other = measured(home, tmp_path / "m.parquet", "NVIDIA A100 80GB")
    told = figures_of(log, "--against", other)
    found = validate(read_steplog(log), read_steplog(other))
    assert told["validation"] == json.loads(json.dumps(as_json(found)))
    assert told["against"]["seconds"] == pytest.approx(1.1 * told["seconds"])
    text = Page(page_of(log, "--against", other)).text
    assert f"{100 * found.total.error:+.1f} %" in text


def test_errors_are_of_the_simulated_log_whichever_comes_first(home: Path, tmp_path: Path) -> None:
    log = changed(home / "one.parquet", tmp_path / "a.parquet")
    other = measured(home, tmp_path / "m.parquet", "NVIDIA A100 80GB")
    told = figures_of(other, "--against", log)
    found = validate(read_steplog(log), read_steplog(other), (str(log), str(other)))
    assert told["validation"] == json.loads(json.dumps(as_json(found)))
    assert told["against"]["seconds"] == pytest.approx(told["seconds"] / 1.1)
    text = Page(page_of(other, "--against", log)).text
    assert f"{100 * found.total.error:+.1f} %" in text


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
        assert [line[:7] for line in told.splitlines()] == ["error: "]
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


def test_measured_steps_are_priced_by_the_model_of_their_settings(
    home: Path, tmp_path: Path
) -> None:
    simulated = read_steplog(home / "one.parquet")
    from blendsim.cli.reported import find

    other = read_steplog(measured(home, tmp_path / "m.parquet", "NVIDIA A100 80GB"))
    found = find(other, None, None, lambda _: None)
    assert found.work is not None
    assert found.work.compute == pytest.approx(simulated.time("compute_seconds"))
    assert found.work.memory == pytest.approx(simulated.time("memory_seconds"))
    assert found.hindsight is not None
    assert found.hindsight.account is None


def test_another_machine_than_planned_has_no_bounds_and_no_priced_work(
    home: Path, tmp_path: Path
) -> None:
    log = measured(home, tmp_path / "m.parquet", "cpu")
    told, text = figures_of(log), Page(page_of(log)).text
    assert "cpu was measured" in told["notes"][0]
    assert (told["share_of_optimum"], told["gpus"]) == (None, None)
    assert "Compute and memory work" not in text
    assert "Measured run: blend, llama-3.1-8b, cpu" in text


def test_sampled_replay_shows_its_interval_and_its_own_steps(home: Path, tmp_path: Path) -> None:
    estimate = {"measured": 12, "low": 20.0, "high": 30.0, "level": 0.95}
    rows = {MEASURED_ROWS: list(range(12)), "estimate": estimate}
    text = Page(page_of(changed(home / "one.parquet", tmp_path / "a.parquet", **rows))).text
    assert "takes 20 to 30 s, 95% sure" in text
    assert "The 10 longest steps. Of the 12 that were measured." in text


def test_plan_that_is_named_must_be_the_one_that_ran(home: Path) -> None:
    told = figures_of(home / "one.parquet", "--plan", home / "one-plan.parquet")
    assert told["notes"] == []
    wrong = run("report", home / "one.parquet", "--plan", home / "two-plan.parquet", code=2)
    assert "the log is of another plan" in wrong


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["gone.parquet"], "no such file"),
        (["one-plan.parquet"], "a steplog file is needed"),
        (["t.csv"], "not a Parquet file"),
        (["one.parquet", "-o", "none/a.html"], "does not exist"),
        (["one.parquet", "-o", "."], "is a directory"),
        (["one.parquet", "--workload", "gone.csv"], "no such file"),
        (["one.parquet", "--against", "measured.parquet"], "is of plan"),
        (["one.parquet", "--against", "two.parquet"], "both logs were simulated"),
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
    assert [line[:7] for line in told.splitlines()] == ["error: "]
    assert not (home / "report.html").exists()


def test_page_is_report_html_where_nothing_else_is_said(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    figures_of(home / "one.parquet")
    assert list(tmp_path.iterdir()) == []
    assert run("report", home / "one.parquet") == "page written to report.html\n"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_documented_keys_are_those_of_json(home: Path) -> None:
    text = (REPOSITORY / "docs" / "report.md").read_text()
    documented = text.split("## Keys of `--json`")[1]
    assert [key for key in figures_of(home / "one.parquet") if f"`{key}`" not in documented] == []


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


def test_last_word_on_bounds_is_that_of_the_work_where_one_request_takes_longest(
    tmp_path: Path,
) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("num_prefill_tokens,num_decode_tokens\n" + "20,5\n" * 40 + "20,400\n")
    plan, log = tmp_path / "p.parquet", tmp_path / "s.parquet"
    run("plan", "--trace", trace, "--planner", "fcfs", "-o", plan)
    run("simulate", plan, "-o", log)
    told = figures_of(log)
    assert told["losses"]["bound"] < 0.9 * told["reachable_seconds"]
    assert "bound of the work:" in Page(page_of(log)).text
