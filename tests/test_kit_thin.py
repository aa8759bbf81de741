"""bench/kit_thin.py: of the code in libraries only that of the kit's GPU is left."""

import os
import struct
from pathlib import Path

import pytest
from kit_thin import Thinned, thin
from kit_worlds import CODE, PTX, fat_binary

HOPPER = (90,)
OTHERS = fat_binary((CODE, 80, b"Ampere"), (CODE, 90, b"Hopper"), (PTX, 90, b".target sm_90"))
LEFT = fat_binary((CODE, 80, bytes(6)), (CODE, 90, b"Hopper"), (PTX, 90, bytes(13)))
MAGIC = struct.pack("<I", 0xBA55ED50)


def library(tree: Path, content: bytes, name: str = "a.so") -> Path:
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_code_for_other_gpus_and_all_ptx_are_zeroed_where_they_lie(tmp_path: Path) -> None:
    path = library(tmp_path, b"\x7fELF" + OTHERS + b"data" + OTHERS)
    assert thin(tmp_path, HOPPER) == Thinned(2 * 19, 1, ())
    assert path.read_bytes() == b"\x7fELF" + LEFT + b"data" + LEFT


def test_several_gpus_may_be_kept(tmp_path: Path) -> None:
    path = library(tmp_path, OTHERS)
    assert thin(tmp_path, (80, 90)).zeroed == 13
    assert path.read_bytes() == OTHERS.replace(b".target sm_90", bytes(13))


def test_headers_of_entries_may_be_longer(tmp_path: Path) -> None:
    path = library(tmp_path, fat_binary((CODE, 100, b"Blackwell"), entry_header=112))
    thin(tmp_path, HOPPER)
    assert path.read_bytes() == fat_binary((CODE, 100, bytes(9)), entry_header=112)


def test_only_libraries_are_touched(tmp_path: Path) -> None:
    others = [library(tmp_path, OTHERS, name) for name in ("a.cubin", "sub/a.so.1", "a.py")]
    library(tmp_path, OTHERS, "sub/a.so")
    outside = library(tmp_path.parent / f"{tmp_path.name}-outside", OTHERS, "real")
    (tmp_path / "link.so").symlink_to(outside)
    (tmp_path / "folder.so").mkdir()
    assert thin(tmp_path, HOPPER) == Thinned(19, 1, ())
    assert {path.read_bytes() for path in [*others, outside]} == {OTHERS}


def test_a_library_with_nothing_to_zero_is_not_written(tmp_path: Path) -> None:
    paths = [
        library(tmp_path, b"no code", "plain.so"),
        library(tmp_path, b"", "empty.so"),
        library(tmp_path, fat_binary((CODE, 90, b"Hopper")), "hopper.so"),
    ]
    for path in paths:
        os.utime(path, (1, 1))
    assert thin(tmp_path, HOPPER) == Thinned(0, 0, ())
    assert [path.stat().st_mtime for path in paths] == [1, 1, 1]


@pytest.mark.parametrize(
    "chance",
    [
        MAGIC,
        MAGIC + b"cmp eax, magic; jne",
        MAGIC + struct.pack("<HHQ", 2, 16, 5),  # another version
        MAGIC + struct.pack("<HHQ", 1, 24, 5),  # another header
        MAGIC + MAGIC,
    ],
)
def test_a_magic_that_is_no_fat_binary_is_passed_over(tmp_path: Path, chance: bytes) -> None:
    path = library(tmp_path, OTHERS + chance + OTHERS + chance)
    assert thin(tmp_path, HOPPER) == Thinned(38, 1, ())
    assert path.read_bytes() == LEFT + chance + LEFT + chance


def changed(at: int, form: str, value: int) -> bytes:
    """A fat binary with a number of its headers replaced."""
    content = bytearray(OTHERS)
    struct.pack_into(form, content, at, value)
    return bytes(content)


@pytest.mark.parametrize(
    "odd",
    [
        OTHERS[:-1],  # cut off
        changed(8, "<Q", len(OTHERS) - 15),  # longer than the file
        changed(8, "<Q", len(OTHERS) - 17),  # its last entry is longer than it
        changed(8, "<Q", 70 + 8),  # room for half an entry's header
        changed(20, "<I", 0),  # an entry without a header
        changed(20, "<I", 2**31),
        changed(24, "<Q", 2**63),
    ],
)
def test_a_file_whose_sizes_do_not_fit_stays_as_it_is(tmp_path: Path, odd: bytes) -> None:
    """Even where a fat binary before was in order."""
    path = library(tmp_path, OTHERS + odd)
    good = library(tmp_path, OTHERS, "b.so")
    assert thin(tmp_path, HOPPER) == Thinned(19, 1, (path,))
    assert path.read_bytes() == OTHERS + odd
    assert good.read_bytes() == LEFT


def test_a_run_that_breaks_off_leaves_whole_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = library(tmp_path, OTHERS)

    def broken(part: Path, *_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kit_thin.os.replace", broken)
    with pytest.raises(KeyboardInterrupt):
        thin(tmp_path, HOPPER)
    assert path.read_bytes() == OTHERS


def test_modes_are_kept_and_nothing_is_left_beside(tmp_path: Path) -> None:
    path = library(tmp_path, OTHERS)
    path.chmod(0o755)
    thin(tmp_path, HOPPER)
    assert path.stat().st_mode & 0o777 == 0o755
    assert list(tmp_path.iterdir()) == [path]
