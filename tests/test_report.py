"""`blendsim report`: a run's log as one page, and what the page may not do."""

import json
import re
from pathlib import Path

import pytest
from command_line import run
from report_pages import REPOSITORY, Page, changed, figures_of, measured, page_of, runs_in

from blendsim.report.timeline import ranks
from blendsim.steplog import StepLog, read_steplog, write_steplog


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs_in(tmp_path_factory.mktemp("runs"))


EVIL = "<script>alert('a & b')</script>"


@pytest.fixture(scope="module")
def page(home: Path) -> Page:
    """The page of the run on one replica."""
    return Page(page_of(home / "one.parquet"))


def test_key_figures_are_those_of_simulate(home: Path) -> None:
    for name in ("one", "two"):
        told = figures_of(home / f"{name}.parquet")
        simulated = json.loads((home / f"{name}.json").read_text())
        same = simulated.keys() & told.keys() - {"log", "notes"}
        assert {"seconds", "share_of_reachable", "share_of_optimum", "kv_use", "mfu", "mbu"} <= same
        assert {key: told[key] for key in same} == {key: simulated[key] for key in same}


def test_page_shows_the_figures_that_json_tells(home: Path, page: Page) -> None:
    told = figures_of(home / "one.parquet")
    for shown in (
        f"{told['tokens_per_second']:,.0f}",
        f"{100 * told['share_of_reachable']:.1f} %",
        f"{100 * told['share_of_optimum']:.1f} %",
        f"{told['input_tokens']:,} prompt",
        f"{100 * told['kv_use']:.1f} %",
        f"{100 * told['mfu']:.1f} %",
        f"{100 * told['mbu']:.1f} %",
        told["advice"][0],
    ):
        assert shown in page.text


def test_account_adds_up_to_the_run(home: Path) -> None:
    told = figures_of(home / "one.parquet")
    assert sum(told["losses"].values()) == pytest.approx(told["seconds"])
    assert told["losses"]["bound"] == pytest.approx(told["reachable_seconds"], 1e-5)
    assert told["losses"]["tail"] > 1.0


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
        assert {told[key] for key in ("sharing_ratio", "kv_use", "input_tokens", "mfu")} == {None}
        assert (told["preempted_tokens"], told["recomputed_tokens"]) == (None, None)
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
    for name in ("input_tokens", "output_tokens", "preempted_tokens", "recomputed_tokens"):
        assert told[name] == full[name]


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


def test_page_has_what_simulate_noted_and_names_the_lone_tail(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("num_prefill_tokens,num_decode_tokens\n" + "5,5\n" * 3000 + "20,900\n")
    plan, log = tmp_path / "p.parquet", tmp_path / "s.parquet"
    run("plan", "--trace", trace, "--planner", "fcfs", "-o", plan)
    simulated = json.loads(run("simulate", plan, "-o", log, "--json"))
    noted = [note for note in simulated["notes"] if "kernel profile was measured at" in note]
    assert noted
    page, told = Page(page_of(log)).text, figures_of(log)
    for note in simulated["notes"]:
        assert f"{note}." in told["notes"]
        assert f"Note: {note}." in page
    assert told["tail_seconds"] > 0.5 * told["seconds"]
    lone = f"{100 * told['few_seconds'] / told['seconds']:.1f} %"
    assert f"({lone}), all of it at the end; nearly always a single one." in page


def test_a_short_tail_is_not_worth_a_word(home: Path, page: Page) -> None:
    told = figures_of(home / "one.parquet")
    assert ("Fewer than 8" in page.text) == (told["few_seconds"] > 0.02 * told["seconds"])
