"""The Workload in columns: its invariants, selecting and pooling."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blendsim.errors import InputError
from blendsim.request import Prompts, Workload, from_lengths, pool, select


def token_prompts(rows: list[list[int]], space: str = "tokens", unit_tokens: int = 1) -> Prompts:
    return Prompts(
        offsets=np.cumsum([0] + [len(row) for row in rows]).astype(np.int64),
        units=np.array([unit for row in rows for unit in row], np.int32),
        space=np.zeros(len(rows), np.int32),
        unit_tokens=np.array([unit_tokens], np.int32),
        space_names=(space,),
    )


def of_tokens(rows: list[list[int]], space: str = "tokens", source: str = "t") -> Workload:
    lengths = [len(row) for row in rows]
    prompts = token_prompts(rows, space)
    return from_lengths(lengths, lengths, source=source, prompts=prompts)


def content(workload: Workload) -> list[tuple[str, list[int]]]:
    """Each request's space name and listed units."""
    prompts = workload.prompts
    return [
        (
            prompts.space_names[prompts.space[i]],
            prompts.units[prompts.offsets[i] : prompts.offsets[i + 1]].tolist(),
        )
        for i in range(len(workload))
    ]


def test_lengths_make_a_workload_that_shares_nothing() -> None:
    workload = from_lengths([3, 5], [1, 2], source="made")
    assert workload.ids.tolist() == ["0", "1"]
    assert workload.has_output.all()
    assert not workload.is_known.any()
    assert content(workload) == [("unknown", []), ("unknown", [])]


@pytest.mark.parametrize(
    ("prompts", "outputs", "sentence"),
    [
        ([3, 0], [5, 5], "prompt_len[1] is 0; a prompt and an answer have at least 1 token each"),
        ([5], [-1], "output_len[0] is -1; a prompt and an answer have at least 1 token each"),
        ([], [], "there is no request; give the lengths of at least one"),
        ([5, 5], [1], "2 prompt_len and 1 output_len; give one of each a request"),
        ([1.9, 100.9], [1, 2], "prompt_len[0] is 1.9; numbers of tokens are whole"),
        ([5, 5], [2, float("nan")], "output_len[1] is nan; numbers of tokens are whole"),
        ([5], [2**40], "output_len[0] is 1099511627776; no request has more than 10,000,000"),
        ([float("inf")], [1], "prompt_len[0] is inf; no request has more than 10,000,000 tokens"),
        ([[5, 5]], [1], "prompt_len: numbers of tokens are whole ones in one line, not int64 of "),
        ([[5], [5, 5]], [1], "prompt_len: numbers of tokens are whole ones in one line"),
        (5, [1], "in one line, not int64 of shape (); give one a request"),
        (["5"], [1], "in one line, not <U1 of shape (1,); give one a request"),
        ([5], [True], "output_len: numbers of tokens are whole ones in one line, not bool of"),
        ([2**70], [1], "prompt_len: numbers of tokens are whole ones in one line, not object of"),
    ],
)
def test_lengths_that_cannot_be_are_refused_in_a_line(
    prompts: Any, outputs: Any, sentence: str
) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)) as refused:
        from_lengths(prompts, outputs)
    assert "\n" not in str(refused.value)


def test_whole_lengths_of_any_kind_of_number_are_taken() -> None:
    workload = from_lengths(np.array([3.0, 5.0]), np.array([1, 2], np.uint8))
    assert (workload.prompt_len.tolist(), workload.output_len.tolist()) == ([3, 5], [1, 2])
    assert workload.prompt_len.dtype == workload.output_len.dtype == np.int64


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("prompt_len", [0, 5], "at least one token"),
        ("output_len", [1, 0], "given outputs"),
        ("arrival", [0.0], "arrival has 1 rows, expected 2"),
        ("has_output", [False, True], "an output that is not given is 0"),
    ],
)
def test_check_names_the_broken_invariant(column: str, value: list[float], sentence: str) -> None:
    workload = from_lengths([3, 5], [1, 2])
    with pytest.raises(AssertionError, match=sentence):
        replace(workload, **{column: np.array(value)}).check()


def test_known_length_must_be_given() -> None:
    workload = replace(
        from_lengths([3], [1]),
        is_known=np.array([True]),
        has_output=np.array([False]),
        output_len=np.array([0]),
    )
    with pytest.raises(AssertionError, match="a known length is given"):
        workload.check()


def test_more_units_than_the_prompt_holds_are_refused() -> None:
    blocks = token_prompts([[7, 8]], unit_tokens=16)
    from_lengths([17], [1], prompts=blocks)
    with pytest.raises(InputError, match="row 0 lists 2 units of 16 tokens, more units than its"):
        from_lengths([16], [1], prompts=blocks)
    held = from_lengths([17], [1], prompts=blocks)
    with pytest.raises(AssertionError, match="no more units"):
        replace(held, prompt_len=np.array([16])).check()


def listed(**changes: Any) -> Prompts:
    """Two requests that share their first two tokens, in lists."""
    columns = {
        "offsets": [0, 3, 5],
        "units": [7, 8, 9, 7, 8],
        "space": [0, 0],
        "unit_tokens": [1],
        "space_names": ("tokens",),
    }
    return Prompts(**{**columns, **changes})  # type: ignore[arg-type]


def test_prompts_may_be_given_in_lists() -> None:
    workload = from_lengths([3, 2], [1, 1], prompts=listed(), ids=["a", "b"], arrival=[0, 1])
    assert content(workload) == [("tokens", [7, 8, 9]), ("tokens", [7, 8])]
    prompts = workload.prompts
    kinds = (prompts.offsets.dtype, prompts.units.dtype, prompts.space.dtype)
    assert kinds == (np.int64, np.int64, np.int32)
    assert workload.ids.tolist() == ["a", "b"]
    assert workload.arrival.tolist() == [0.0, 1.0]
    assert listed(offsets=[0, 0, 0], units=[]).units.dtype == np.int32


def test_columns_that_fit_are_taken_as_they_are() -> None:
    units, names = np.array([1, 2], np.int32), np.array(["a", "b"])
    prompts = listed(units=units, offsets=[0, 1, 2])
    assert prompts.units is units
    assert from_lengths([3, 2], [1, 1], prompts=prompts, ids=names).ids is names


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"offsets": [0, 5]}, "offsets must be one more than space"),
        ({"offsets": []}, "offsets must be one more than space"),
        ({"offsets": [1, 3, 5]}, "offsets must begin with 0"),
        ({"offsets": [0, 6, 5]}, "offsets must not fall"),
        ({"offsets": [0, 3, 4]}, "the last of offsets must be the number of units"),
        ({"offsets": [0, 3.0, 5]}, "offsets: is not whole numbers in one line but float64"),
        ({"units": [[7, 8, 9], [7, 8]]}, "units: is not whole numbers in one line"),
        ({"units": "7 8 9"}, "units: is not whole numbers in one line but <U5 of shape ()"),
        ({"units": None}, "units: is not whole numbers in one line but object of shape ()"),
        ({"units": np.full(5, 2**63, np.uint64)}, "units: has numbers beyond 64 bits"),
        ({"space": [0, 1]}, "space must be rows of space_names, from 0"),
        ({"space": [0, -1]}, "space must be rows of space_names, from 0"),
        ({"space": [0, 2**40]}, "space: has numbers beyond 32 bits"),
        ({"unit_tokens": [0]}, "unit_tokens must be at least 1"),
        ({"unit_tokens": [1, 16]}, "unit_tokens and space_names must be one of each a space"),
        ({"unit_tokens": 1}, "unit_tokens: is not whole numbers in one line but int64 of shape ()"),
    ],
)
def test_prompts_that_cannot_be_are_refused_in_a_line(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=re.escape(f"Prompts: {sentence}")) as refused:
        listed(**changes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"prompts": listed()}, "prompts of 2 requests and 3 prompt_len; give one of each"),
        ({"prompts": [[1], [2], [3]]}, "prompts are list, not blendsim.request.Prompts"),
        ({"ids": ["a", "b", "a"]}, "ids: 'a' is given twice; give each once"),
        ({"ids": ["a"]}, "ids of shape (1,) and 3 requests; give one a request"),
        ({"ids": [["a"], ["b", "c"]]}, "ids of shape (0, 0) and 3 requests"),
        ({"arrival": [0.0]}, "arrival is not 3 numbers; give seconds, one a request"),
        ({"arrival": [0.0, 1.0, float("nan")]}, "arrival is not 3 numbers"),
        ({"arrival": ["now", "then", "later"]}, "arrival is not 3 numbers"),
    ],
)
def test_what_is_given_beside_lengths_is_refused_in_a_line(
    given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=re.escape(f"from_lengths: {sentence}")) as refused:
        from_lengths([5, 5, 5], [1, 1, 1], **given)
    assert "\n" not in str(refused.value)


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1), st.data())
def test_select_keeps_each_request_whole(rows: list[list[int]], data: st.DataObject) -> None:
    workload = of_tokens(rows)
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), unique=True))
    chosen = select(workload, np.array(index, np.int64))
    chosen.check()
    assert content(chosen) == [content(workload)[i] for i in index]
    assert chosen.ids.tolist() == [str(i) for i in index]


def test_select_takes_a_mask() -> None:
    workload = of_tokens([[1], [2, 3], [4]])
    chosen = select(workload, np.array([True, False, True]))
    assert content(chosen) == [("tokens", [1]), ("tokens", [4])]


def test_pool_of_one_is_that_workload() -> None:
    workload = from_lengths([1], [1])
    assert pool([workload]) is workload


def test_pool_numbers_repeated_sources_and_prefixes_ids() -> None:
    one = from_lengths([1], [1], source="azure")
    pooled = pool([one, one, one])
    assert pooled.source_names == ("azure", "azure#2", "azure#3")
    assert pooled.ids.tolist() == ["azure/0", "azure#2/0", "azure#3/0"]
    assert pooled.source.tolist() == [0, 1, 2]


def test_pool_joins_spaces_of_one_name_and_keeps_others_apart() -> None:
    pooled = pool([of_tokens([[1, 2]]), of_tokens([[1, 3]]), of_tokens([[1]], space="other")])
    assert pooled.prompts.space_names == ("tokens", "other")
    assert content(pooled) == [("tokens", [1, 2]), ("tokens", [1, 3]), ("other", [1])]


def test_pool_keeps_wide_hashes() -> None:
    wide = from_lengths(
        [32],
        [1],
        prompts=replace(
            token_prompts([[1, 2]], space="hashes", unit_tokens=16),
            units=np.array([2**40, 2**41], np.int64),
        ),
    )
    pooled = pool([of_tokens([[5]]), wide])
    assert content(pooled) == [("tokens", [5]), ("hashes", [2**40, 2**41])]


def test_pool_keeps_origins_and_notes_in_order() -> None:
    one = from_lengths([1], [1], origin=("a.csv",), notes=("dropped 1 row",))
    two = from_lengths([1], [1], origin=("b.csv",))
    pooled = pool([one, two])
    assert pooled.origin == ("a.csv", "b.csv")
    assert pooled.notes == ("dropped 1 row",)
