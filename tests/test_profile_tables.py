"""Kernel tables written by hand: what is no time, out of order or faster than the GPU is refused
by file, line and column.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from test_cli_errors import complaint

from blendsim.errors import ProfileError
from blendsim.perf.atlas import read_atlas
from blendsim.perf.store import profiles_directory, read_profile
from blendsim.specs import GPUS

ROOT = profiles_directory()
Cells = list[list[str]]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A copy of an H100's profile, where `--profile DIR` finds it."""
    place = tmp_path / "mine" / "h100" / "llama-3.1-8b" / "tp2"
    shutil.copytree(ROOT / "h100" / "llama-3.1-8b" / "tp2", place)
    return place


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    place = tmp_path / "tp1"
    shutil.copytree(ROOT / "h200" / "measured" / "llama-3.1-8b" / "tp1", place)
    return place


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    place = tmp_path / "h100" / "kernels"
    shutil.copytree(ROOT / "h100" / "kernels", place)
    return place


def change(path: Path, edit: Callable[[Cells], object]) -> None:
    """Edit the rows of a table, the header among them."""
    cells = [line.split(",") for line in path.read_text().splitlines()]
    edit(cells)
    path.write_text("".join(",".join(row) + "\n" for row in cells))


def put(line: int, column: int, text: str) -> Callable[[Cells], object]:
    def edit(cells: Cells) -> None:
        cells[line - 1][column - 1] = text

    return edit


def swap(line: int, other: int) -> Callable[[Cells], object]:
    def edit(cells: Cells) -> None:
        cells[line - 1], cells[other - 1] = cells[other - 1], cells[line - 1]

    return edit


def faster(first: int, factor: float) -> Callable[[Cells], object]:
    """All times from column `first` on divided by `factor`."""

    def edit(cells: Cells) -> None:
        for row in cells[1:]:
            row[first - 1 :] = [
                f"{float(text) / factor}" if text else "" for text in row[first - 1 :]
            ]

    return edit


def refusal(read: Callable[[Path], object], place: Path) -> str:
    with pytest.raises(ProfileError) as caught:
        read(place)
    told = str(caught.value)
    assert "\n" not in told
    return told.removeprefix(f"{place}/")


def _named(value: object) -> str:
    """Of a parameter: functions have addresses for names, which differ between processes."""
    return value if isinstance(value, str) else "edit"


@pytest.mark.parametrize(
    ("table", "edit", "told"),
    [
        ("gemm", put(9, 3, "-5"), "gemm.csv: line 9, column 3: -5 µs is no time above 0;"),
        ("gemm", put(9, 3, "0"), "gemm.csv: line 9, column 3: 0 µs is no time above 0;"),
        ("gemm", put(9, 3, "nan"), "gemm.csv: line 9, column 3: 'nan' is no finite number;"),
        ("gemm", put(9, 3, "inf"), "gemm.csv: line 9, column 3: 'inf' is no finite number;"),
        ("gemm", put(9, 3, ""), "gemm.csv: line 9, column 3: no time; this table has no holes"),
        ("gemm", put(9, 1, ""), "gemm.csv: line 9, column 1: '' is no size above 0"),
        ("gemm", put(9, 1, "8.5"), "gemm.csv: line 9, column 1: 8.5 is no whole number"),
        ("gemm", swap(5, 6), "gemm.csv: line 6, column 1: 4 after 5; each row once, in ascending"),
        ("gemm", lambda cells: cells.insert(5, cells[4]), "gemm.csv: line 6, column 1: 4 after 4;"),
        ("gemm", lambda cells: cells.__delitem__(slice(1, None)), "gemm.csv: no rows under the"),
        ("decode_attention", put(3, 4, "-1"), "decode_attention.csv: line 3, column 4: -1 µs is"),
        ("decode_attention", swap(3, 4), "decode_attention.csv: line 4, column 1: "),
        ("decode_attention", put(1, 3, "1"), "decode_attention.csv: line 1, column 3: '1' is no "),
        ("decode_attention", put(1, 3, "x"), "decode_attention.csv: line 1, column 3: 'x' is no "),
        ("decode_attention", put(2, 2, ""), "decode_attention.csv: line 2, column 2: no time;"),
        ("prefill_attention", put(2, 3, ""), "prefill_attention.csv: line 2, column 3: no time;"),
        (
            "prefill_attention",
            lambda cells: cells.__delitem__(slice(2, None)),
            "prefill_attention.csv: 1 batches of 1 or more; measure two",
        ),
        ("all_reduce", put(3, 2, "nan"), "all_reduce.csv: line 3, column 2: 'nan' is no finite"),
        ("all_reduce", put(3, 2, ""), "all_reduce.csv: line 3, column 2: no time;"),
        ("all_reduce", swap(3, 4), "all_reduce.csv: line 4, column 1: 512 after 1024;"),
    ],
    ids=_named,
)
def test_a_wrong_cell_of_a_profile_is_named(
    place: Path, table: str, edit: Callable[[Cells], object], told: str
) -> None:
    read_profile(place)
    change(place / f"{table}.csv", edit)
    assert refusal(read_profile, place).startswith(told)


@pytest.mark.parametrize(
    ("table", "edit", "told"),
    [
        ("small", put(3, 2, "-1"), "small.csv: line 3, column 2: '-1' is no time of 0 or more"),
        ("small", put(3, 2, ""), "small.csv: line 3, column 2: '' is no time of 0 or more"),
        ("small", swap(3, 4), "small.csv: line 4, column 1: "),
        ("prefill_chunks", put(2, 3, "0"), "prefill_chunks.csv: line 2, column 3: 0 µs is no time"),
    ],
    ids=_named,
)
def test_a_wrong_cell_of_what_only_some_measured_is_named(
    measured: Path, table: str, edit: Callable[[Cells], object], told: str
) -> None:
    read_profile(measured)
    change(measured / f"{table}.csv", edit)
    assert refusal(read_profile, measured).startswith(told)


@pytest.mark.parametrize(
    ("table", "edit", "told"),
    [
        ("gemm", put(3, 5, "-5"), "gemm.csv: line 3, column 5: -5 µs is no time above 0;"),
        ("gemm", put(3, 5, "nan"), "gemm.csv: line 3, column 5: 'nan' is no finite number;"),
        ("gemm", put(3, 1, "x"), "gemm.csv: line 3, column 1: 'x' is no number"),
        ("gemm", put(1, 4, "1"), "gemm.csv: line 1, column 4: '1' is no number above 1;"),
        ("gemm", swap(3, 4), "gemm.csv: line 4, column "),
        ("decode_attention", put(3, 6, "0"), "decode_attention.csv: line 3, column 6: 0 µs is no"),
        ("decode_attention", put(3, 4, "x"), "decode_attention.csv: line 3, column 4: 'x' is no n"),
        ("prefill_attention", swap(3, 4), "prefill_attention.csv: line 4, column 4: "),
        ("experts", put(3, 9, "-5"), "experts.csv: line 3, column 9: -5 µs is no time above 0;"),
        ("experts", put(3, 1, "int8"), "experts.csv: line 3, column 1: 'int8' is none of bf16, f"),
        ("experts", put(3, 2, "0"), "experts.csv: line 3, column 2: '0' is no size above 0"),
        ("experts", put(1, 6, "gpus"), "experts.csv: line 1: columns ['weights', 'hidden', "),
        (
            "experts",
            swap(3, 4),
            "experts.csv: line 4, column 7: bf16,2048,512,256,8,1,2 after bf16",
        ),
        ("experts", swap(2, -1), "experts.csv: line 3, column 1: bf16,2048,512,256,8,1,2 after in"),
        ("all_reduce", put(3, 3, ""), "all_reduce.csv: line 3, column 3: no time;"),
        ("all_reduce", swap(3, 4), "all_reduce.csv: line 4, column 2: 2,512 after 2,1024;"),
    ],
    ids=_named,
)
def test_a_wrong_cell_of_a_gpus_kernels_is_named(
    kernels: Path, table: str, edit: Callable[[Cells], object], told: str
) -> None:
    change(kernels / f"{table}.csv", edit)
    assert refusal(read_atlas, kernels).startswith(told)


@pytest.mark.parametrize("factor", [1_000, 1.5])
def test_times_that_no_gpu_reaches_are_refused_as_another_unit(place: Path, factor: float) -> None:
    whole = (place / "gemm.csv").read_text()
    change(place / "gemm.csv", faster(2, factor))
    told = refusal(read_profile, place)
    assert told.startswith("gemm.csv: line ")
    assert told.endswith(" TFLOP/s of a GPU that has 990: are the times in microseconds?")
    (place / "gemm.csv").write_text(whole)
    if factor < 2:
        return
    for table, ending in (
        ("prefill_attention", " TFLOP/s of a GPU that has 990: are the times in microseconds?"),
        (
            "decode_attention",
            " GB/s by a GPU whose memory has 3,350: are the times in microseconds?",
        ),
    ):
        whole = (place / f"{table}.csv").read_text()
        change(place / f"{table}.csv", faster(2, factor))
        told = refusal(read_profile, place)
        assert told.startswith(f"{table}.csv: line ")
        assert told.endswith(ending)
        (place / f"{table}.csv").write_text(whole)
    read_profile(place)


@pytest.mark.parametrize(
    ("table", "first"),
    [
        ("gemm", 3),
        ("gemm_fp8", 3),
        ("decode_attention", 5),
        ("decode_attention_fp8", 5),
        ("prefill_attention", 5),
        ("prefill_attention_fp8", 5),
        ("experts", 8),
    ],
)
def test_a_gpus_kernels_in_another_unit_are_refused(kernels: Path, table: str, first: int) -> None:
    change(kernels / f"{table}.csv", faster(first, 1_000))
    told = refusal(read_atlas, kernels)
    assert told.startswith(f"{table}.csv: line ")
    assert told.endswith(": are the times in microseconds?")


def test_the_refused_gemm_is_the_fastest_one_by_its_own_cell(place: Path) -> None:
    """Llama-3.1-8B's down projection on one of two GPUs: 2 × 128 × 7,168 × 4,096 in 5 µs."""
    cells = [line.split(",") for line in (place / "gemm.csv").read_text().splitlines()]
    line = next(i for i, row in enumerate(cells, start=1) if row[0] == "128")
    change(place / "gemm.csv", put(line, 5, "5"))
    assert refusal(read_profile, place) == (
        f"gemm.csv: line {line}, column 5: 1,503 TFLOP/s of a GPU that has 990: "
        "are the times in microseconds?"
    )


def test_a_gpu_that_is_not_known_is_not_judged(place: Path) -> None:
    meta = place / "meta.toml"
    meta.write_text(meta.read_text().replace('gpu = "h100"', 'gpu = "h900"'))
    assert "h900" not in GPUS
    change(place / "gemm.csv", faster(2, 1_000))
    read_profile(place)


def test_a_wrong_table_is_one_line_of_a_plan(place: Path) -> None:
    change(place / "gemm.csv", put(9, 3, "-5"))
    root = place.parents[2]
    asked = ("plan", "--trace", "demo:mixed?n=100", "--gpu", "h100", "--tp", "2")
    line = complaint(root, *asked, "--profile", str(root), "--overlap", "table")
    assert line.startswith(f"error: {place}/gemm.csv: line 9, column 3: -5 µs is no time above 0;")
