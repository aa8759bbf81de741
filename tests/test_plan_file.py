"""The plan file, and the hash that ties it to what planning could see of a workload."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blendsim.errors import InputError, PlanMismatch
from blendsim.plan import (
    DUAL_SCAN,
    IN_ORDER,
    Plan,
    fingerprint,
    read_plan,
    require_same_workload,
    write_plan,
)
from blendsim.planner.make import POLICIES
from blendsim.planner.own import reordered
from blendsim.request import Prompts, Workload, from_lengths, select
from blendsim.traces import read_workload, write_workload

DOCS = Path(__file__).resolve().parents[1] / "docs"


def three_requests() -> Workload:
    return from_lengths([5, 6, 7], [10, 20, 30])


def small_plan(workload: Workload, visible: list[int]) -> Plan:
    order = np.array([2, 0, 1])
    is_visible = np.isin(np.arange(3), visible)
    return Plan(
        policy="blend",
        admission=DUAL_SCAN,
        order=order,
        rank=np.zeros(3, np.int32),
        is_first=np.array([True, False, False]),
        is_visible=is_visible[order],
        expected_output=np.array([30, 12, 12]),
        density=np.array([3.0, 2.0, 0.5]),
        root_density=1.5,
        workload_hash=fingerprint(workload, is_visible),
        meta={"seed": 0, "origin": ["made.csv"]},
    )


def test_plan_comes_back_as_written(tmp_path: Path) -> None:
    plan = small_plan(three_requests(), [2])
    write_plan(plan, tmp_path / "plan.parquet")
    back = read_plan(tmp_path / "plan.parquet")
    for name in ("order", "rank", "is_first", "is_visible", "expected_output", "density"):
        assert np.array_equal(getattr(back, name), getattr(plan, name)), name
    for name in ("policy", "admission", "root_density", "workload_hash", "meta"):
        assert getattr(back, name) == getattr(plan, name), name


def test_a_path_may_be_a_text(tmp_path: Path) -> None:
    write_plan(small_plan(three_requests(), [2]), str(tmp_path / "plan.parquet"))
    assert read_plan(str(tmp_path / "plan.parquet")).policy == "blend"


def test_same_plan_same_bytes(tmp_path: Path) -> None:
    write_plan(small_plan(three_requests(), [2]), tmp_path / "a")
    write_plan(small_plan(three_requests(), [2]), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_workload_in_memory_is_that_of_its_file(tmp_path: Path) -> None:
    """A part of a pool may keep its columns as wide as the pool's."""
    every = from_lengths(
        [5, 6, 7],
        [10, 20, 30],
        ids=["a", "b", "with a long name"],
        prompts=Prompts(
            offsets=np.array([0, 1, 2, 3]),
            units=np.array([3, 4, 1 << 40]),
            space=np.zeros(3, np.int32),
            unit_tokens=np.array([1], np.int32),
            space_names=("ids",),
        ),
    )
    some = select(every, np.array([0, 1]))
    write_workload(some, tmp_path / "some.parquet")
    read = read_workload(tmp_path / "some.parquet")
    assert read.ids.dtype != some.ids.dtype
    assert read.prompts.units.dtype != some.prompts.units.dtype
    is_visible = np.ones(2, np.bool_)
    assert fingerprint(some, is_visible) == fingerprint(read, is_visible)


def test_unseen_length_may_differ_and_the_plan_still_fits() -> None:
    workload = three_requests()
    other = replace(workload, output_len=np.array([11, 21, 30]))
    require_same_workload(small_plan(workload, [2]), other)


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        (
            "output_len",
            [10, 20, 31],  # row 2 was seen
            "1 of 1 output lengths that planning saw are others",
        ),
        ("prompt_len", [5, 6, 8], "ids, prompts, max_tokens"),
        ("output_limit", [0, 0, 9], "ids, prompts, max_tokens"),
        ("ids", ["0", "1", "x"], "ids, prompts, max_tokens"),
    ],
)
def test_changing_what_planning_saw_changes_the_hash(
    column: str, value: list[int] | list[str], told: str
) -> None:
    workload = three_requests()
    other = replace(workload, **{column: np.array(value)})
    with pytest.raises(PlanMismatch, match=rf"made for another workload: .*{told}.*plan again"):
        require_same_workload(small_plan(workload, [2]), other)


def test_another_number_of_requests_is_said_so() -> None:
    with pytest.raises(PlanMismatch, match="the plan is for 3 requests, the workload has 2"):
        require_same_workload(small_plan(three_requests(), [2]), from_lengths([5, 6], [1, 1]))


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("order", [0, 0, 1], "permutation"),
        ("rank", [1, 0, 0], "rank after rank"),
        ("expected_output", [0, 1, 1], "expected to answer"),
        ("density", [1.0], "density has one value a request"),
    ],
)
def test_check_names_what_is_broken(column: str, value: list[float], sentence: str) -> None:
    plan = small_plan(three_requests(), [2])
    with pytest.raises(AssertionError, match=sentence):
        replace(plan, **{column: np.array(value)}).check()


def test_broken_plan_is_never_written(tmp_path: Path) -> None:
    plan = replace(small_plan(three_requests(), [2]), order=np.array([0, 0, 1]))
    with pytest.raises(AssertionError):
        write_plan(plan, tmp_path / "plan.parquet")
    assert list(tmp_path.iterdir()) == []


def broken_order(table: pa.Table) -> pa.Table:
    return table.set_column(0, "order", pa.array([0, 0, 1]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda table: table.replace_schema_metadata({b"blendsim": b"[3"}), "metadata are damaged"),
        (
            lambda table: table.replace_schema_metadata({b"blendsim": b"[3]"}),
            "metadata are damaged",
        ),
        (lambda table: with_head(table, "policy"), "metadata lack 'policy'"),
        (lambda table: table.drop_columns("rank"), "lacks column 'rank'"),
        (lambda table: table.set_column(1, "rank", pa.array([0.0, 0, 0])), "has double; int32"),
        (lambda table: table.set_column(0, "order", pa.array([0, None, 1])), "1 missing values"),
        (broken_order, "is no sound plan .a plan is a permutation"),
    ],
)
def test_damaged_plan_is_one_line(
    tmp_path: Path, damage: Callable[[pa.Table], pa.Table], message: str
) -> None:
    path = tmp_path / "plan.parquet"
    write_plan(small_plan(three_requests(), [2]), path)
    pq.write_table(damage(pq.read_table(path)), path)
    with pytest.raises(InputError, match=message):
        read_plan(path)


def with_head(table: pa.Table, without: str) -> pa.Table:
    """`table` with one entry less in our metadata."""
    head = json.loads(table.schema.metadata[b"blendsim"])
    del head[without]
    return table.replace_schema_metadata({b"blendsim": json.dumps(head)})


def test_documented_columns_are_those_written(tmp_path: Path) -> None:
    path = tmp_path / "plan.parquet"
    write_plan(small_plan(three_requests(), [2]), path)
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", (DOCS / "plan.md").read_text(), re.MULTILINE)
    schema = pq.read_schema(path)
    assert rows == [(field.name, str(field.type)) for field in schema]


# ---- an order of one's own


def two_ranks() -> Plan:
    n = 6
    return Plan(
        policy="blend",
        admission=DUAL_SCAN,
        order=np.array([4, 0, 2, 5, 1, 3]),
        rank=np.array([0, 0, 0, 1, 1, 1], np.int32),
        is_first=np.array([True, False, False, True, False, False]),
        is_visible=np.array([True, False, False, True, False, True]),
        expected_output=np.array([50, 10, 30, 60, 20, 40]),
        density=np.array([5.0, 1.0, 3.0, 6.0, 2.0, 4.0]),
        root_density=1.5,
        workload_hash="0" * 64,
        meta={"n": n},
    )


def test_columns_go_with_their_requests_into_another_order() -> None:
    plan = replace(two_ranks(), rank=np.zeros(6, np.int32), is_first=np.zeros(6, np.bool_))
    made = reordered(plan, [3, 2, 1, 0, 5, 4], "mine")
    assert (made.policy, made.admission, made.pacing) == ("mine", IN_ORDER, None)
    assert made.order.tolist() == [3, 2, 1, 0, 5, 4]
    assert made.expected_output.tolist() == [40, 30, 20, 10, 60, 50]
    assert made.density.tolist() == [4.0, 3.0, 2.0, 1.0, 6.0, 5.0]
    assert made.is_visible.tolist() == [True, False, False, False, True, True]
    assert not made.is_first.any()


def test_every_rank_keeps_its_requests_in_another_order() -> None:
    made = reordered(two_ranks(), np.arange(6))
    assert made.order.tolist() == [0, 2, 4, 1, 3, 5]
    assert made.rank.tolist() == [0, 0, 0, 1, 1, 1]


def test_an_order_of_ones_own_is_for_the_same_workload(tmp_path: Path) -> None:
    workload = three_requests()
    plan = small_plan(workload, [0])
    again = reordered(plan, np.arange(len(plan))[::-1])
    require_same_workload(again, workload)
    write_plan(again, tmp_path / "p.parquet")
    assert read_plan(tmp_path / "p.parquet").order.tolist() == again.order.tolist()


@pytest.mark.parametrize(
    ("order", "sentence"),
    [
        ([0, 1, 2, 3, 4], "is 6 row numbers in one line"),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "not float64"),
        ([0, 1, 2, 3, 4, 6], "names row 6; rows are 0 to 5"),
        ([0, 1, 2, 3, -1, 5], "names row -1"),
        ([0, 1, 2, 3, 3, 5], "names row 3 2 times; name every row once"),
    ],
)
def test_what_is_no_order_is_refused(order: list[float], sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        reordered(two_ranks(), np.array(order))


@pytest.mark.parametrize("name", [*POLICIES, "", " "])
def test_an_order_of_ones_own_cannot_pass_for_a_policy(name: str) -> None:
    told = "would pass for a plan of that policy" if name in POLICIES else "needs a name"
    with pytest.raises(InputError, match=told):
        reordered(two_ranks(), np.arange(6), name)
