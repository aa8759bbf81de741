"""What is said of pools so small or so alike that figures come out as 1, as 0 or all the same."""

import json
from pathlib import Path

import pytest
from command_line import run
from report_pages import Page, figures_of, page_of

from blendsim.report.tables import number, share, signed, span
from blendsim.wording import counted


def flat(text: str) -> str:
    return " ".join(text.split())


def served(folder: Path, rows: str) -> tuple[str, Path]:
    """What `plan` says of a pool of these rows, and the step log of the plan."""
    (folder / "t.csv").write_text(f"input_tokens,output_tokens,prefix_id,prefix_tokens\n{rows}")
    plan, log = folder / "plan.parquet", folder / "steps.parquet"
    said = run("plan", "--trace", folder / "t.csv", "-o", plan)
    return flat(said + run("simulate", plan, "-o", log)), log


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return served(tmp_path_factory.mktemp("single"), "1,1,,\n")


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return served(tmp_path_factory.mktemp("alike"), "1000,50,a,1000\n" * 200)


def test_one_request_is_one_everywhere(single: tuple[str, Path]) -> None:
    said, log = single
    assert said.startswith("1 request, 1 prompt and 1 output token; ")
    assert "1 step written to " in said
    text = Page(page_of(log)).text
    assert "1 request of 1 prompt and 1 output token finished in 1 step and " in text
    assert "The longest step." in text


def test_work_that_is_not_there_has_no_rate(single: tuple[str, Path]) -> None:
    assert " of compute at best rates, and no decode reads." in single[0]
    assert "all policies lie within 0.1%" in single[0]
    assert "the best overlap would gain less than 0.1% over none" in single[0]
    assert "0.0%" not in single[0]


def test_density_is_told_alike_by_plan_and_by_trace_info(single: tuple[str, Path]) -> None:
    said = run("trace", "info", single[1].parent / "t.csv")
    assert "Density: 1,067.70 (" in said
    assert "density 1,067.70 (closed form), – (profile)" in single[0]


def test_pool_of_one_kind_of_work_is_too_short_and_not_balanced(single: tuple[str, Path]) -> None:
    assert "The pool is too short for memory-heavy work to run cheaper beside it." in single[0]


def test_worlds_that_are_alike_are_one_figure(alike: tuple[str, Path]) -> None:
    said, log = alike
    taken = json.loads(run("plan", "--trace", log.parent / "t.csv", "--json"))["worlds"]
    assert f"{taken[0]:.3g}" == f"{taken[-1]:.3g}", "all answers are as long"
    assert f"in 8 worlds that the sample allows the plan takes {taken[0]:.3g} s." in said
    more = flat(run("simulate", log.parent / "plan.parquet", "--worlds", 3))
    assert f"In 3 worlds that the sample allows it takes {taken[0]:.3g} s; where" in more


def test_losses_that_only_rounding_leaves_are_none(alike: tuple[str, Path]) -> None:
    lost = figures_of(alike[1])["losses"]
    assert {cause for cause, seconds in lost.items() if abs(seconds) < 1e-9} >= {"again"}
    assert all(seconds == 0 or seconds > 1e-9 for seconds in lost.values()), lost


def test_figures_that_round_to_nothing_have_no_sign() -> None:
    assert [number(-4e-16, 4), share(-1e-9), signed(-0.01, 1), signed(0.01, 1)] == [
        "0.0000",
        "0.0 %",
        "0.0",
        "0.0",
    ]
    assert [number(-0.06, 1), share(-0.5), signed(-1234.5, 1), signed(1234.5, 1)] == [
        "-0.1",
        "-50.0 %",
        "-1,234.5",
        "+1,234.5",
    ]


def test_ends_that_look_alike_are_told_once() -> None:
    assert [span(2.971, 2.974), span(2.95, 2.98)] == ["2.97", "2.95 to 2.98"]
    assert [counted(1, "step"), counted(0, "step"), counted(2_000, "step")] == [
        "1 step",
        "0 steps",
        "2,000 steps",
    ]
