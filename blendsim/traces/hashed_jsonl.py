"""JSONL traces whose prompts are given as hashes of fixed-size blocks: Mooncake and Qwen-Bailian.

A hash id stands for a whole prefix up to and including its block, so equal leading ids mean equal
prompts. Ids were renumbered for each file, therefore each file is a space of its own.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blendsim.arrays import Floats, Ints
from blendsim.errors import InputError
from blendsim.request import Prompts, Workload, from_lengths
from blendsim.traces.content import content
from blendsim.traces.counts import are_wrong, compact, require_rows, shown, whole
from blendsim.traces.jsonl import objects, read_columns
from blendsim.traces.length_names import EXTRAS
from blendsim.traces.seam import Head, ReadOptions, Told, silent, source_name
from blendsim.traces.times import LACKS_TIME, LATEST

_LENGTHS = frozenset({"input_length", "output_length"})
_TIME = frozenset({"timestamp"})
_BAILIAN = frozenset({"chat_id", "parent_chat_id", "turn"})


class _Columns(NamedTuple):
    timestamp: Floats
    prompt: Floats
    output: Floats
    counts: Ints  # hash ids of each row
    hashes: NDArray[Any]


@dataclass(frozen=True, slots=True)
class HashedFormat:
    """One JSONL format of prompt block hashes."""

    name: str
    block_tokens: int
    tick: float  # seconds of one unit of `timestamp`
    has_chats: bool

    @property
    def expects(self) -> str:
        """The keys it is recognised by."""
        extra = ",chat_id" if self.has_chats else ""
        return f"JSONL input_length,output_length{extra},hash_ids"

    def matches(self, head: Head) -> bool:
        """Whether the first object has the lengths, and the chat keys only where they belong. One
        with lengths and no hashes may have other columns and is left to those who read them.
        """
        is_trace = head.keys & (_BAILIAN | {"hash_ids"})
        if head.keys >= _TIME and not is_trace:
            is_trace = _TIME if head.keys.isdisjoint(EXTRAS) else frozenset()
        return (
            head.keys >= _LENGTHS
            and bool(is_trace)
            and bool(head.keys & _BAILIAN) == self.has_chats
        )

    def read(self, path: Path, options: ReadOptions, told: Told = silent) -> Workload:
        """The file as a workload; a row without `hash_ids` shares nothing."""
        data = content(path)
        columns = _parse(data)
        if columns is None or self._has_fault(columns):
            columns = _walk(path, self.block_tokens)
        require_rows(len(columns.prompt), path)
        n = len(columns.prompt)
        digest = hashlib.sha256(data).hexdigest()[:12]
        prompts = Prompts(
            offsets=np.concatenate(([0], np.cumsum(columns.counts))).astype(np.int64),
            units=compact(columns.hashes),
            space=np.zeros(n, np.int32),
            unit_tokens=np.array([self.block_tokens], np.int32),
            space_names=(f"hashes:{source_name(path)}:{digest}",),
        )
        return from_lengths(
            columns.prompt.astype(np.int64),
            columns.output.astype(np.int64),
            source=source_name(path),
            prompts=prompts,
            arrival=(columns.timestamp - columns.timestamp.min()) * self.tick,
            origin=(str(path),),
        )

    def _has_fault(self, columns: _Columns) -> bool:
        wrong = are_wrong(columns.prompt) | are_wrong(columns.output)
        too_many = columns.counts > np.ceil(columns.prompt / self.block_tokens)
        is_time = np.abs(columns.timestamp) < LATEST  # NaN is none
        return bool((wrong | too_many | ~is_time).any())


MOONCAKE = HashedFormat("mooncake-jsonl", block_tokens=512, tick=1e-3, has_chats=False)
BAILIAN = HashedFormat("bailian-jsonl", block_tokens=16, tick=1.0, has_chats=True)
HASHED_FORMATS = (MOONCAKE, BAILIAN)


def _parse(data: pa.Buffer) -> _Columns | None:
    """The columns by Arrow, or None when a row does not fit the schema and must be looked at."""
    schema = pa.schema(
        [
            ("timestamp", pa.float64()),
            ("input_length", pa.int64()),
            ("output_length", pa.int64()),
            ("hash_ids", pa.list_(pa.int64())),
        ]
    )
    table = read_columns(data, schema)
    if table is None:
        return None
    lists = table["hash_ids"].combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = pa.concat_arrays(lists.chunks)
    hashes = lists.flatten()
    if hashes.null_count or table["timestamp"].null_count not in (0, table.num_rows):
        return None
    counts = lists.value_lengths().fill_null(0).to_numpy().astype(np.int64)
    times, prompts, outputs = (
        np.asarray(table[name].to_numpy(zero_copy_only=False), np.float64)
        for name in ("timestamp", "input_length", "output_length")
    )
    if table["timestamp"].null_count:
        times = np.zeros(table.num_rows)
    return _Columns(times, prompts, outputs, counts, hashes.to_numpy())


def _walk(path: Path, block_tokens: int) -> _Columns:
    """The columns row by row: slow, and says what is wrong where."""
    rows: list[tuple[float, int, int]] = []
    lacks_time = False  # as the first row does; then no row may have one
    hashes: list[int] = []
    counts: list[int] = []
    for where, row in objects(path):
        prompt = whole(row.get("input_length"), "prompt", f"{where}, column 'input_length'")
        output = whole(row.get("output_length"), "output", f"{where}, column 'output_length'")
        ids = _hash_ids(row.get("hash_ids"), f"{where}, column 'hash_ids'")
        most = -(-prompt // block_tokens)
        if len(ids) > most:
            raise InputError(
                f"{where}, column 'hash_ids': {len(ids)} ids, but {prompt} prompt tokens fill at "
                f"most {most} blocks of {block_tokens}; mend the row"
            )
        lacks_time = row.get("timestamp") is None if not rows else lacks_time
        rows.append((_time(row.get("timestamp"), lacks_time, where), prompt, output))
        hashes.extend(ids)
        counts.append(len(ids))
    times, prompts, outputs = np.array(rows, np.float64).reshape(-1, 3).T
    return _Columns(
        times,
        prompts,
        outputs,
        counts=np.array(counts, np.int64),
        hashes=np.array(hashes, np.int64),
    )


def _hash_ids(value: object, where: str) -> list[int]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise InputError(f"{where}: {shown(value)} is not a list of hash ids; mend the row")
    for item in value:
        if not isinstance(item, int) or isinstance(item, bool) or not -(2**63) <= item < 2**63:
            raise InputError(
                f"{where}: {shown(item)} is not a hash id, a whole number of 64 bits; mend the row"
            )
    return value


def _time(value: object, lacks_time: bool, where: str) -> float:
    where = f"{where}, column 'timestamp'" + ("" if value is None else f": {shown(value)}")
    if lacks_time:
        if value is not None:
            raise InputError(
                f"{where} is given, but none in the first row: give all rows a time or none"
            )
        return 0.0
    if value is None:
        raise InputError(f"{where} {LACKS_TIME}")
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LATEST:
        return float(value)
    raise InputError(f"{where} is not a time: give a number")
