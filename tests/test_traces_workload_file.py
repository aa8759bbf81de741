"""Our Parquet workload: what is written is read, and what a hand has broken is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_traces_openai import lines, request, tokenizer

from blendsim.errors import InputError
from blendsim.request import Prompts, Workload, from_lengths
from blendsim.traces import ReadOptions, load, load_pool, read_workload, write_workload


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    """Any workload that keeps the invariants, several spaces and sources included."""
    n = draw(st.integers(1, 8))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=n, max_size=n))

    unit_tokens = np.array(draw(st.lists(st.integers(1, 512), min_size=1, max_size=3)), np.int32)
    space = np.array(column(st.integers(0, len(unit_tokens) - 1)), np.int32)
    counts = np.array(column(st.integers(0, 4)))
    size = unit_tokens[space]
    prompt_len = np.maximum(1, counts * size - np.array(column(st.integers(0, 600))) % size)
    has_output = np.array(column(st.booleans()))
    total = int(counts.sum())
    units = draw(st.lists(st.integers(0, 2**40), min_size=total, max_size=total))
    names = draw(st.lists(st.text(max_size=5), min_size=1, max_size=3, unique=True))
    return Workload(
        ids=np.array(
            draw(st.lists(st.text("aé/0#", min_size=1), min_size=n, max_size=n, unique=True))
        ),
        prompt_len=prompt_len.astype(np.int64),
        output_len=np.where(has_output, column(st.integers(1, 10**7)), 0).astype(np.int64),
        has_output=has_output,
        output_limit=np.array(column(st.integers(0, 10**7))),
        is_known=has_output & np.array(column(st.booleans())),
        arrival=np.array(column(st.floats(0, 1e9))),
        source=np.array(column(st.integers(0, len(names) - 1)), np.int32),
        source_names=tuple(names),
        prompts=Prompts(
            np.concatenate(([0], np.cumsum(counts))),
            np.array(units, np.int64),
            space,
            unit_tokens,
            tuple(f"space {i}" for i in range(len(unit_tokens))),
        ),
        origin=("trace.csv",),
        notes=tuple(draw(st.lists(st.text(max_size=9), max_size=2))),
    )


def values(workload: Workload) -> dict[str, Any]:
    """Everything but where it was read from, in plain Python."""
    plain: dict[str, Any] = {}
    for owner in (workload, workload.prompts):
        for field in fields(owner):
            value = getattr(owner, field.name)
            if field.name not in ("prompts", "origin"):
                plain[field.name] = value.tolist() if isinstance(value, np.ndarray) else value
    return plain


@settings(deadline=None)
@given(workloads())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, written: Workload
) -> None:
    written.check()
    path = tmp_path_factory.mktemp("w") / "w.parquet"
    write_workload(written, path)
    read = read_workload(path)
    read.check()
    assert values(read) == values(written)
    assert read.origin == (str(path),)


def test_the_same_workload_gives_the_same_bytes(tmp_path: Path) -> None:
    pooled = load_pool(["demo:mmlu?n=40", "demo:clips?n=9"])
    write_workload(pooled, tmp_path / "a.parquet")
    write_workload(pooled, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_pool_survives_the_file(tmp_path: Path) -> None:
    pooled = load_pool(["demo:mixed?n=200", "demo:mooncake?n=20"])
    write_workload(pooled, tmp_path / "pool.parquet")
    assert values(load(str(tmp_path / "pool.parquet"))) == values(pooled)


def test_many_row_groups_join_in_order(tmp_path: Path) -> None:
    n = (1 << 16) + 5
    units = np.arange(n, dtype=np.int32)
    prompts = Prompts(
        np.arange(n + 1), units, np.zeros(n, np.int32), np.ones(1, np.int32), ("tokens",)
    )
    write_workload(from_lengths(np.ones(n), np.ones(n), prompts=prompts), tmp_path / "w.parquet")
    read = read_workload(tmp_path / "w.parquet")
    assert np.array_equal(read.prompts.units, units)
    assert np.array_equal(read.prompts.offsets, np.arange(n + 1))


def test_nothing_is_left_behind_where_writing_fails(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        write_workload(from_lengths([1], [1]), tmp_path / "none" / "w.parquet")
    assert list(tmp_path.iterdir()) == []


def broken(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    """A written workload whose columns or metadata `change` has altered."""
    prompts = Prompts(
        np.array([0, 1, 2]), np.array([3, 4]), np.zeros(2, np.int32), np.ones(1, np.int32), ("t",)
    )
    write_workload(from_lengths([5, 6], [1, 2], prompts=prompts), path)
    table = pq.read_table(path)
    meta = json.loads(table.schema.metadata[b"blendsim"])
    columns = dict(zip(table.column_names, table.columns, strict=True))
    change(columns, meta)
    table = pa.table(columns).replace_schema_metadata({b"blendsim": json.dumps(meta).encode()})
    pq.write_table(table, path)
    return path


def put(name: str, column: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda columns, meta: columns.update({name: column})


def tell(name: str, value: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda columns, meta: meta.update({name: value})


BROKEN = {
    "column gone": (lambda columns, meta: columns.pop("arrival"), "lacks column 'arrival'"),
    "no rows": (
        lambda columns, meta: columns.update({k: v[:0] for k, v in columns.items()}),
        "holds no requests",
    ),
    "negative prompt": (
        put("prompt_len", pa.array([5, -6])),
        "row 1 \\(from 0\\), column 'prompt_len': -6 is",
    ),
    "zero output": (
        put("output_len", pa.array([0, 2])),
        "row 0 \\(from 0\\), column 'output_len': 0 is zero",
    ),
    "output not there": (
        put("has_output", pa.array([True, False])),
        "row 1 \\(from 0\\), column 'output_len': 2 is given where has_output is false",
    ),
    "known without output": (
        lambda columns, meta: columns.update(
            has_output=pa.array([True, False]),
            output_len=pa.array([1, 0]),
            is_known=pa.array([False, True]),
        ),
        "row 1 \\(from 0\\), column 'is_known': True is true where has_output is false",
    ),
    "limit": (
        put("output_limit", pa.array([0, -1])),
        "row 1 \\(from 0\\), column 'output_limit': -1 is neg",
    ),
    "arrival": (put("arrival", pa.array([0.0, float("inf")])), "column 'arrival': inf is not a"),
    "source": (put("source", pa.array([0, 7], pa.int32())), "column 'source': 7 is not in the"),
    "space": (put("space", pa.array([0, -1], pa.int32())), "column 'space': -1 is not in the"),
    "wrong type": (put("prompt_len", pa.array(["5", "6"])), "'prompt_len': has string; int64"),
    "gap": (put("prompt_len", pa.array([5, None])), "'prompt_len': has 1 missing values"),
    "units type": (put("units", pa.array([1, 2])), "column 'units': has int64; lists of"),
    "units gap": (
        put("units", pa.array([[1], [None]], pa.large_list(pa.int32()))),
        "column 'units': has missing",
    ),
    "too many units": (
        put("units", pa.array([[1] * 6, [2]], pa.large_list(pa.int32()))),
        "row 0 \\(from 0\\), column 'units': 6 units are more than the prompt holds",
    ),
    "duplicate id": (put("id", pa.array(["a", "a"])), "column 'id': 'a' is given twice"),
    "no spaces": (lambda columns, meta: meta.pop("spaces"), "metadata lack 'spaces'"),
    "odd spaces": (tell("spaces", [{"name": "t"}]), "spaces in its metadata is not"),
    "no unit": (
        tell("spaces", [{"name": "t", "unit_tokens": 0}]),
        "each with unit_tokens of at least 1",
    ),
    "another schema": (tell("schema", "steplog"), "holds 'steplog'; a workload file"),
    "newer": (tell("version", 99), "workload schema version 99"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused(kind: str, tmp_path: Path) -> None:
    change, message = BROKEN[kind]
    with pytest.raises(InputError, match=rf"w\.parquet.*{message}"):
        load(str(broken(tmp_path / "w.parquet", change)))


def test_a_guess_is_noted_once_however_often_it_is_stored(tmp_path: Path) -> None:
    bare = replace(
        from_lengths([5], [1], origin=("batch.jsonl",)),
        has_output=np.zeros(1, np.bool_),
        output_len=np.zeros(1, np.int64),
    )
    write_workload(bare, tmp_path / "a.parquet")
    first = load(str(tmp_path / "a.parquet"))
    write_workload(first, tmp_path / "a.parquet")
    assert load(str(tmp_path / "a.parquet")).notes == first.notes
    assert len(first.notes) == 1


def test_another_tokenizer_than_the_saved_ones_is_noted(tmp_path: Path) -> None:
    own = tokenizer(tmp_path)
    (other := tmp_path / "other.json").write_bytes(own.read_bytes() + b"\n")
    batch = lines(tmp_path / "batch.jsonl", request("a", prompt="what is"))
    notes: dict[tuple[str, str], str] = {}
    for name, used in {"own": str(own), "bytes": None}.items():
        saved = tmp_path / f"{name}.parquet"
        write_workload(load(str(batch), ReadOptions(tokenizer=used)), saved)
        for named in (own, other):
            found = load(str(saved), ReadOptions(tokenizer=str(named))).notes
            notes[name, named.name] = " ".join(note for note in found if "does nothing" in note)
    assert notes["own", "tokenizer.json"] == ""
    assert (
        "own.parquet: prompts were saved as another tokenizer's tokens, and --tok"
        in (notes["own", "other.json"])
    )
    for named in ("tokenizer.json", "other.json"):
        assert "bytes.parquet: prompts were saved as bytes, and --tok" in notes["bytes", named]


def test_a_tokenizer_is_not_asked_of_a_pool_without_texts(tmp_path: Path) -> None:
    write_workload(from_lengths([3], [4]), tmp_path / "w.parquet")
    read = load(str(tmp_path / "w.parquet"), ReadOptions(tokenizer=str(tmp_path / "none")))
    assert not read.notes


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by Linux")
def test_reading_takes_little_more_memory_than_what_is_read(tmp_path: Path) -> None:
    """A pool of 400,000 prompts has a gigabyte of tokens, and Arrow took four to read it."""
    n, each = 1 << 15, 640
    units = np.random.default_rng(0).integers(0, 100_000, n * each).astype(np.int32)
    offsets = np.arange(0, n * each + 1, each)
    prompts = Prompts(offsets, units, np.zeros(n, np.int32), np.ones(1, np.int32), ("t",))
    lengths = np.full(n, each)
    write_workload(from_lengths(lengths, lengths, prompts=prompts), tmp_path / "w.parquet")
    code = (
        "import sys; from pathlib import Path; from blendsim.traces import read_workload\n"
        "status = Path('/proc/self/status').read_text\n"
        "most = lambda: int(status().split('VmHWM:')[1].split()[0])\n"
        "before = most(); read_workload(Path(sys.argv[1])); print(1024 * (most() - before))"
    )
    table = pq.read_table(tmp_path / "w.parquet")
    pq.write_table(table, tmp_path / "groups.parquet", row_group_size=n // 16)  # as in a large pool
    command = [sys.executable, "-c", code, str(tmp_path / "groups.parquet")]
    taken = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert taken < 3 * units.nbytes


def test_a_path_may_be_a_text(tmp_path: Path) -> None:
    place = str(tmp_path / "w.parquet")
    write_workload(from_lengths([3], [1]), place)
    assert read_workload(place).prompt_len.tolist() == [3]


def test_parquet_of_other_programs_is_refused_with_what_is_read(tmp_path: Path) -> None:
    place = tmp_path / "own.parquet"
    pq.write_table(pa.table({"input_tokens": [5], "output_tokens": [1]}), place)
    said = (
        "holds 'no blendsim table'; a workload file is needed here: Parquet of other programs is "
        "not read as a trace; save its columns, such as input_tokens and output_tokens, as CSV or "
        "JSON Lines"
    )
    with pytest.raises(InputError, match=said) as refused:
        load(place)
    assert "\n" not in str(refused.value)
