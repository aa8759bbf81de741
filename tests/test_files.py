"""Files are written under a temporary name and renamed."""

import hashlib
from pathlib import Path

import pytest

from blendsim.errors import InputError
from blendsim.files import replacing, sha256


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_under_its_name_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    with replacing(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".csv"
    assert names(tmp_path) == ["out.csv"]
    assert target.read_text() == "whole"


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.write_text("old")

    def write_half() -> None:
        with replacing(target) as temporary:
            temporary.write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert names(tmp_path) == ["out.csv"]
    assert target.read_text() == "old"


def test_missing_directory_is_one_line_for_the_user(tmp_path: Path) -> None:
    target = tmp_path / "no" / "out.csv"
    with pytest.raises(InputError, match="does not exist; create it") as caught, replacing(target):
        pass
    assert "\n" not in str(caught.value)


def test_directory_is_no_place_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a directory"), replacing(tmp_path):
        pass
    assert names(tmp_path.parent).count(tmp_path.name) == 1


def test_name_that_cannot_be_made_is_one_line_for_the_user(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 300)
    with pytest.raises(InputError, match="cannot write there"), replacing(target):
        pass


def test_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    usual, ours = tmp_path / "usual", tmp_path / "ours"
    usual.write_text("")
    with replacing(ours):
        pass
    assert ours.stat().st_mode == usual.stat().st_mode


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(b"blend" * 1000)
    assert sha256(path) == hashlib.sha256(b"blend" * 1000).hexdigest()
