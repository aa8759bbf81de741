"""JSONL traces of block hashes."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blendsim.errors import InputError
from blendsim.prefix import shareable_tokens, sort_prompts
from blendsim.request import Workload
from blendsim.traces import ReadOptions, load, load_pool
from blendsim.traces.content import content
from blendsim.traces.hashed_jsonl import MOONCAKE, _parse, _walk


def row(length: int, hashes: object, **more: object) -> dict[str, object]:
    return {"timestamp": 0, "input_length": length, "output_length": 1, "hash_ids": hashes} | more


def read(path: Path, *rows: object) -> Workload:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return load(str(path))


def sharing(workload: Workload) -> int:
    return shareable_tokens(workload, sort_prompts(workload))


def test_mooncake_blocks_are_512_tokens_and_times_milliseconds(tmp_path: Path) -> None:
    workload = read(
        tmp_path / "m.jsonl",
        row(1500, [1, 2, 3], timestamp=27000),
        row(1100, [1, 2, 9], timestamp=29500),
    )
    assert workload.prompts.unit_tokens.tolist() == [512]
    assert workload.arrival.tolist() == [0, 2.5]
    assert sharing(workload) == 1024


def test_bailian_blocks_are_16_tokens_and_times_seconds(tmp_path: Path) -> None:
    chat = {"chat_id": 1, "parent_chat_id": -1, "type": "text", "turn": 1}
    workload = read(
        tmp_path / "b.jsonl",
        row(40, [1, 2, 3], timestamp=61.114, **chat),
        row(45, [1, 2, 9], timestamp=62.5, **chat),
    )
    assert workload.prompts.unit_tokens.tolist() == [16]
    assert workload.arrival.tolist() == pytest.approx([0, 1.386])
    assert sharing(workload) == 32


def test_a_half_filled_last_block_shares_no_more_than_the_prompt(tmp_path: Path) -> None:
    assert sharing(read(tmp_path / "m.jsonl", row(700, [1, 2]), row(700, [1, 2]))) == 700


def test_two_files_never_share_though_their_ids_are_equal(tmp_path: Path) -> None:
    read(tmp_path / "a.jsonl", row(512, [1]), row(512, [1], timestamp=5))
    read(tmp_path / "b.jsonl", row(512, [1]))
    pooled = load_pool([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])
    assert len(pooled.prompts.space_names) == 2
    assert sharing(pooled) == 512


def test_the_same_file_twice_shares_all(tmp_path: Path) -> None:
    read(tmp_path / "a.jsonl", row(512, [1]))
    assert sharing(load_pool([str(tmp_path / "a.jsonl")] * 2)) == 512


def test_a_row_without_hashes_shares_nothing(tmp_path: Path) -> None:
    bare = {"timestamp": 0, "input_length": 900, "output_length": 1}
    workload = read(tmp_path / "m.jsonl", bare, row(900, None), row(900, [4]), bare)
    assert np.diff(workload.prompts.offsets).tolist() == [0, 0, 1, 0]
    assert sharing(workload) == 0


def test_more_hashes_than_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 2, column 'hash_ids': 3 ids, but 1024 prompt"):
        read(tmp_path / "m.jsonl", row(1025, [1, 2, 3]), row(1024, [1, 2, 3]))


@pytest.mark.parametrize("hashes", [[1.5], ["a"], [None], [True], [2**64], 7, "12", {"a": 1}])
def test_hashes_that_are_no_whole_numbers_are_refused(tmp_path: Path, hashes: object) -> None:
    with pytest.raises(InputError, match=r"line 2, column 'hash_ids': .* is not a"):
        read(tmp_path / "m.jsonl", row(512, [1]), row(512, hashes))


@pytest.mark.parametrize("lacking", [{"timestamp": None}, {}])
def test_a_row_that_lacks_its_timestamp_is_told_so(
    tmp_path: Path, lacking: dict[str, object]
) -> None:
    bare = {key: value for key, value in row(512, [2]).items() if key != "timestamp"}
    words = "line 2, column 'timestamp' is missing: give all rows a time or none"
    with pytest.raises(InputError, match=words):
        read(tmp_path / "m.jsonl", row(512, [1]), bare | lacking)


@pytest.mark.parametrize("time", ["noon", float("nan"), 1e300, True])
def test_a_timestamp_that_is_no_time_is_refused(tmp_path: Path, time: object) -> None:
    with pytest.raises(
        InputError, match=r"line 2, column 'timestamp': .* is not a time: give a number"
    ):
        read(tmp_path / "m.jsonl", row(512, [1]), row(512, [2], timestamp=time))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", "line 2: is not JSON"),
        ("[1, 2]", "line 2: .* is not a JSON object"),
        ("null", "line 2: nothing is not a JSON object"),
        (" null", "line 2: nothing is not a JSON object"),
        ('null{"input_length": 5}', "line 2: is not JSON"),
        ('{"input_length": 5} null', "line 2: is not JSON"),
        ("true", "line 2: True is not a JSON object"),
        ("5", "line 2: 5 is not a JSON object"),
        ('"{}"', "line 2: '{}' is not a JSON object"),
        ("[" * 100_000, "line 2: is nested too deeply"),
    ],
)
def test_a_line_that_is_no_object_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(row(512, [1])) + "\n" + line + "\n")
    with pytest.raises(InputError, match=message):
        load(str(path))


def test_negative_and_wide_hashes_keep_what_is_equal(tmp_path: Path) -> None:
    big = 2**62
    workload = read(
        tmp_path / "m.jsonl", row(1024, [-5, big]), row(1024, [-5, big]), row(512, [big])
    )
    units = workload.prompts.units
    assert units.min() >= 0
    assert units[0] == units[2] != units[1] == units[3] == units[4]


def test_whole_floats_are_read_by_the_slow_way(tmp_path: Path) -> None:
    assert read(tmp_path / "m.jsonl", row(512.0, [1])).prompt_len.tolist() == [512]


lengths = st.integers(1, 5000)


@given(
    st.lists(
        st.tuples(
            lengths, lengths, st.integers(0, 10**6), st.lists(st.integers(0, 99), max_size=2)
        ),
        min_size=1,
        max_size=20,
    )
)
def test_the_fast_parser_and_the_slow_walk_agree(tmp_path_factory, rows) -> None:
    path = tmp_path_factory.mktemp("h") / "m.jsonl"
    path.write_text(
        "\n".join(
            json.dumps(row(512 + p, ids, output_length=d, timestamp=t)) for p, d, t, ids in rows
        )
    )
    fast, slow = _parse(content(path)), _walk(path, MOONCAKE.block_tokens)
    assert fast is not None
    assert [a.tolist() for a in fast] == [a.tolist() for a in slow]


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (True, "True is not a number"),
        (10**400, "1000.*… is absurd|1000.* is absurd"),
        (-(10**400), "is negative"),
        ([512], r"\[512\] is not a number"),
    ],
)
def test_lengths_only_json_can_write_are_refused(
    tmp_path: Path, length: object, message: str
) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(row(1, []) | {"input_length": length}) + "\n")
    with pytest.raises(InputError, match=rf"line 1, column 'input_length': .*({message})"):
        load(str(path))


def test_an_empty_file_of_a_forced_format_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("\n")
    with pytest.raises(InputError, match="holds no requests"):
        load(str(path), ReadOptions(format="mooncake-jsonl"))


def test_a_null_among_other_fields_is_read(tmp_path: Path) -> None:
    rows = [row(600, [1], note=None), row(600, [1], note="} null")]
    assert sharing(read(tmp_path / "m.jsonl", *rows)) == 512


def test_arrivals_of_hashed_traces_count_from_the_earliest(tmp_path: Path) -> None:
    rows = [
        {"timestamp": t, "input_length": 5, "output_length": 2, "hash_ids": [k]}
        for k, t in enumerate((30_000, 27_000, 27_500))
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load(str(tmp_path / "t.jsonl")).arrival.tolist() == [3.0, 0.0, 0.5]
