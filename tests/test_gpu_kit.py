"""bench/gpu_kit.py: what is carried to a GPU machine is weighed, cut to fit, and made once."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gpu_kit import calls, finish
from hypothesis import given
from hypothesis import strategies as st
from kit_contents import parts
from kit_packages import fetch, split
from kit_pieces import NOTE, Missing, Piece, make, make_all, run
from kit_weights import MIB, cut, read_size, tree_files, weight
from kit_worlds import CODE, PINS, REPOSITORY, fat_binary, kit_in, quick_pieces, write_wheels

NOISE = np.random.default_rng(0).bytes(3 * MIB)  # nothing packs it


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder of wheels is all that pip finds."""
    wheels = tmp_path_factory.mktemp("registry")
    write_wheels(wheels, NOISE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(wheels))
        yield


@pytest.fixture(scope="module")
def place(offline: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a kit is made, all but vLLM's parts."""
    folder = tmp_path_factory.mktemp("made")
    assert make_all(quick_pieces(kit_in(folder))) == {}
    return folder


def below(folder: Path) -> set[str]:
    """All files, but notes of what was made."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.endswith(("made.json", "METADATA", "WHEEL"))}


@pytest.mark.parametrize(
    ("text", "size"), [("64MiB", 64 * MIB), ("1.5 GiB", 3 * 2**29), ("50MB", 50_000_000), ("7", 7)]
)
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "64 mib", "-3MB", "1,5MB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size; write a number and one of B, KiB, MiB"):
        read_size(text)


def test_files_weigh_what_they_do_in_a_tar(tmp_path: Path) -> None:
    for name, size in {"a": 0, "b": 1, "c": 512, "d/e": 513}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    with tarfile.open(tmp_path.with_suffix(".tar"), "w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("a", "b", "c", "d/e"):
            archive.add(tmp_path / name, name)
        assert weight([tmp_path]) == archive.offset
        assert weight([tmp_path / "d", tmp_path / "b"]) == 3 * 512 + 2 * 512


def test_what_git_ignores_does_not_travel(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("build/\n")
    (tmp_path / "build").mkdir()
    for name in ("build/large", "new.py"):
        (tmp_path / name).write_text("")
    assert {path.name for path in tree_files(tmp_path)} == {".gitignore", "new.py"}


def test_a_folder_that_is_no_checkout_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path} is no git checkout"):
        tree_files(tmp_path)


@given(st.integers(1, 500), st.integers(1, 60), st.integers(1, 60))
def test_parts_fill_their_calls_and_are_as_few_as_can_be(
    total: int, beside: int, base: int
) -> None:
    sizes = cut(total, beside, beside + base)
    assert sum(sizes) == total
    assert all(0 < size <= beside + base for size in sizes)
    assert (len(sizes) - 1) * (beside + base) < total


@given(st.integers(1, 500), st.integers(1, 60), st.integers(1, 60))
def test_the_first_part_fits_beside_the_base_unless_that_makes_one_more(
    total: int, beside: int, base: int
) -> None:
    sizes = cut(total, beside, beside + base)
    rest = total - beside
    number = 1 + max(0, -(-rest // (beside + base)))  # were it to fit
    assert (sizes[0] <= beside) is (number == len(sizes))


def test_without_room_nothing_is_cut() -> None:
    with pytest.raises(ValueError, match=r"0\.0 MiB are left for parts of 2\.0 MiB"):
        cut(2 * MIB, 0, 10)


def test_parts_are_the_archive_again(tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.write_bytes(bytes(range(100)))
    for number in (1, 2, 3):
        split(packed, number, [40, 50, 10], tmp_path)
    joined = b"".join((tmp_path / f"packed.{n}-of-3").read_bytes() for n in (1, 2, 3))
    assert joined == packed.read_bytes()
    told = (tmp_path / "packed.sha256").read_text()
    assert told == hashlib.sha256(joined).hexdigest() + "\n"


def test_a_piece_is_made_once_and_again_when_it_is_to_be_of_something_else(tmp_path: Path) -> None:
    made: list[str] = []

    def piece(pin: str) -> Piece:
        def fill(part: Path) -> None:
            made.append(pin)
            (part / pin).touch()

        return Piece("a piece", tmp_path / "piece", {"pins": (pin,)}, fill)

    for pin in ("old", "old", "new", "new"):
        make(piece(pin))
    assert made == ["old", "new"]
    assert below(tmp_path / "piece") == {"new"}
    assert not piece("old").is_made


def test_a_piece_that_broke_off_is_not_there_and_is_made_anew(tmp_path: Path) -> None:
    place = tmp_path / "piece"

    def half(part: Path) -> None:
        (part / "half").touch()
        raise KeyboardInterrupt

    def whole(part: Path) -> None:
        (part / "whole").touch()

    broken, mended = (Piece("a piece", place, {}, fill) for fill in (half, whole))
    with pytest.raises(KeyboardInterrupt):
        make(broken)
    assert not place.exists()
    assert not broken.is_made
    make(mended)
    assert below(place) == {"whole"}


def test_what_needs_a_missing_piece_is_left_out_and_the_rest_is_made(tmp_path: Path) -> None:
    def fails(part: Path) -> None:
        raise Missing("no network")

    def works(part: Path) -> None:
        (part / "file").touch()

    found = make_all(
        [
            Piece("first", tmp_path / "first", {}, fails),
            Piece("second", tmp_path / "second", {}, works, ("first",)),
            Piece("third", tmp_path / "third", {}, works),
        ]
    )
    assert found == {"first": "no network", "second": ""}
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == ["third"]


def test_a_command_that_fails_says_its_last_line_and_where_the_rest_is(tmp_path: Path) -> None:
    code = "import sys; print('much'); sys.exit('no toolkit\\n')"
    with pytest.raises(Missing, match=r"^no toolkit \(see .*x\.log\)$"):
        run([sys.executable, "-c", code], tmp_path / "x.log")
    assert "much" in (tmp_path / "x.log").read_text()


def test_a_package_that_is_not_to_be_had_is_named(offline: None, tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"No matching distribution found for absent==1"):
        fetch(["absent==1"], None, tmp_path / "x.log", tmp_path / "wheels")


def test_the_base_holds_packages_of_the_other_machine_and_plans(place: Path) -> None:
    aot = "packages/flashinfer/data/aot/decode/decode.so"
    names = ("trace1-filled", "trace1-filled-dfs", "trace1-filled-paced")
    plans = {f"plans/{name}.parquet" for name in names}
    found = below(kit_in(place).base)
    assert found >= {aot, "packages/tvm_ffi/core.so", *plans}
    assert {name.split("/")[0] for name in found} == {"packages", "plans"}


def test_the_base_is_to_be_made_again_when_a_plan_is(place: Path) -> None:
    other = quick_pieces(kit_in(place, policies=("dfs",)))
    left = [one.name for one in other if not one.is_made]
    assert left == ["plans of trace1-filled", "base"]


def test_vllm_is_packed_without_what_is_left_out(place: Path) -> None:
    with tarfile.open(kit_in(place).work / "vllm" / "vllm.tar.xz") as packed:
        names = {name.removeprefix("./") for name in packed.getnames()}
    assert {"vllm/noise.bin", "beside.py"} <= names
    assert not {"vllm/large.so", "vllm/third_party"} & names


def test_vllm_is_packed_with_the_code_of_one_gpu(place: Path) -> None:
    with tarfile.open(kit_in(place).work / "vllm" / "vllm.tar.xz") as packed:
        content = packed.extractfile("./vllm/_C.abi3.so").read()  # type: ignore[union-attr]
    assert content == b"ELF" + fat_binary((CODE, 80, bytes(6)), (CODE, 90, b"Hopper"))


def test_vllm_is_packed_anew_for_another_gpu(place: Path) -> None:
    pins = PINS | {"packages": PINS["packages"] | {"vllm_archs": [80]}}
    assert [one.name for one in quick_pieces(kit_in(place)) if not one.is_made] == []
    other = quick_pieces(kit_in(place, pins=pins))
    assert [one.name for one in other if not one.is_made] == ["vLLM"]


def test_an_archive_from_before_it_was_thinned_is_made_anew(place: Path) -> None:
    packed = quick_pieces(kit_in(place))[-1]
    kept = {name: what for name, what in packed.of.items() if name not in ("archs", "code")}
    assert packed.is_made
    assert not packed._replace(of=kept).is_made, "the note tells them apart"


@pytest.mark.parametrize(("limit", "number"), [(4 * MIB, 2), (6 * MIB, 1)])
def test_every_call_fits_and_parts_are_cut_again_for_another_limit(
    place: Path, limit: int, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    kit = kit_in(place, limit=limit)
    for name, note in (("part-9", NOTE), ("part-others", "notes.txt")):  # one of a former cut
        (kit.out / name).mkdir(exist_ok=True)
        (kit.out / name / note).write_text("{}")
    finish(kit, {}, is_only_listed=False)
    found = list(calls(kit, parts(kit)))
    cut_to = [f"part-{n}" for n in range(1, number + 1)]
    left = sorted(path.name for path in kit.out.glob("part-*"))
    assert left == [*cut_to, "part-others"], "what is not of a kit is left alone"
    assert max(weight(one.carried) + kit.tree for one in found) <= limit
    assert found[0].carried == (kit.base,)
    assert found[1].carried == (kit.base, kit.out / "part-1")
    told = capsys.readouterr().out
    assert all(f"| {one.command} |" in told for one in found)


def test_parts_stay_as_they_were_cut_while_they_fit(place: Path) -> None:
    """A line more in the tree must not make parts of another kit of those on the machine."""
    finish(kit_in(place, limit=4 * MIB), {}, is_only_listed=False)
    for tree in (MIB - 2000, MIB + 2000, MIB + 600_000):
        kit = kit_in(place, limit=4 * MIB, tree=tree)
        found = parts(kit)
        assert [one.is_made for one in found] == [tree < MIB + 2**19] * len(found)
        assert max(weight(one.carried) + tree for one in calls(kit, found)) <= kit.limit


def test_one_part_that_does_not_fit_beside_the_base_goes_alone(place: Path, tmp_path: Path) -> None:
    """The call before brought the base: two parts would be a call more."""
    shutil.copytree(place, tmp_path / "made")
    whole = (kit_in(place).work / "vllm" / "vllm.tar.xz").stat().st_size
    kit = kit_in(tmp_path / "made", limit=whole + 2 * MIB)  # the tree, and the slack
    (kit.base / "plans" / "large").write_bytes(bytes(MIB))
    finish(kit, {}, is_only_listed=False)
    found = list(calls(kit, parts(kit)))
    run = "bash bench/gpu_kit_run.sh"
    assert found == [((kit.base,), f"{run} ours"), ((kit.out / "part-1",), f"{run} vllm")]
    assert max(weight(one.carried) + kit.tree for one in found) <= kit.limit


@pytest.mark.parametrize("with_vllm", [True, False])
def test_what_does_not_fit_is_told_in_a_line(
    place: Path, with_vllm: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    kit = kit_in(place, limit=MIB + 2**16, with_vllm=with_vllm)
    with pytest.raises(SystemExit) as stopped:
        finish(kit, {}, is_only_listed=False)
    assert stopped.value.code == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "0.0 MiB" in told[0]
    assert "raise --limit or carry fewer pools" in told[0]


def test_missing_pieces_are_named_in_one_line(tmp_path: Path) -> None:
    script = REPOSITORY / "bench" / "gpu_kit.py"
    command = [sys.executable, str(script), "-o", str(tmp_path / "kit"), "--list", "--vllm"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: missing in {tmp_path / 'kit'}: FlashInfer for this machine, kernels, plans of "
        "trace1-filled, plans of trace2-filled, base, wheels of vLLM, vLLM"
    ]
    assert not list(tmp_path.iterdir())


def test_the_note_of_a_piece_is_what_it_was_made_of(tmp_path: Path) -> None:
    make(Piece("a piece", tmp_path / "piece", {"pins": ("a==1",)}, lambda part: None))
    assert json.loads((tmp_path / "piece" / "made.json").read_text()) == {"pins": ["a==1"]}


def test_the_kit_has_the_flashinfer_that_we_test_with() -> None:
    pins = tomllib.loads((REPOSITORY / "bench" / "gpu_kit.toml").read_text())["packages"]
    assert pins["flashinfer"] in (REPOSITORY / "constraints.txt").read_text().splitlines()
    several = [*pins["beside_flashinfer"], *pins["to_build"], *pins["to_build_fa3"], *pins["vllm"]]
    versions = dict(pin.split("==") for pin in several)
    assert all(f"{name}=={version}" in several for name, version in versions.items())
    assert len(set(several)) == len(versions)


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    place = tmp_path / "base"
    place.mkdir()
    (place / "thesis.txt").write_text("years")
    with pytest.raises(Missing, match="is not of a kit"):
        make(Piece("base", place, {}, lambda part: None))
    assert (place / "thesis.txt").read_text() == "years"
