"""Our own Parquet files with one cell, one word of the metadata or some bytes changed are refused
in one line, or read and then as good as any.
"""

import copy
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_pacing_plan import small_plan

from blendsim.errors import BlendsimError, InputError
from blendsim.pacing import Pacing
from blendsim.plan import read_plan, write_plan
from blendsim.report.gist import gist
from blendsim.report.validate import validate
from blendsim.request import Prompts, from_lengths
from blendsim.steplog import COUNTS, TIMES, StepLog, read_steplog, row_ranges, write_steplog
from blendsim.traces.workload_file import read_workload, write_workload

KEY = b"blendsim"
META = {
    "policy": "dfs",
    "settings": {"model": "llama-3.1-8b", "gpu": "a100-80g"},
    "source": {"traces": ["t.csv"], "read": {"seed": 0}, "skip_oversize": False},
    "machine": {"device": "NVIDIA A100"},
    "estimate": {"measured": 2, "low": 1.0, "high": 2.0, "level": 0.95},
    "measured_rows": [0, 2],
    "halved": [[0, 1], [2, 3]],
    "not_counted": ["hit_tokens"],
    "complete": True,
}


def make_log(path: Path) -> None:
    steps = 3
    write_steplog(
        StepLog(
            counts=np.arange(steps * len(COUNTS)).reshape(steps, -1),
            times=np.arange(1, steps * len(TIMES) + 1).reshape(steps, -1) / 7,
            replica=np.array([0, 0, 1], np.int32),
            meta=META,
        ),
        path,
    )


def use_log(path: Path) -> None:
    log = read_steplog(path)
    assert np.isfinite(log.times).all()
    assert (log.counts >= 0).all()
    found = gist(log, None, None)
    assert found.computed_tokens >= 0
    assert 0 <= found.seconds < np.inf
    assert validate(log, log).total.error == 0.0


def make_plan(path: Path) -> None:
    write_plan(small_plan(), path)


def use_plan(path: Path) -> None:
    plan = read_plan(path)
    plan.check()
    assert isinstance(plan.pacing, Pacing | None)
    again = path.with_name("again")
    write_plan(plan, again)
    assert np.array_equal(read_plan(again).order, plan.order)


def make_workload(path: Path) -> None:
    prompts = Prompts(
        np.array([0, 2, 3, 3]),
        np.array([1, 2, 1], np.int32),
        np.zeros(3, np.int32),
        np.array([16], np.int32),
        ("hashes",),
    )
    write_workload(from_lengths([32, 16, 5], [4, 5, 6], prompts=prompts, notes=("n",)), path)


def use_workload(path: Path) -> None:
    workload = read_workload(path)
    workload.check()
    again = path.with_name("again")
    write_workload(workload, again)
    assert np.array_equal(read_workload(again).prompt_len, workload.prompt_len)


class Kind(NamedTuple):
    """One of our files: how a small one is made, and read so that what it says is used."""

    make: Callable[[Path], None]
    use: Callable[[Path], None]


KINDS = {
    "log": Kind(make_log, use_log),
    "plan": Kind(make_plan, use_plan),
    "workload": Kind(make_workload, use_workload),
}


def refusal(use: Callable[[Path], None], path: Path) -> str | None:
    """What is said of the file, or None where it is read."""
    told = None
    try:
        use(path)
    except BlendsimError as error:
        told = str(error)
    assert "\n" not in (told or "")
    return told


def cells(kind: pa.DataType) -> list[Any]:
    """Values a column of this type may hold, most of them wrong."""
    if pa.types.is_integer(kind):
        most = 2 ** (kind.bit_width - 1) - 1
        return [None, -1, 0, 1, most, -most - 1]
    if pa.types.is_floating(kind):
        return [None, -1.0, 0.0, float("nan"), float("inf"), -float("inf"), 1e300, 5e-324]
    if pa.types.is_boolean(kind):
        return [None, True, False]
    return [None, "", "x\n"] if pa.types.is_string(kind) else [None, [None], [-1], [1] * 9]


@pytest.mark.parametrize("name", KINDS)
def test_a_changed_cell_is_refused_or_fits(name: str, tmp_path: Path) -> None:
    path, kind = tmp_path / "file", KINDS[name]
    kind.make(path)
    table = pq.read_table(path)
    for at, field in enumerate(table.schema):
        for row in range(table.num_rows):
            for value in cells(field.type):
                column = table[field.name].to_pylist()
                column[row] = value
                pq.write_table(table.set_column(at, field, pa.array(column, field.type)), path)
                told = refusal(kind.use, path)
                assert value is not None or (told and field.name in told and str(path) in told)


@pytest.mark.parametrize("name", KINDS)
def test_a_column_of_another_type_twice_or_not_at_all_is_refused(name: str, tmp_path: Path) -> None:
    path, kind = tmp_path / "file", KINDS[name]
    kind.make(path)
    table = pq.read_table(path)
    for at, field in enumerate(table.schema):
        texts = pa.array(["x"] * table.num_rows)
        for changed in (
            table.set_column(at, field.name, texts if field.name != "id" else pa.array([1, 2, 3])),
            table.drop_columns(field.name),
        ):
            pq.write_table(changed, path)
            assert field.name in (refusal(kind.use, path) or "")
        pq.write_table(table.append_column(field, table[field.name]), path)
        assert refusal(kind.use, path)
    pq.write_table(table.slice(0, 0), path)
    refusal(kind.use, path)


WORDS: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, float("nan"), float("inf"), 10**18, 10**400, "", "\ud800", "x\0"),
    *([], [None], ["x"], [[]], {}, {"x": 1}, 1e300, "remove"),
)


def words(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values in a JSON object, the first two of each list."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else ()
    for key, each in inner or (list(enumerate(value))[:2] if isinstance(value, list) else ()):
        yield from words(each, (*path, key))


def put(head: dict[str, Any], place: tuple[Any, ...], word: Any) -> dict[str, Any]:
    changed = copy.deepcopy(head)
    inner: Any = changed
    for key in place[:-1]:
        inner = inner[key]
    if word == "remove":
        del inner[place[-1]]
    else:
        inner[place[-1]] = word
    return changed


@pytest.mark.parametrize("name", KINDS)
def test_changed_metadata_are_refused_or_fit(name: str, tmp_path: Path) -> None:
    path, kind = tmp_path / "file", KINDS[name]
    kind.make(path)
    table = pq.read_table(path)
    head = json.loads(table.schema.metadata[KEY])
    for place in words(head):
        for word in WORDS:
            text = json.dumps(put(head, place, word))
            pq.write_table(table.replace_schema_metadata({KEY: text}), path)
            refusal(kind.use, path)
    for text in ("", "[", "[]", "7", "[" * 100_000, b"\xff"):
        pq.write_table(table.replace_schema_metadata({KEY: text}), path)
        assert refusal(kind.use, path)


@pytest.mark.parametrize("name", KINDS)
def test_changed_bytes_are_refused_or_fit(name: str, tmp_path: Path) -> None:
    path, kind = tmp_path / "file", KINDS[name]
    kind.make(path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(good), 100).tolist():
        path.write_bytes(good[:at])
        assert refusal(kind.use, path)
        path.write_bytes(good[:at] + rng.bytes(1) + good[at + 1 :])
        refusal(kind.use, path)


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("running", [1, None, 2], "column 'running': has 1 missing values, the first in row 1"),
        ("running", [1, 2, -4], "running = -4 in row 2"),
        ("running", [2**62, 2, 4], "running = 4.61169e+18 in row 0"),
        ("seconds", [1.0, float("nan"), 1.0], "seconds = nan in row 1"),
        ("seconds", [1.0, 1e300, 1.0], "seconds = 1e+300 in row 1"),
        ("replica", [0, -1, 0], "replica = -1 in row 1"),
    ],
)
def test_log_says_which_cell_is_wrong(
    column: str, values: list[Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    make_log(path)
    table = pq.read_table(path)
    field = table.schema.field(column)
    at = table.schema.get_field_index(column)
    pq.write_table(table.set_column(at, field, pa.array(values, field.type)), path)
    with pytest.raises(InputError) as caught:
        read_steplog(path)
    assert f"{path}" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("rows", [None, [None], [1.0], ["1"], [3], [-1], 7, [True]])
def test_measured_rows_that_cannot_be_are_refused_by_the_reader(rows: Any, tmp_path: Path) -> None:
    make_log(tmp_path / "log")
    log = read_steplog(tmp_path / "log")
    write_steplog(
        StepLog(log.counts, log.times, log.replica, {**log.meta, "measured_rows": rows}),
        tmp_path / "log",
    )
    with pytest.raises(InputError, match="measured_rows in its metadata"):
        read_steplog(tmp_path / "log")


RANGES = [None, 7, [1], [[0]], [[0, 1, 2]], [[0, 1.0]], [["0", "1"]], [[-1, 1]], [[2, 2]], [[2, 4]]]


@pytest.mark.parametrize("halved", RANGES)
def test_halved_rows_that_cannot_be_are_refused_by_the_reader(halved: Any, tmp_path: Path) -> None:
    make_log(tmp_path / "log")
    log = read_steplog(tmp_path / "log")
    assert log.is_halved.tolist() == [True, False, True]
    write_steplog(
        StepLog(log.counts, log.times, log.replica, {**log.meta, "halved": halved}),
        tmp_path / "log",
    )
    with pytest.raises(InputError, match="halved in its metadata"):
        read_steplog(tmp_path / "log")


@given(st.lists(st.booleans(), max_size=12))
def test_rows_as_ranges_are_those_rows_again(rows: list[bool]) -> None:
    steps = len(rows)
    ranges = row_ranges(np.array(rows, np.bool_))
    log = StepLog(
        np.zeros((steps, len(COUNTS)), np.int64),
        np.zeros((steps, len(TIMES))),
        np.zeros(steps, np.int32),
        {"halved": ranges},
    )
    assert log.is_halved.tolist() == rows
    assert all(behind < first for (_, behind), (first, _) in pairwise(ranges))
