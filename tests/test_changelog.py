"""The changelog speaks of the version that is installed."""

import re
from pathlib import Path

import blendsim

CHANGELOG = Path(__file__).resolve().parents[1] / "CHANGELOG.md"


def test_top_version_is_the_packages() -> None:
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", CHANGELOG.read_text(), re.MULTILINE)
    assert versions[0] == blendsim.__version__


def test_headings_are_keep_a_changelogs() -> None:
    kinds = re.findall(r"^### (\w+)", CHANGELOG.read_text(), re.MULTILINE)
    assert kinds
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
