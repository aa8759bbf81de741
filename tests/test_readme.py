"""The README is true: its commands run and say what it shows, its figures are those on file.

`python tests/test_readme.py` runs the commands and writes their output and the figures into it.
"""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blendsim.cli.app import app
from paper_repro import runner
from paper_repro.comparison import short_lines
from paper_repro.lab import Lab

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"
RESULTS = REPOSITORY / "paper_repro" / "results"
RECHECKED = ("fig06", "table4")  # modules whose results are measured again here
#: What the claims that are shown begin with, and the modules that measure them.
SHOWN_CLAIMS = (
    "8B: blended over NanoFlow-DFS, mean",
    "70B TP8: blended over NanoFlow-DFS, mean",
    "8B: blended over vLLM-DFS, most",
    "8B: blended, share of the practical optimum",
    "70B TP8: blended, share of the practical optimum",
    "blending keeps the prefix sharing of DFS",
    "prefix order is starved of memory traffic",
    "grid ρ",
    "the same, blended ahead at every point",
    "four data-parallel GPUs over one",
    "tokens/s on 1 / 2 / 4 GPUs, #1",
    "simulated speed-ups against measured ones",
    "memory of the left scanner",
)
MEASURED_BY = ("fig07", "fig09", "fig10", "fig11", "table3", "sec65", "fig06")
SHOWN = re.compile(r"```console\n\$ blendsim (.+)\n((?:.*\n)*?)```")
TABLE = re.compile(r"<!-- claims -->\n((?:\|.*\n)*)")
NUMBER = re.compile(r"\d[\d,]*\.?\d*")


def run(arguments: str) -> str:
    result = CliRunner().invoke(app, arguments.split())
    assert result.exit_code == 0, result.output
    return "".join(f"{line.rstrip()}\n" for line in result.stdout.splitlines())


def words(text: str) -> list[str]:
    """What a text says besides its numbers, rules and line breaks."""
    return NUMBER.sub("#", text).replace("─", "").split()


def numbers(text: str) -> list[float]:
    return [float(found.replace(",", "")) for found in NUMBER.findall(text)]


def table() -> str:
    lines = short_lines(MEASURED_BY, RESULTS)
    shown = [line for line in lines[2:] if line.startswith(tuple(f"| {c}" for c in SHOWN_CLAIMS))]
    assert len(shown) == len(SHOWN_CLAIMS), "each claim is there once"
    return "\n".join([*lines[:2], *shown]) + "\n"


@pytest.mark.parametrize("shown", SHOWN.findall(README.read_text()), ids=lambda pair: pair[0])
def test_command_says_what_the_readme_shows(shown: tuple[str, str]) -> None:
    arguments, output = shown
    said = run(arguments)
    assert words(said) == words(output)
    # Other processors and library versions may round another way.
    assert numbers(said) == pytest.approx(numbers(output), rel=2e-3, abs=0.1)


def test_readme_shows_the_main_job() -> None:
    assert SHOWN.findall(README.read_text())[0][0] == "plan --trace demo:mixed"


def test_paper_table_is_the_committed_one() -> None:
    found = TABLE.search(README.read_text())
    assert found is not None
    assert found[1] == table()


@pytest.mark.parametrize("name", RECHECKED)
def test_committed_results_are_what_the_public_traces_give(name: str, tmp_path: Path) -> None:
    data = REPOSITORY.parent / "shared" / "data"
    if not data.is_dir():
        pytest.skip("the public traces are not beside the checkout")
    assert runner.measure(name, Lab(data=data), tmp_path).error == ""
    assert runner.verdicts(name, tmp_path) == runner.verdicts(name, RESULTS)


def test_ci_runs_the_readmes_test_line() -> None:
    line = next(x for x in README.read_text().splitlines() if "pytest" in x and "venv" in x)
    assert line in (REPOSITORY / ".ci" / "run").read_text()


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text())
    assert targets
    assert [target for target in targets if not (REPOSITORY / target).exists()] == []


def refresh() -> None:
    """Write what the commands say now, and the figures on file, into the README."""
    text = README.read_text()
    text = SHOWN.sub(lambda m: f"```console\n$ blendsim {m[1]}\n{run(m[1])}```", text)
    README.write_text(TABLE.sub(lambda _: f"<!-- claims -->\n{table()}", text))


if __name__ == "__main__":
    refresh()
