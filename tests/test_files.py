"""Files are written under a temporary name and renamed, and take the place of plain files only."""

import errno
import hashlib
import os
import socket
from pathlib import Path

import pytest

from blendsim.errors import InputError
from blendsim.files import make_directory, replacing, require_directory, require_place, sha256


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


def test_a_full_disk_is_told_with_the_file_that_was_to_be(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as unsaid, replacing(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert unsaid.value.filename == str(tmp_path / "out")
    with pytest.raises(OSError, match="I/O") as hidden, replacing(tmp_path / "out") as temporary:
        raise OSError(errno.EIO, "I/O", str(temporary))
    assert hidden.value.filename == str(tmp_path / "out")
    with pytest.raises(OSError, match="I/O") as other, replacing(tmp_path / "out"):
        raise OSError(errno.EIO, "I/O", "trace.csv")
    assert other.value.filename == "trace.csv"


def test_missing_directory_is_one_line_for_the_user(tmp_path: Path) -> None:
    target = tmp_path / "no" / "out.csv"
    with pytest.raises(InputError, match="does not exist; create it") as caught, replacing(target):
        pass
    assert "\n" not in str(caught.value)


def test_directory_is_no_place_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a directory"), replacing(tmp_path):
        pass
    assert names(tmp_path.parent).count(tmp_path.name) == 1


def make(kind: str, place: Path) -> None:
    """Something at `place` that is no plain file."""
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.relpath(place))  # NOTE: a socket's path has 107 bytes at most
    elif kind == "link to a file":
        place.with_name("kept").write_text("kept")
        place.symlink_to("kept")
    else:
        place.symlink_to("nowhere")


@pytest.mark.parametrize("kind", ["pipe", "socket", "link to a file", "link to nothing"])
def test_what_is_no_plain_file_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "place"
    make(kind, place)
    before = (names(tmp_path), place.lstat().st_mode)
    with pytest.raises(InputError, match=r"is a (pipe or device|link)") as caught, replacing(place):
        pass
    assert "\n" not in str(caught.value)
    assert (names(tmp_path), place.lstat().st_mode) == before


def test_device_is_no_place_for_a_file() -> None:
    with pytest.raises(InputError, match="is a pipe or device"):
        require_place(Path("/dev/tty"))


def test_file_is_no_directory_to_write_in(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "out.csv"
    with pytest.raises(InputError, match=r"the directory .*file is no directory; choose another"):
        require_place(place)


@pytest.mark.parametrize("below", ["", "new", "new/newer"])
def test_directory_below_a_file_cannot_be_made(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    for ask in (require_directory, make_directory):
        with pytest.raises(InputError, match=r"file.*director") as caught:
            ask(tmp_path / "file" / below)
        assert "\n" not in str(caught.value)


def test_directory_that_can_be_made_is_not_made_by_asking(tmp_path: Path) -> None:
    require_directory(tmp_path / "new" / "newer", ["a.csv"])
    assert names(tmp_path) == []
    make_directory(tmp_path / "new" / "newer")
    require_directory(tmp_path / "new" / "newer", ["a.csv"])


def test_files_that_a_directory_is_to_have_are_asked_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "b.csv")
    with pytest.raises(InputError, match=r"b\.csv: is a pipe"):
        require_directory(tmp_path, ["a.csv", "b.csv"])


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
