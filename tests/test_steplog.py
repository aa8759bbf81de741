"""The step log's file, and the one reader of all our Parquet tables."""

import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blendsim.batch import Batch
from blendsim.errors import InputError
from blendsim.steplog import COUNTS, TIMES, StepLog, read_steplog, read_table, write_steplog

DOCS = Path(__file__).resolve().parents[1] / "docs"


def small_log() -> StepLog:
    steps = 3
    return StepLog(
        counts=np.arange(steps * len(COUNTS)).reshape(steps, -1),
        times=np.arange(steps * len(TIMES)).reshape(steps, -1) / 7,
        replica=np.array([0, 0, 1], np.int32),
        meta={"policy": "dfs", "seed": 3},
    )


def test_first_counts_are_a_batch() -> None:
    assert COUNTS[: len(Batch._fields)] == Batch._fields


def test_columns_are_read_by_name() -> None:
    log = small_log()
    assert len(log) == 3
    at = COUNTS.index("finished")
    assert log.count("finished").tolist() == [at, at + len(COUNTS), at + 2 * len(COUNTS)]
    assert log.time("start").tolist() == [0, len(TIMES) / 7, 2 * len(TIMES) / 7]


def test_log_comes_back_as_written(tmp_path: Path) -> None:
    log = small_log()
    write_steplog(log, tmp_path / "steps.parquet")
    back = read_steplog(tmp_path / "steps.parquet")
    assert np.array_equal(back.counts, log.counts)
    assert np.array_equal(back.times, log.times)
    assert np.array_equal(back.replica, log.replica)
    assert back.meta["policy"] == "dfs"
    assert back.meta["version"] == 3


def test_a_path_may_be_a_text(tmp_path: Path) -> None:
    write_steplog(small_log(), str(tmp_path / "steps.parquet"))
    assert len(read_steplog(str(tmp_path / "steps.parquet"))) == 3


def test_same_log_same_bytes(tmp_path: Path) -> None:
    write_steplog(small_log(), tmp_path / "a")
    write_steplog(small_log(), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; check the path"):
        read_steplog(tmp_path / "steps.parquet")


@pytest.mark.parametrize("content", [b"", b"PAR1 but not really", b"start,seconds\n0,1\n"])
def test_other_bytes_are_not_a_step_log(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "steps.parquet"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a Parquet file"):
        read_steplog(path)


def test_directory_is_not_a_step_log(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a directory; give a steplog file"):
        read_steplog(tmp_path)


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is a pipe or device"):
        read_steplog(tmp_path / "pipe")


def test_directory_of_tables_is_not_read_as_one(tmp_path: Path) -> None:
    write_steplog(small_log(), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="is a directory"):
        read_steplog(tmp_path)


def test_strange_parquet_says_what_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "steps.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(InputError, match="holds 'no blendsim table'; a steplog file is needed"):
        read_steplog(path)


def test_another_table_of_ours_is_named(tmp_path: Path) -> None:
    path = tmp_path / "steps.parquet"
    write_steplog(small_log(), path)
    with pytest.raises(InputError, match="holds 'steplog'; a plan file is needed here"):
        read_table(path, "plan", 1)


def test_log_without_one_of_its_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "steps.parquet"
    write_steplog(small_log(), path)
    pq.write_table(pq.read_table(path).drop_columns("waiting"), path)
    with pytest.raises(InputError, match="lacks column 'waiting'"):
        read_steplog(path)


def test_log_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "steps.parquet"
    write_steplog(small_log(), path)
    table = pq.read_table(path)
    pq.write_table(table.append_column("waiting", table["waiting"]), path)
    with pytest.raises(InputError, match="has 2 columns 'waiting'; write it with blendsim again"):
        read_steplog(path)


@pytest.mark.parametrize(("reads", "mend"), [(2, "upgrade"), (4, "make it again")])
def test_another_version_of_the_schema_is_refused(tmp_path: Path, reads: int, mend: str) -> None:
    path = tmp_path / "steps.parquet"
    write_steplog(small_log(), path)
    with pytest.raises(InputError, match=f"schema version 3, this blendsim reads {reads}; {mend}"):
        read_table(path, "steplog", reads)


def test_documented_columns_are_those_written(tmp_path: Path) -> None:
    path = tmp_path / "steps.parquet"
    write_steplog(small_log(), path)
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", (DOCS / "steplog.md").read_text(), re.MULTILINE)
    schema = pq.read_schema(path)
    assert rows == [(field.name, str(field.type)) for field in schema]
