"""`blendsim report --against` another simulated run: why one is slower than the other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from report_pages import Page, changed, figures_of, page_of, runs_in

from blendsim.report.account import WORK
from blendsim.report.contrast import Contrast, Side, words
from blendsim.report.gist import gist
from blendsim.report.losses import CAUSES, PHASES, Losses
from blendsim.steplog import COUNTS, TIMES, StepLog, read_steplog, write_steplog


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs as of `runs_in`, and `small.parquet`: the plan for one replica at 64 tokens a step."""
    folder = runs_in(tmp_path_factory.mktemp("runs"))
    budget = ("--token-budget", 64, "-o", folder / "small.parquet")
    run("simulate", folder / "one-plan.parquet", *budget)
    return folder


def test_differences_of_the_account_add_up_to_the_runs(home: Path) -> None:
    told = figures_of(home / "small.parquet", "--against", home / "one.parquet")
    other = figures_of(home / "one.parquet")
    assert {key: told["against"][key] for key in told["against"]} == {
        key: other[key] for key in told["against"]
    }
    first, second = told["both_losses"]
    assert second == pytest.approx(other["losses"])  # its own budget is the larger
    assert first["bound"] == pytest.approx(second["bound"])
    assert sum(first.values()) == pytest.approx(told["seconds"])
    more = {key: first[key] - second[key] for key in first}
    assert sum(more.values()) == pytest.approx(told["seconds"] - other["seconds"])
    largest = max(more, key=lambda key: more[key])
    word = {"size": "step size", "kv": "KV, mix", "floors": "head, prefill"}.get(largest, largest)
    assert told["difference"].startswith("small.parquet takes ")
    assert "longer than one.parquet" in told["difference"]
    first = told["difference"].split(":")[0]
    assert f"“{word}”" in first
    assert f"{more[largest]:.4g} s, is" in first


def test_page_begins_with_the_difference_and_has_both_runs(home: Path, tmp_path: Path) -> None:
    log = changed(home / "small.parquet", tmp_path / "a.parquet")
    page = Page(page_of(log, "--against", home / "one.parquet"))
    told = figures_of(log, "--against", home / "one.parquet")
    assert page.open == []
    assert told["difference"] in page.text.split("finished in")[0]
    part = page.text.split("Against the other run")[1].split("Over time")[0]
    for figures in (told, told["against"]):
        assert f"{figures['tokens_per_second']:,.0f}" in part
        assert f"{100 * figures['kv_use']:.1f} %" in part
        assert f"{figures['steps']:,}" in part
    gap = told["seconds"] - told["against"]["seconds"]
    assert f"{gap:+,.4f}" in part or f"{gap:+,.1f}" in part
    assert f"bound: {WORK}" in part
    assert "another engine or GPU" not in part
    for title in ("Seconds lost by tenth of one.parquet", "Running requests", "KV blocks held"):
        assert title in part
    assert "Dashed: one.parquet" in part
    names = [value for name, value in page.values if name == "id"]
    assert len(names) == len(set(names))


def test_a_bound_that_both_runs_share_is_not_said_to_be_another_machines() -> None:
    [bound, *_] = Contrast(side("a", 100.0, size=60.0), side("b", 100.0)).parts
    assert words(bound) == ("bound", WORK)
    [bound, *_] = Contrast(side("a", 100.0, size=60.0), side("b", 110.0)).parts
    assert words(bound)[1] == "the work itself is priced for another engine or GPU"


def test_the_faster_run_may_come_first(home: Path) -> None:
    told = figures_of(home / "one.parquet", "--against", home / "small.parquet")["difference"]
    assert "one.parquet takes" in told
    assert "s less than small.parquet (-" in told


def test_a_run_against_itself_takes_equally_long(home: Path) -> None:
    log = home / "one.parquet"
    told = figures_of(log, "--against", log)["difference"]
    assert "take equally long" in told
    assert str(log) in told  # both files are called the same


def test_without_an_account_the_difference_says_what_is_lacking(home: Path, tmp_path: Path) -> None:
    told = figures_of(home / "one.parquet", "--against", home / "two.parquet")
    assert told["both_losses"] == [told["losses"], None]
    assert "is not told: two.parquet: " in told["difference"]
    assert "losses are told for one" in told["difference"]
    log = changed(home / "two.parquet", tmp_path / "a.parquet")
    page = Page(page_of(log, "--against", home / "one.parquet")).text
    assert "Means of the ranks" in page
    gone = {"traces": ["gone.csv"], "skip_oversize": False, "read": {}}
    lost = changed(home / "one.parquet", tmp_path / "b.parquet", source=gone)
    told = figures_of(lost, "--against", home / "small.parquet")
    assert "is not told" in told["difference"]
    assert told["against"]["seconds"] > told["seconds"]
    assert any("pool of the first log cannot be read" in note for note in told["notes"])


def test_runs_of_other_pools_or_models_are_refused(home: Path, tmp_path: Path) -> None:
    log = read_steplog(home / "one.parquet")
    fewer = StepLog(log.counts[:-1], log.times[:-1], log.replica[:-1], log.meta)
    write_steplog(fewer, tmp_path / "fewer.parquet")
    told = run("report", home / "one.parquet", "--against", tmp_path / "fewer.parquet", code=2)
    assert "the first log of 150; give two whole runs of one pool" in told
    settings = {**log.meta["settings"], "model": "qwen3-8b"}
    other = changed(home / "one.parquet", tmp_path / "other.parquet", settings=settings)
    told = run("report", home / "one.parquet", "--against", other, code=2)
    assert "it is of qwen3-8b, the first log of llama-3.1-8b" in told


def side(name: str, bound: float, **lost: float) -> Side:
    """A run that loses so many seconds to causes."""
    steps = np.zeros((PHASES, len(CAUSES)))
    steps[0] = [lost.get(cause, 0.0) for cause in CAUSES]
    again = lost.get("again", 0.0)
    seconds = bound + float(steps.sum()) + again
    times = np.zeros((1, len(TIMES)))
    times[0, TIMES.index("seconds")] = seconds
    times[0, TIMES.index("compute_seconds")] = seconds
    log = StepLog(np.ones((1, len(COUNTS)), np.int64), times, np.zeros(1, np.int32), {})
    account = Losses(seconds, bound, steps, again)
    return Side(name, log, gist(log, None, None), None, None, account, "", [])


def test_causes_are_named_by_size_and_those_that_go_the_other_way_too() -> None:
    slow, fast = side("a", 100.0, size=60.0, kv=30.0), side("b", 100.0, kv=5.0, again=20.0)
    told = Contrast(slow, fast).told
    assert told.startswith("a takes 65 s longer than b (+52.0%); most of it, 60 s, is “step size”:")
    assert told.endswith("Then come 25 s of “KV, mix”. The other way go 20 s of “done again”.")
    assert Contrast(fast, slow).told.startswith("b takes 65 s less than a (-34.2%); most of it, 60")


def test_a_cause_beyond_the_whole_difference_is_said_to_be() -> None:
    told = Contrast(side("a", 100.0, size=30.0), side("b", 110.0)).told
    assert "; all of it and more, 30 s, is “step size”" in told
    assert "The other way go 10 s of “bound”." in told


def test_without_a_cause_of_half_the_difference_the_largest_is_named() -> None:
    lost = {"overlap": 4.0, "attention": 3.0, "floors": 3.0, "size": 2.0}
    told = Contrast(side("a", 100.0, **lost), side("b", 100.0)).told
    assert "; the largest part, 4 s, is “overlap”" in told
    assert "3 s of “attention”, 3 s of “head, prefill” and 2 s of “step size”." in told


def test_side_without_account_has_no_parts() -> None:
    one = side("a", 1.0, kv=1.0)
    assert Contrast(one, replace(one, account=None)).parts == []


def test_notes_say_which_run_they_are_of_and_stand_once(home: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one.parquet", tmp_path / "other.parquet"
    changed(home / "one.parquet", one, notes=["of the pool", "of the first"])
    changed(home / "small.parquet", other, notes=["of the pool", "of the second"])
    noted = ["of the pool.", "of the first.", "other.parquet: of the second."]
    assert figures_of(one, "--against", other)["notes"] == noted
    text = Page(page_of(one, "--against", other)).text
    assert [text.count(f"Note: {note}") for note in noted] == [1, 1, 1]
