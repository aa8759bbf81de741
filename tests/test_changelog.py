"""The changelog and the citation speak of the version that is installed."""

import re
from pathlib import Path

import blendsim

REPOSITORY = Path(__file__).resolve().parents[1]
CHANGELOG = REPOSITORY / "CHANGELOG.md"


def test_top_version_is_the_packages() -> None:
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", CHANGELOG.read_text(), re.MULTILINE)
    assert versions[0] == blendsim.__version__


def test_headings_are_keep_a_changelogs() -> None:
    kinds = re.findall(r"^### (\w+)", CHANGELOG.read_text(), re.MULTILINE)
    assert kinds
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_citation_is_of_the_packages_version() -> None:
    text = (REPOSITORY / "CITATION.cff").read_text()
    assert f"\nversion: {blendsim.__version__}\n" in text
