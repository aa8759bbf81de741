"""Plan: in which order a pool of requests enters the engine, and what planning believed when it
said so.

A plan holds nothing that planning may not see: it is the same bytes whatever the unsampled true
output lengths are.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blendsim.arrays import Bools, Floats, Ints
from blendsim.errors import InputError, PlanMismatch
from blendsim.pacing import Pacing, pacing_from_json
from blendsim.request import Workload
from blendsim.soundness import is_number, require_metadata
from blendsim.steplog import read_table, require_columns, write_parquet

SCHEMA_VERSION = 3
MOST_EXPECTED = 1 << 30  # output tokens of a request; no model's context comes near
IN_ORDER = "in_order"  # admission takes requests as listed
DUAL_SCAN = "dual_scan"  # admission takes from both ends of the list, §5.3 of the paper
_SCHEMA = pa.schema(
    [
        ("order", pa.int64()),
        ("rank", pa.int32()),
        ("is_first", pa.bool_()),
        ("is_visible", pa.bool_()),
        ("expected_output", pa.int64()),
        ("density", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A schedule of n requests, in plan order; row k of every column is the k-th of the plan, rank
    by rank.

    The first `is_first` rows of a rank (the sampled requests) run before all others, in order; the
    rest is taken from the front (`in_order`) or from both ends (`dual_scan`: dense end first in the
    list, memory-heavy end last).
    """

    policy: str
    admission: str  # IN_ORDER or DUAL_SCAN
    order: Ints  # (n,), rows of the workload: a permutation
    rank: NDArray[np.int32]  # (n,), non-decreasing
    is_first: Bools  # (n,), sampled requests; a prefix of each rank's rows
    is_visible: Bools  # (n,), planning saw the true output length (sampled or known)
    expected_output: Ints  # (n,), tokens, ≥ 1
    density: Floats  # (n,), ρ of the tree node the row hangs from after merging
    root_density: float  # ρ of the whole pool
    workload_hash: str  # fingerprint of what planning could see
    meta: Mapping[str, Any]  # origin, specs, seed, sample, predicted_seconds, …
    pacing: Pacing | None = None  # dual scan only: its steps are paced (serving/pacing.py)

    def __len__(self) -> int:
        return len(self.order)

    @property
    def replicas(self) -> int:
        """Colocated replicas it is for, of which some may have no requests; where its `meta` does
        not say how many those are, as many as the last that has some.
        """
        return max(self.used_replicas, self.made_for or 0)

    @property
    def used_replicas(self) -> int:
        """As many as the last that has requests."""
        return int(self.rank.max(initial=0)) + 1

    @property
    def made_for(self) -> int | None:
        """Replicas that its `meta` says it was made for."""
        found: int | None = self.meta.get("settings", {}).get("dp")
        return found

    def check(self) -> None:
        """Assert that the plan is a permutation and its columns fit together."""
        n = len(self)
        assert np.array_equal(np.sort(self.order), np.arange(n)), (
            "a plan is a permutation of the workload's rows"
        )
        assert bool((np.diff(self.rank) >= 0).all()), "a plan lists rank after rank"
        assert bool((self.rank >= 0).all()), "ranks are counted from 0"
        is_late = self.is_first[1:] & ~self.is_first[:-1] & (np.diff(self.rank) == 0)
        assert not bool(is_late.any()), "the first of a rank are listed before its others"
        assert bool((self.expected_output >= 1).all()), "every request is expected to answer"
        assert bool((self.expected_output <= MOST_EXPECTED).all()), (
            f"no request answers more than {MOST_EXPECTED:,} tokens"
        )
        assert bool((self.density >= 0).all()), "densities are at least 0"
        for name in _SCHEMA.names:
            assert len(getattr(self, name)) == n, f"{name} has one value a request"


def deal(plan: Plan, rank: Ints) -> Plan:
    """The plan with row k on replica `rank[k]`, listed rank by rank, the sampled requests first."""
    place = np.lexsort((np.arange(len(plan)), ~plan.is_first, rank))
    columns = ("order", "is_first", "is_visible", "expected_output", "density")
    return replace(
        plan,
        rank=rank[place].astype(np.int32),
        **{name: getattr(plan, name)[place] for name in columns},
    )


def fingerprint(workload: Workload, is_visible: Bools) -> str:
    """SHA-256 of what planning may see: ids, sources, prompts, limits, and output lengths where
    `is_visible`; and those of all requests that are answered. The same for a workload in memory and
    as its file is read, which takes no more room for a column than its values need.
    """
    digest = hashlib.sha256(b"blendsim workload 1")
    prompts = workload.prompts
    seen = np.where(is_visible, workload.output_len, 0)
    longest = max(1, int(np.strings.str_len(workload.ids).max(initial=0)))
    units = prompts.units
    if units.max(initial=0) < 2**31 and units.min(initial=0) >= 0:
        units = units.astype(np.int32, copy=False)
    for column in (
        workload.ids.astype(f"<U{longest}", copy=False),
        workload.prompt_len,
        workload.output_limit,
        workload.is_known,
        workload.source,
        is_visible,
        seen,
        prompts.offsets,
        units,
        prompts.space,
        prompts.unit_tokens,
    ):
        digest.update(str((column.dtype.str, column.shape)).encode())
        digest.update(np.ascontiguousarray(column).view(np.uint8).data)
    if workload.answered is not None:
        told = fingerprint(workload.answered, workload.answered.has_output)
        digest.update(told.encode())
    return digest.hexdigest()


def require_same_replicas(plan: Plan, dp: int) -> None:
    """Raise PlanMismatch unless `plan` is for that many colocated replicas. One whose `meta` does
    not say for how many it was made is for those that have requests, or more.
    """
    needed, made_for = plan.used_replicas, plan.made_for
    if (needed > dp) if made_for is None else (made_for != dp):
        replicas = f"{needed if made_for is None else made_for:,}"
        raise PlanMismatch(
            f"the plan is for dp = {replicas}, the settings have dp = {dp:,}; give the settings "
            f"dp = {replicas}, or plan again for {dp:,}"
        )


def require_same_workload(plan: Plan, workload: Workload) -> None:
    """Raise PlanMismatch unless `plan` was made for `workload`."""
    if len(plan) != len(workload):
        raise PlanMismatch(
            f"the plan is for {len(plan)} requests, the workload has {len(workload)}; "
            "give the workload it was made for, or plan again"
        )
    is_visible = np.zeros(len(plan), np.bool_)
    is_visible[plan.order] = plan.is_visible
    found = fingerprint(workload, is_visible)
    if found != plan.workload_hash:
        raise PlanMismatch(
            f"the plan was made for another workload: {_what_differs(plan, workload)} (hash "
            f"{plan.workload_hash[:12]}, this one {found[:12]}); give the workload it was made "
            "for, or plan again"
        )


def _what_differs(plan: Plan, workload: Workload) -> str:
    """What a plan can tell of a workload of as many requests and another hash: it has lengths that
    planning saw, and of the rest the hash alone.
    """
    rows, seen = plan.order[plan.is_visible], plan.expected_output[plan.is_visible]
    off = workload.output_len[rows] != seen
    if off.any():
        return f"{int(off.sum()):,} of {len(rows):,} output lengths that planning saw are others"
    answers = ", the answers of --rest" * (workload.answered is not None)
    return f"ids, prompts, max_tokens, the order of lines, the tokenizer{answers} or several differ"


def write_plan(plan: Plan, path: Path | str) -> None:
    """Write `plan` as Parquet (schema in docs/plan.md)."""
    plan.check()
    head = {
        "schema": "plan",
        "version": SCHEMA_VERSION,
        "policy": plan.policy,
        "admission": plan.admission,
        "root_density": plan.root_density,
        "workload_hash": plan.workload_hash,
        "meta": dict(plan.meta),
        "pacing": None if plan.pacing is None else plan.pacing.as_json(),
    }
    table = pa.table({name: pa.array(getattr(plan, name)) for name in _SCHEMA.names})
    write_parquet(
        table.replace_schema_metadata({b"blendsim": json.dumps(head, sort_keys=True).encode()}),
        Path(path),
    )


def read_plan(path: Path | str) -> Plan:
    """Read what `write_plan` wrote; refuses other files, newer schemas and broken plans."""
    path = Path(path)
    table, head = read_table(path, "plan", SCHEMA_VERSION)
    require_columns(table, _SCHEMA, path)
    for name, (is_sound, kind) in _HEAD.items():
        if name not in head:
            raise InputError(f"{path}: its metadata lack {name!r}; plan again with -o")
        if not is_sound(head[name]):
            raise InputError(f"{path}: {name} in its metadata is not {kind}; plan again with -o")
    require_metadata(head["meta"], len(table), path)
    plan = Plan(
        **{name: head[name] for name in _HEAD},
        **{name: table[name].to_numpy() for name in _SCHEMA.names},
        pacing=_read_pacing(head.get("pacing"), path),
    )
    try:
        plan.check()
    except AssertionError as error:
        raise InputError(f"{path}: is no sound plan ({error}); plan again with -o") from error
    return plan


def _is_text(value: object) -> bool:
    return isinstance(value, str)


#: What the metadata say of the plan: whether a value is sound, and what it should be.
_HEAD: dict[str, tuple[Callable[[Any], bool], str]] = {
    "policy": (_is_text, "a text"),
    "admission": (lambda value: value in (IN_ORDER, DUAL_SCAN), f"{IN_ORDER} or {DUAL_SCAN}"),
    "root_density": (lambda value: is_number(value) and value >= 0, "a number of at least 0"),
    "workload_hash": (_is_text, "a text"),
    "meta": (lambda value: isinstance(value, Mapping), "an object"),
}


def _read_pacing(head: object, path: Path) -> Pacing | None:
    if head is None:
        return None
    try:
        return pacing_from_json(head)
    except ValueError as error:
        raise InputError(f"{path}: its pacing is broken ({error}); plan again with -o") from error
    except InputError as error:
        raise InputError(f"{path}: {error}, or plan again with -o") from error
