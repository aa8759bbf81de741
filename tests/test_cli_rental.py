"""plan on several systems from end to end: what a user types, and what comes out."""

import json
import re
from pathlib import Path

import pytest
from command_line import run, run_json
from test_cli_errors import complaint
from test_cli_plan import write_csv
from test_readme import REPOSITORY, SHOWN, numbers, words
from typer.testing import CliRunner

from blendsim.cli.app import app
from blendsim.cli.lists import read_seconds, read_systems
from blendsim.errors import InputError
from blendsim.plan import read_plan
from blendsim.search.prices import read_prices

PRICES = 'currency = "EUR"\n[gpu_hour]\na100-80g = 1.5\nh200 = 4\n'
PLAN = ("plan", "--trace", "trace.csv", "--planner", "dfs")
BOTH = ("--gpu", "a100-80g,h200", "--dp", "1..2")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a trace and a price list in it."""
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "trace.csv")
    (tmp_path / "prices.toml").write_text(PRICES)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_one_system_named_is_planned_as_if_it_were_not_named() -> None:
    plain = run(*PLAN)
    assert run(*PLAN, "--gpu", "a100-80g", "--tp", "1", "--dp", "1") == plain
    assert run(*PLAN, "--gpu", " a100-80g", "--dp", "1..1") == plain


@pytest.mark.usefixtures("folder")
def test_json_has_all_rows_and_the_chosen_one() -> None:
    told = run_json(*PLAN, *BOTH, "--price", "prices.toml", "--deadline", "1h")
    assert len(told["rows"]) == 4
    assert [row for row in told["rows"] if row["chosen"]] == [told["chosen"]]
    assert told["rows"][0] == told["chosen"]
    assert told["ranked_by"] == "cost"
    assert told["currency"] == "EUR"
    assert told["deadline_seconds"] == 3_600
    assert told["chosen"]["cost"] == min(row["cost"] for row in told["rows"])
    assert set(told["chosen"]) > {
        "gpu", "tp", "pp", "dp", "policy", "seconds", "predicted_seconds", "gpu_hours",
        "billed_gpu_hours", "cost", "cost_per_million_tokens", "offer", "misses",
    }  # fmt: skip


@pytest.mark.usefixtures("folder")
def test_table_marks_the_chosen_system_and_fits_the_terminal() -> None:
    lines = run(*PLAN, *BOTH, "--price", "prices.toml", "--deadline", "1h").splitlines()
    chosen = run_json(*PLAN, *BOTH, "--price", "prices.toml")["chosen"]
    marked = [line.split()[1:4] for line in lines if line.startswith("* ")]
    assert marked == [[chosen["gpu"], "1", str(chosen["dp"])]]
    assert max(map(len, lines)) <= 120
    assert any("cost, EUR" in line for line in lines)


def test_the_plan_written_is_the_chosen_systems(folder: Path) -> None:
    told = run_json(*PLAN, *BOTH, "-o", "a.parquet")
    assert told["plan"] == "a.parquet"
    settings = read_plan(folder / "a.parquet").meta["settings"]
    assert (settings["gpu"], settings["dp"]) == (told["chosen"]["gpu"], told["chosen"]["dp"])
    alone = ("--gpu", settings["gpu"], "--dp", str(settings["dp"]))
    run(*PLAN, *alone, "--profile", settings["profile"], "-o", "b.parquet")
    assert (folder / "a.parquet").read_bytes() == (folder / "b.parquet").read_bytes()
    seconds = run_json("simulate", "a.parquet")["seconds"]
    assert seconds == told["chosen"]["seconds"]


@pytest.mark.usefixtures("folder")
def test_a_single_system_can_be_priced() -> None:
    told = run_json(*PLAN, "--price", "prices.toml")
    assert len(told["rows"]) == 1
    assert told["chosen"]["cost"] > 0
    assert "it is the only one" in told["advice"][0]


@pytest.mark.usefixtures("folder")
def test_systems_that_cannot_run_are_told_in_a_line_each() -> None:
    out = run(*PLAN, "--tp", "1,3,5")
    left = [line for line in out.splitlines() if "is left out" in line]
    assert [line.split(":")[0] for line in left] == [
        f"a100-80g tp {tp} is left out" for tp in (3, 5)
    ]


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_limits_that_none_meets_show_the_rows_and_fail(folder: Path, flags: tuple[str]) -> None:
    result = CliRunner().invoke(app, [*PLAN, *BOTH, "--deadline", "1s", "-o", "a.parquet", *flags])
    assert result.exit_code == 2
    assert not (folder / "a.parquet").exists()
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: of 4 systems none meets the deadline of 1 s: the fastest, h200")
    if flags:
        told = json.loads(result.stdout)
        assert told["chosen"] is None
        assert told["plan"] is None
        assert len(told["rows"]) == 4
    else:
        assert result.stdout.count("deadline") == 4 + 1, "a row each, and the advice"


def test_requests_that_no_system_holds_are_dropped_when_asked(folder: Path) -> None:
    with (folder / "trace.csv").open("a") as file:
        file.write("200000,10\n")
    told = run_json(*PLAN, *BOTH, "--skip-oversize")
    assert {row["requests"] for row in told["rows"]} == {150}


@pytest.mark.usefixtures("folder")
def test_systems_can_stand_in_the_config_file(folder: Path) -> None:
    (folder / "c.toml").write_text('[settings]\ngpu = "h200"\n')
    told = run_json(*PLAN, "--config", "c.toml", "--dp", "1,2")
    assert {row["gpu"] for row in told["rows"]} == {"h200"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dp", "1..x"], "--dp 1..x is no list of numbers; write it like 1,2,4 or 1..8"),
        (["--dp", "1,,2"], "--dp 1,,2 is no list of numbers"),
        (["--dp", "-1"], "--dp -1 is no list of numbers"),
        (["--tp", "0..2"], "--tp 0..2 must be at least 1"),
        (["--tp", "4..1"], "--tp 4..1 counts down"),
        (["--dp", "1..9999999999"], "--dp 1..9999999999 has more than 1,024 values"),
        (["--gpu", "h200,"], "--gpu h200, lacks a name between commas"),
        (["--gpu", "h200,h201"], "unknown GPU 'h201'"),
        (["--dp", "1,2", "--topology", "1P2D"], "--dp 2 is for colocated replicas"),
        (["--gpu", "h200,l40s", "--price", "prices.toml"], "prices.toml: no price for l40s"),
        (["--gpu", "h200,h201", "--price", "prices.toml"], "unknown GPU 'h201'"),
        (["--price", "no.toml"], "no.toml: no such file; check --price"),
        (["--deadline", "2 hours"], "--deadline 2 hours is no time above 0; write it like 90s"),
        (["--deadline", "0"], "--deadline 0 is no time above 0"),
        (["--deadline", "0h"], "--deadline 0h is no time above 0"),
        (["--deadline", "-1h"], "--deadline -1h is no time above 0"),
        (["--deadline", "h"], "--deadline h is no time above 0"),
        (["--max-cost", "5"], "--max-cost needs --price FILE"),
        (["--max-cost", "0", "--price", "prices.toml"], "--max-cost 0 must be above 0"),
        (["--max-cost", "nan", "--price", "prices.toml"], "--max-cost nan must be above 0"),
        (["--tp", "3,5"], "no system can run this; a100-80g tp 3 is left out: --tp 3 does not"),
        (["--dp", "151,152"], "no system can run this pool; a100-80g tp 1 dp 151 is left out"),
        (["--dp", "1,2", "-o", "no/plan.parquet"], "no/plan.parquet: the directory no does not"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_meant_is_one_line(folder: Path, arguments: list[str], message: str) -> None:
    assert message in complaint(folder, *PLAN, *arguments)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2h", 7_200),
        ("90m", 5_400),
        ("1h30m", 5_400),
        ("1.5d", 129_600),
        (" 45s ", 45),
        ("60 s", 60),
        ("20", 20),
        ("0.5", 0.5),
    ],
)
def test_a_time_is_written_with_units_or_in_seconds(text: str, seconds: float) -> None:
    assert read_seconds(text, "--deadline") == seconds


@pytest.mark.parametrize("text", ["1e3s", "1..5h", "1h 30m", "1h30", "inf", "", "1w", "-5", "0"])
@pytest.mark.parametrize("option", ["--deadline", "--budget"])
def test_what_is_no_time_is_refused(text: str, option: str) -> None:
    with pytest.raises(InputError, match=f"{option} {re.escape(text)} is no time above 0"):
        read_seconds(text, option)


def test_lists_name_each_value_once_in_the_order_given() -> None:
    systems = read_systems("b,a,b", "4,1..2, 2", "1..3", None, "none, fp8,none")
    assert systems == (["b", "a"], [4, 1, 2], [1, 2, 3], [], ["none", "fp8"])
    assert systems.first == {"gpu": "b", "tp": 4, "pp": 1, "quantization": "none"}
    assert systems.are_several


def test_one_bad_line_of_prices_is_told_before_the_trace_is_read(folder: Path) -> None:
    (folder / "bad.toml").write_text(PRICES + "h100 = -1\n")
    line = complaint(folder, "plan", "--trace", "no.csv", "--price", "bad.toml")
    assert "bad.toml: [gpu_hour] h100 = -1 must be" in line


def test_the_docs_example_is_what_the_command_says(folder: Path) -> None:
    text = (REPOSITORY / "docs" / "rent.md").read_text()
    prices, offer = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (folder / "prices.toml").write_text(prices)
    [(arguments, output)] = SHOWN.findall(text)
    said = run(*arguments.split())
    assert words(said) == words(output)
    # Other processors and library versions may round another way.
    assert numbers(said) == pytest.approx(numbers(output), rel=2e-3, abs=0.1)
    (folder / "prices.toml").write_text(prices + offer)
    assert read_prices(folder / "prices.toml").offers[-1].name == "node"


def test_an_engine_that_overlaps_is_said_not_to_be_vllm(folder: Path) -> None:
    assert folder.is_dir()
    told = "vLLM and SGLang do not and take longer: --engine vllm or --engine sglang"
    assert told in " ".join(run_json(*PLAN, "--dp", "1,2")["notes"])
    assert told not in " ".join(run_json(*PLAN, "--dp", "1,2", "--engine", "vllm")["notes"])
