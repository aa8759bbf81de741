"""`blendsim search` from end to end."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from command_line import run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from test_cli_plan import KEYS, folder
from typer.testing import CliRunner

from blendsim.cli.app import app
from blendsim.cli.searching import gain_told, ranks_told
from blendsim.plan import read_plan
from blendsim.planner.make import OVERLAPPED
from blendsim.report.plots import sensitivities as plots
from blendsim.report.tables import leaderboard_table
from blendsim.search.judging import JUDGING_WORLDS
from blendsim.search.sweep import SAMPLING

__all__ = ["folder"]


def test_plan_file_reproduces_what_search_predicted(folder: Path) -> None:
    made = ("--trace", "trace.csv", "--evaluations", "30", "-o", "plan.parquet", "--json")
    told = json.loads(run("search", *made))
    assert told.keys() >= KEYS
    assert told["search"]["evaluations"] == 30
    assert told["search"]["worlds"] == JUDGING_WORLDS
    again = json.loads(run("simulate", "plan.parquet", "--json"))
    assert again["predicted_seconds"] == told["predicted_seconds"]
    assert again["seconds"] == told["seconds"]
    assert read_plan(Path("plan.parquet")).meta["search"]["evaluations"] == 30


def test_documented_keys_are_those_of_json(folder: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "search.md").read_text()
    documented = text.split("## Keys of `--json`")[1]
    asked = ("--trace", "trace.csv", "--sample", "0.1", "--evaluations", "8")
    told = json.loads(run("search", *asked, "--picture", "all.png", "--json"))
    own = told.keys() - told["rows"][0].keys()
    keys = [*own, *told["search"], *told["sensitivities"][0], "is_fixed"]
    assert [key for key in keys if f"`{key}`" not in documented] == []


def test_table_names_the_gain_and_how_to_repeat_it(folder: Path) -> None:
    said = run("search", "--trace", "trace.csv", "--evaluations", "30")
    assert "--evaluations 30 repeats this search" in " ".join(said.split())
    assert "rank" in said
    assert "fixed" in said
    is_found = "less than the best fixed policy" in said
    assert is_found == ("The searched schedule: policy " in " ".join(said.split()))


@pytest.mark.parametrize(
    ("gain", "told"),
    [
        (0.0312, "3.1% less than the best fixed policy"),
        (0.001, "0.1% less than the best fixed policy"),
        (0.0002, "hardly less than the best fixed policy, by under 0.1%"),
    ],
)
def test_a_gain_is_never_told_as_nothing(gain: float, told: str) -> None:
    assert gain_told(gain) == told


@pytest.mark.parametrize("name", ["all.png", "all.pdf"])
def test_picture_is_written_and_the_same_again(folder: Path, name: str) -> None:
    asked = ("search", "--trace", "trace.csv", "--evaluations", "12", "--picture")
    run(*asked, name)
    run(*asked, f"again-{name}")
    first = (folder / name).read_bytes()
    assert first[:4] in (b"\x89PNG", b"%PDF")
    assert first == (folder / f"again-{name}").read_bytes()


@pytest.mark.parametrize(("sample", "seconds"), [("1", "predicted"), ("0.1", "typical")])
def test_picture_says_which_seconds_it_draws(
    folder: Path, monkeypatch: pytest.MonkeyPatch, sample: str, seconds: str
) -> None:
    """As the leaderboard does: typical ones where not all lengths are known, but for other
    samples.
    """
    drawn = []

    def noted(figure: Figure) -> Any:
        drawn.append(figure)
        return FigureCanvasAgg(figure)

    monkeypatch.setattr(plots, "FigureCanvasAgg", noted)
    asked = ("--trace", "trace.csv", "--sample", sample, "--evaluations", "12")
    said = run("search", *asked, "--picture", "all.png")
    assert f"rank  {seconds}" in said
    labels = {axis.get_title(loc="left"): axis.get_ylabel() for axis in drawn[0].axes}
    assert labels["policy"] == f"{seconds} seconds"
    assert drawn[0].get_suptitle().startswith("150 requests of trace.csv; llama-3.1-8b on 1 × a100")
    if seconds == "typical":
        assert labels.pop(SAMPLING) == "predicted seconds"
    assert set(labels.values()) <= {f"{seconds} seconds", ""}


def test_budget_ends_the_search(folder: Path) -> None:
    told = json.loads(run("search", "--trace", "trace.csv", "--budget", "0.2s", "--json"))
    assert told["search"]["evaluations"] >= 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--budget", "soon"), "--budget soon is no time above 0; write it like 90s"),
        (("--budget", "0s"), "--budget 0s is no time above 0"),
        (("--evaluations", "0"), "--evaluations 0 must be at least 1"),
        (("--picture", "all.jpg"), "draws .png or .pdf"),
        (("--picture", "nowhere/all.png"), "does not exist"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = CliRunner().invoke(app, ["search", "--trace", "trace.csv", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.strip().count("\n") == 0


def test_leaderboard_has_columns_for_what_differs() -> None:
    class Entry(NamedTuple):
        seconds: float
        is_fixed: bool
        values: dict[str, Any]

    entries = [
        (1, Entry(9.0, False, {"policy": "blend", "merge size": 64, "token budget": 512})),
        (4, Entry(10.0, True, {"policy": "dfs", "token budget": 2_048})),
    ]
    assert leaderboard_table(entries, 120).lines == [
        "rank  predicted         policy  token budget",
        "────────────────────────────────────────────",
        "   1       9.00         blend            512",
        "   4      10.00  fixed  dfs            2,048",
    ]
    assert leaderboard_table(entries, 120, is_typical=True).lines == [
        "rank  typical         policy  token budget",
        "──────────────────────────────────────────",
        "   1     9.00         blend            512",
        "   4    10.00  fixed  dfs            2,048",
    ]


class Ranked(NamedTuple):
    seconds: float
    is_fixed: bool
    values: dict[str, Any]


def test_a_leaderboard_without_room_keeps_what_tells_rows_apart() -> None:
    """Rows 1 and 2 differ in the second of three parameters alone, rows 2 and 3 in all of them."""
    values = [(0.5, 64, 7), (0.5, 128, 7), (0.9, 256, 8)]
    entries = [
        (k + 1, Ranked(9.0, False, {"policy": "blend", "sharing": a, "size": b, "threshold": c}))
        for k, (a, b, c) in enumerate(values)
    ]
    assert leaderboard_table(entries, 36).lines == [
        "rank  predicted    policy  size",
        "───────────────────────────────",
        "   1       9.00    blend     64",
        "   2       9.00    blend    128",
        "   3       9.00    blend    256",
        "Also varied, and in --json: sharing,",
        "  threshold.",
    ]
    assert "Also varied" not in "".join(leaderboard_table(entries, 120).lines)


def test_of_rows_that_look_alike_a_leaderboard_has_the_first() -> None:
    values = [("a", "b"), ("c", "d"), ("e", "f")]
    entries = [
        (k + 1, Ranked(9.0 + k // 2, False, {"policy": "blend", "one": a, "two": b}))
        for k, (a, b) in enumerate(values)
    ]
    assert leaderboard_table(entries, 25).lines[2:] == [
        "   1       9.00    blend",
        "   3      10.00    blend",
        "Also varied, and in",
        "  --json: one, two.",
    ]


def test_missing_ranks_of_a_leaderboard_are_explained(folder: Path) -> None:
    values = [("a", "b"), ("c", "d"), ("e", "f")]
    entries = [
        (k + 1, Ranked(9.0 + k // 2, False, {"policy": "blend", "one": a, "two": b}))
        for k, (a, b) in enumerate(values)
    ]
    boards = (leaderboard_table(entries, columns) for columns in (120, 25))
    wide, narrow = (board.schedules for board in boards)
    first = "the first 8 and the fixed policies"
    alike = "of those that differ in nothing shown here the first"
    assert ranks_told(wide, 8, 3, 3) == []
    assert ranks_told(wide, 8, 3, 2_000) == [f"3 of 2,000 schedules: {first}."]
    assert ranks_told(narrow, 8, 3, 3) == [f"2 of 3 schedules: {alike}."]
    assert ranks_told(narrow, 8, 3, 40) == [f"2 of 40 schedules: {first}; {alike}."]
    asked = ("search", "--trace", "trace.csv", "--evaluations", "30", "--sample", "1")
    ranks = [int(rank) for rank in re.findall(r"^ *(\d+)  +\d.*$", run(*asked), re.MULTILINE)]
    tried = len(json.loads(run(*asked, "--json"))["leaderboard"])
    assert len(ranks) < tried
    assert f"{len(ranks)} of {tried} schedules: the first 8" in run(*asked)


def test_leaderboard_says_whether_seconds_are_typical_of_several_worlds(folder: Path) -> None:
    asked = ("search", "--trace", "trace.csv", "--evaluations", "30")
    said, told = run(*asked), json.loads(run(*asked, "--json"))
    assert re.search(r"^rank +typical ", said, re.MULTILINE)
    assert "compared by typical seconds, the geometric mean" in " ".join(said.split())
    assert f"{told['leaderboard'][0]['typical_seconds']:,.1f}" in said
    known = run(*asked, "--sample", "1")
    assert re.search(r"^rank +predicted ", known, re.MULTILINE)
    assert "typical" not in known


def test_auto_searches_on_and_says_so(folder: Path) -> None:
    asked = ("plan", "--trace", "trace.csv", "--evaluations", "30", "--sample", "1")
    told = json.loads(run(*asked, "-o", "plan.parquet", "--json"))
    assert told.keys() >= KEYS
    assert told["search"]["evaluations"] == 30
    assert [row["policy"] for row in told["rows"]] == [*OVERLAPPED, "search"]
    assert [row["policy"] for row in told["rows"] if row["chosen"]] == [told["policy"]]
    again = json.loads(run("simulate", "plan.parquet", "--json"))
    assert again["predicted_seconds"] == told["predicted_seconds"]
    said = " ".join(run(*asked).split())
    assert "* search" in said
    assert "The searched schedule: policy " in said
    assert "--evaluations 30 repeats this search" in said


def test_auto_that_finds_nothing_better_says_so(folder: Path) -> None:
    said = " ".join(run("plan", "--trace", "trace.csv", "--evaluations", "1").split())
    assert "No other schedule is predicted to be faster than the policies." in said


def test_same_evaluations_same_plan_bytes(folder: Path) -> None:
    for name in ("a", "b"):
        run("plan", "--trace", "trace.csv", "--evaluations", "30", "-o", name)
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--budget", "soon"), "--budget soon is no time above 0; write it like 90s"),
        (("--budget", "9s", "--planner", "dfs"), "--planner dfs takes one"),
        (("--evaluations", "9", "--gpu", "a100-80g,h200"), "search the schedules of one system"),
    ],
)
def test_what_auto_cannot_search_is_one_line(
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = CliRunner().invoke(app, ["plan", "--trace", "nothing.csv", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr, "and it is said before the trace is read"
    assert result.stderr.strip().count("\n") == 0
