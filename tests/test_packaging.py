"""What is shipped: the package list, the pins and the licence."""

import re
import sys
import tomllib
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from blendsim.errors import ProfileError
from blendsim.perf import store

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def packages_in_tree() -> set[str]:
    found = set()
    for base, top in ((REPOSITORY, "blendsim"), (REPOSITORY / "runtime", "blendrt")):
        for path in (base / top).rglob("*.py"):
            found.add(".".join(path.parent.relative_to(base).parts))
    return found


def test_every_package_of_the_tree_is_shipped() -> None:
    assert set(SETUPTOOLS["packages"]) == packages_in_tree() | {"blendsim_profiles"}


def test_every_profile_is_shipped_as_package_data() -> None:
    profiles = REPOSITORY / SETUPTOOLS["package-dir"]["blendsim_profiles"]
    patterns = SETUPTOOLS["package-data"]["blendsim_profiles"]
    shipped = {path for pattern in patterns for path in profiles.glob(pattern)}
    data = {path for path in profiles.rglob("*") if path.is_file() and path.suffix != ".md"}
    assert data
    assert data == shipped


def test_type_hints_are_shipped() -> None:
    assert SETUPTOOLS["package-data"]["blendsim"] == ["py.typed"]
    assert (REPOSITORY / "blendsim" / "py.typed").exists()


def test_base_install_stays_light() -> None:
    names = {re.split(r"[<>=~]", item)[0] for item in PROJECT["project"]["dependencies"]}
    light = {"numpy", "scipy", "numba", "simpy", "matplotlib", "pyarrow", "typer", "rich"}
    assert names == light


def test_every_requirement_has_a_pin() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+]+", pin) for pin in pins)
    pinned = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *(r for rs in extras.values() for r in rs)]
    assert {re.split(r"[<>=~]", item)[0] for item in wanted} <= pinned


def test_licence_is_apache_2() -> None:
    text = (REPOSITORY / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert text.rstrip().endswith("limitations under the License.")


def test_installed_profiles_are_found_where_there_is_no_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site-packages"
    (site / "blendsim_profiles" / "h200").mkdir(parents=True)
    monkeypatch.setattr(store, "__file__", str(site / "blendsim" / "perf" / "store.py"))
    monkeypatch.setattr(sys, "path", [str(site)])
    monkeypatch.setattr(sys, "meta_path", [PathFinder])
    assert store.profiles_directory() == site / "blendsim_profiles"
    (site / "blendsim_profiles" / "h200").rmdir()
    (site / "blendsim_profiles").rmdir()
    with pytest.raises(ProfileError, match="no profiles are installed"):
        store.profiles_directory()
