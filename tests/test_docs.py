"""The documentation is true as far as a machine can tell: links lead somewhere, its Python and its
example run.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for folder in (".", "docs", "bench", "paper_repro")
    for path in (REPOSITORY / folder).glob("*.md")
)
LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
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
        "steps.parquet",
    }


def test_the_example_makes_a_plan_that_the_command_line_simulates(tmp_path: Path) -> None:
    place = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=place, capture_output=True, text=True, check=True)
        return done.stdout

    said = run(str(EXAMPLE), str(tmp_path), "300")
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
