"""The documentation is true as far as a machine can tell: links lead somewhere, its Python and its
example run, and commands say what it shows of pooling and of orders of one's own.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import command_line
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for folder in (".", "docs", "bench", "paper_repro")
    for path in (REPOSITORY / folder).glob("*.md")
)
LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
PLANS = (REPOSITORY / "docs" / "plan.md").read_text()
RUN = ("An order of your own", "What to pool it with")  # sections of it whose commands are run
NUMBER = re.compile(r"\d[\d,]*\.?\d*")
EXAMPLE = REPOSITORY / "docs" / "examples" / "chain.py"


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as a forge makes them: of two equal ones the second has -1."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    names: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
        before = sum(each == name for each in names)
        names += [name] if not before else [f"{name}-{before}"]
    return set(names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(page.read_text()):
        target, _, anchor = link.partition("#")
        there = (page.parent / target).resolve() if target else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(link)
    assert broken == []


def test_python_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = BLOCK.findall((REPOSITORY / "docs" / "python.md").read_text())
    assert len(blocks) > 5
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert {path.name for path in tmp_path.iterdir()} == {
        "kv.png",
        "plan.parquet",
        "sharing.parquet",
        "steps.parquet",
    }


def test_python_of_the_reproductions_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (REPOSITORY / "paper_repro" / "README.md").read_text()
    section = page.split("\n## At another setting\n")[1].split("\n## ")[0]
    blocks = BLOCK.findall(section)
    assert len(blocks) == 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == 2 * ["dfs", "blend", "paced"]
    told = re.search(r"It prints ([\d,]+) s, ([\d,]+) s and ([\d,]+) s for", section)
    assert told is not None
    # Other processors and library versions may round another way.
    assert numbers([line.split()[1] for line in said[:3]]) == pytest.approx(
        numbers([*told.groups()]), rel=2e-3
    )


def test_the_example_says_what_the_guide_shows_and_makes_a_plan_to_simulate(tmp_path: Path) -> None:
    place = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=place, capture_output=True, text=True, check=True)
        return done.stdout

    said = run(str(EXAMPLE), str(tmp_path))
    guide = (REPOSITORY / "docs" / "python.md").read_text()
    shown = guide.split("$ python docs/examples/chain.py out\n")[1].split("```")[0]
    assert place_of(shown.split(), said.split()) == 0
    # Other processors and library versions may round another way.
    assert numbers(said.split()) == pytest.approx(numbers(shown.split()), rel=2e-3, abs=0.1)
    rows = dict(re.findall(r"^(\w+) +([\d,.]+) s,", said, re.MULTILINE))
    assert set(rows) == {"dfs", "paced"}
    assert {path.name for path in tmp_path.iterdir()} == {
        "dfs.parquet",
        "kv.png",
        "paced.parquet",
        "plan.parquet",
    }
    told = run("-m", "blendsim", "simulate", str(tmp_path / "plan.parquet"), "--json")
    seconds = re.search(r'"seconds": ([\d.]+)', told)
    assert seconds is not None
    assert f"{float(seconds[1]):,.1f}" == rows["paced"]


def place_of(shown: list[str], said: list[str]) -> int:
    """Where words, all numbers being alike, stand in what was said; -1 where they do not."""
    wanted, words = ([NUMBER.sub("#", word) for word in text] for text in (shown, said))
    places = range(len(words) - len(wanted) + 1)
    return next((k for k in places if words[k : k + len(wanted)] == wanted), -1)


def numbers(words: list[str]) -> list[float]:
    return [float(found.replace(",", "")) for found in NUMBER.findall(" ".join(words))]


def consoles() -> list[str]:
    """Console blocks of the sections that are run."""
    texts = [PLANS.split(f"\n## {name}\n")[1].split("\n## ")[0] for name in RUN]
    return [block for text in texts for block in CONSOLE.findall(text)]


@pytest.mark.parametrize("console", consoles(), ids=lambda text: text.splitlines()[0])
def test_plan_says_what_the_page_shows(
    console: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", console, re.MULTILINE)
    assert commands[-1][0].startswith("blendsim plan ")
    for command, shown in commands:
        if not command.startswith("blendsim "):
            subprocess.run(["bash", "-c", command], check=True)
            continue
        said = command_line.run(*command.split()[1:]).split()
        parts = [part.split() for part in shown.split("…\n") if part]
        assert parts
        for part in parts:
            place = place_of(part, said)
            assert place >= 0, f"not said: {' '.join(part)}"
            # Other processors and library versions may round another way.
            found = said[place : place + len(part)]
            assert numbers(found) == pytest.approx(numbers(part), rel=2e-3, abs=0.1)
