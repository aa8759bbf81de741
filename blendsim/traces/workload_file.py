"""Our own Parquet workload: every column of a Workload, prompts as a list column, names and spaces
in the metadata. The same workload gives the same bytes.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blendsim.arrays import Bools, Ints
from blendsim.errors import InputError
from blendsim.request import MOST_TOKENS, Prompts, Workload
from blendsim.soundness import are_texts, is_whole
from blendsim.steplog import (
    TableFile,
    open_table,
    require_columns,
    write_parquet,
)
from blendsim.traces.counts import are_wrong, compact, fault, require_rows, shown
from blendsim.traces.seam import Head, ReadOptions, Told, silent
from blendsim.traces.tokens import made_otherwise

SCHEMA_VERSION = 1
_MAGIC = b"PAR1"
_OTHERS = (
    "Parquet of other programs is not read as a trace; save its columns, such as input_tokens and "
    "output_tokens, as CSV or JSON Lines"
)
_TYPES = {
    "id": pa.string(),
    "prompt_len": pa.int64(),
    "output_len": pa.int64(),
    "has_output": pa.bool_(),
    "output_limit": pa.int64(),
    "is_known": pa.bool_(),
    "arrival": pa.float64(),
    "source": pa.int32(),
    "space": pa.int32(),
}


class WorkloadFormat:
    """The workload files `blendsim` writes."""

    name = "workload"
    expects = "Parquet written by blendsim"

    def matches(self, head: Head) -> bool:
        """Whether the file is Parquet."""
        return head.line.startswith(_MAGIC)

    def read(self, path: Path, options: ReadOptions, told: Told = silent) -> Workload:
        """What `write_workload` wrote; a note where its prompts are other tokens than those of the
        tokenizer named, which does nothing here any more.
        """
        workload, tokenizer = read_workload(path), options.tokenizer
        if tokenizer is None:
            return workload
        made = made_otherwise(workload.prompts.space_names, tokenizer)
        if made is None:
            return workload
        note = (
            f"{path}: prompts were saved as {made}, and --tokenizer {tokenizer} does nothing with "
            "them; save the trace again with it"
        )
        return replace(workload, notes=(*workload.notes, note))


WORKLOAD = WorkloadFormat()


class Lines(NamedTuple):
    """The file whose lines are the requests of a saved workload."""

    path: str  # as it was named
    sha256: str  # of its bytes
    format: str


def write_workload(workload: Workload, path: Path | str, lines: Lines | None = None) -> None:
    """Write `workload` as Parquet (schema in docs/traces.md), with where its `lines` are. Requests
    that are answered have no place in it: InputError.
    """
    if workload.answered is not None:
        raise InputError(
            f"{path}: {len(workload.answered):,} requests are answered and would be lost; save "
            "the whole trace, and read that with its results"
        )
    prompts = workload.prompts
    values = {"id": workload.ids, "space": prompts.space}
    columns: dict[str, pa.Array] = {
        name: pa.array(values.get(name, getattr(workload, name, None)), kind)
        for name, kind in _TYPES.items()
    }
    columns["units"] = pa.LargeListArray.from_arrays(prompts.offsets, pa.array(prompts.units))
    meta = {
        "schema": "workload",
        "version": SCHEMA_VERSION,
        "source_names": workload.source_names,
        "spaces": [
            {"name": name, "unit_tokens": tokens}
            for name, tokens in zip(prompts.space_names, prompts.unit_tokens.tolist(), strict=True)
        ],
        "origin": workload.origin,
        "notes": workload.notes,
    }
    if lines is not None:
        meta["lines"] = lines._asdict()
    table = pa.table(columns).replace_schema_metadata({b"blendsim": json.dumps(meta).encode()})
    write_parquet(table, Path(path), row_group_size=1 << 16)


def read_workload(path: Path | str) -> Workload:
    """Read what `write_workload` wrote; refuses other files, newer schemas and broken values."""
    path = Path(path)
    file = open_table(path, "workload", SCHEMA_VERSION, _OTHERS)
    table, meta = file.read([name for name in _TYPES if name in file.names]), file.meta
    require_columns(table, pa.schema(list(_TYPES.items())), path)
    require_rows(table.num_rows, path)
    columns = {name: _column(table, name) for name in _TYPES}
    offsets, units = _lists(file)
    for name, (is_sound, kind) in _HEAD.items():
        if name not in meta:
            raise InputError(f"{path}: its metadata lack {name!r}; write it with blendsim again")
        if not is_sound(meta[name]):
            raise InputError(f"{path}: {name} in its metadata is not {kind}; write it again")
    space_names = tuple(space["name"] for space in meta["spaces"])
    unit_tokens = np.array([space["unit_tokens"] for space in meta["spaces"]], np.int32)
    sources, notes = tuple(meta["source_names"]), tuple(meta["notes"])
    _check(columns, np.diff(offsets), unit_tokens, len(sources), path)
    ids, space = columns.pop("id"), columns.pop("space")
    return Workload(
        ids=ids,
        source_names=sources,
        prompts=Prompts(offsets, units, space, unit_tokens, space_names),
        origin=(str(path),),  # where it was before, the metadata remember
        notes=notes,
        answered=None,
        **columns,
    )


def read_lines(path: Path) -> Lines | None:
    """Where the lines of the workload at `path` are; None for one that has none."""
    given = open_table(path, "workload", SCHEMA_VERSION).meta.get("lines")
    if given is None:
        return None
    if not isinstance(given, dict) or not all(
        isinstance(given.get(name), str) for name in Lines._fields
    ):
        raise InputError(
            f"{path}: lines in its metadata are not {', '.join(Lines._fields)}; write it again"
        )
    return Lines(*(given[name] for name in Lines._fields))


def _are_spaces(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(space, dict)
        and isinstance(space.get("name"), str)
        and is_whole(space.get("unit_tokens"), 1, MOST_TOKENS)
        for space in value
    )


#: What the metadata say of the workload: whether a value is sound, and what it should be.
_HEAD: dict[str, tuple[Callable[[Any], bool], str]] = {
    "spaces": (_are_spaces, "a list of names, each with unit_tokens of at least 1"),
    "source_names": (are_texts, "a list of names"),
    "notes": (are_texts, "a list of sentences"),
}


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    if _TYPES[name] == pa.string():
        return np.array(table[name].to_pylist(), np.str_)
    return np.array(table[name].to_numpy())  # NOTE: a copy; Arrow's arrays are read-only


def _lists(file: TableFile) -> tuple[Ints, NDArray[Any]]:
    if "units" not in file.names:
        raise InputError(f"{file.path}: lacks column 'units'; write it with blendsim again")
    kind = file.file.schema_arrow.field("units").type
    if not pa.types.is_large_list(kind) or not pa.types.is_integer(kind.value_type):
        raise InputError(f"{file.path}, column 'units': has {kind}; lists of integers are needed")
    counts: list[Ints] = []
    units = np.zeros(0, kind.value_type.to_pandas_dtype())
    for piece in file.pieces("units"):
        values = piece.flatten()
        if piece.null_count or values.null_count:
            raise InputError(
                f"{file.path}, column 'units': has missing values; lists without gaps are needed"
            )
        counts.append(piece.value_lengths().to_numpy())
        at = len(units)
        units.resize(at + len(values), refcheck=False)  # in place: a pool's tokens fill memory
        units[at:] = values.to_numpy()
    offsets = np.concatenate(([0], np.cumsum(np.concatenate(counts)))).astype(np.int64)
    is_compact = units.dtype == np.int32 and units.min(initial=0) >= 0
    return offsets, units if is_compact else compact(units)


def _check(
    columns: dict[str, NDArray[Any]],
    counts: Ints,
    unit_tokens: NDArray[np.int32],
    sources: int,
    path: Path,
) -> None:
    """Refuse what a hand or another tool may have put into the columns."""
    has, prompt, output = columns["has_output"], columns["prompt_len"], columns["output_len"]
    rules: tuple[tuple[str, Bools, Callable[[Any], str | None]], ...] = (
        ("prompt_len", are_wrong(prompt), lambda value: fault(value, "prompt")),
        ("output_len", are_wrong(output) & has, lambda value: fault(value, "output")),
        ("output_len", ~has & (output != 0), lambda _: "is given where has_output is false"),
        (
            "output_limit",
            are_wrong(columns["output_limit"], least=0),
            lambda value: fault(value, "limit"),
        ),
        ("is_known", columns["is_known"] & ~has, lambda _: "is true where has_output is false"),
        ("arrival", ~np.isfinite(columns["arrival"]), lambda _: "is not a time"),
        ("source", _outside(columns["source"], sources), lambda _: "is not in the metadata"),
        ("space", _outside(columns["space"], len(unit_tokens)), lambda _: "is not in the metadata"),
    )
    for name, wrong, why in rules:
        _refuse(wrong, path, name, columns[name], why)
    tokens = unit_tokens[columns["space"]]
    _refuse(
        counts * tokens > prompt + tokens - 1,
        path,
        "units",
        counts,
        lambda _: "units are more than the prompt holds",
    )
    ids, repeats = np.unique(columns["id"], return_counts=True)
    if (repeats > 1).any():
        raise InputError(f"{path}, column 'id': {shown(str(ids[repeats > 1][0]))} is given twice")


def _outside(codes: NDArray[np.int32], number: int) -> Bools:
    """Which codes name none of `number` things."""
    outside: Bools = (codes < 0) | (codes >= number)
    return outside


def _refuse(
    wrong: Bools,
    path: Path,
    name: str,
    values: NDArray[Any],
    why: Callable[[Any], str | None],
) -> None:
    """Raise for the first wrong row."""
    if wrong.any():
        row = int(np.argmax(wrong))
        value = values[row].item()
        raise InputError(
            f"{path}, row {row:,} (from 0), column {name!r}: {shown(value)} {why(value)}"
        )
