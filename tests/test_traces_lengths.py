"""Logs of lengths under any of the usual names, as CSV and as JSON Lines."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blendsim.errors import InputError
from blendsim.prefix import shareable_tokens, sort_prompts
from blendsim.request import Workload
from blendsim.traces import ReadOptions, load
from blendsim.traces.content import content
from blendsim.traces.length_names import ARRIVAL, OUTPUT, PROMPT, find_names
from blendsim.traces.lengths_jsonl import _parse, _walk
from blendsim.traces.load import format_of


def write(directory: Path, text: str) -> Path:
    path = directory / "log"
    path.write_text(text, newline="")
    return path


def read(directory: Path, text: str, **options: str) -> Workload:
    return load(str(write(directory, text)), ReadOptions(**options))


def objects(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(("prompt", "output"), list(itertools.product(PROMPT, OUTPUT)))
def test_any_two_names_are_lengths_in_csv_and_json(
    tmp_path: Path, prompt: str, output: str
) -> None:
    csv = read(tmp_path, f"model,{prompt},{output}\nm,5,6\nm,7,8\n")
    lines = read(tmp_path, objects({"model": "m", prompt: 5, output: 6}, {prompt: 7, output: 8}))
    for workload in (csv, lines):
        assert workload.prompt_len.tolist() == [5, 7]
        assert workload.output_len.tolist() == [6, 8]
        assert workload.has_output.all()
        assert workload.arrival.tolist() == [0, 0]


@pytest.mark.parametrize("name", [*ARRIVAL, "Timestamp", "ARRIVED_AT"])
def test_arrivals_have_four_names(tmp_path: Path, name: str) -> None:
    csv = read(tmp_path, f"{name},input_tokens,output_tokens\n3.5,5,6\n1,7,8\n")
    first, second = ({name: t, "input_len": 5, "output_len": 6} for t in (3.5, 1))
    assert csv.arrival.tolist() == [2.5, 0]
    assert read(tmp_path, objects(first, second)).arrival.tolist() == [2.5, 0]


def test_of_two_arrivals_the_first_name_counts(tmp_path: Path) -> None:
    head = "timestamp,arrival,input_tokens,output_tokens\n"
    assert read(tmp_path, head + "9,1,5,6\n5,3,5,6\n").arrival.tolist() == [0, 2]


def test_dates_are_read_in_json_too(tmp_path: Path) -> None:
    times = ("2024-05-10T00:00:02Z", "2024-05-10T00:00:00.5Z")
    rows = ({"timestamp": t, "input_tokens": 5, "output_tokens": 6} for t in times)
    assert read(tmp_path, objects(*rows)).arrival.tolist() == pytest.approx([1.5, 0])


def test_the_older_formats_are_tried_first(tmp_path: Path) -> None:
    header = "num_prefill_tokens,num_decode_tokens,prompt_tokens,output_tokens\n"
    assert format_of(write(tmp_path, header)).name == "vidur-csv"
    assert format_of(write(tmp_path, header.upper())).name == "lengths-csv"
    row = {"input_length": 5, "output_length": 6}
    assert format_of(write(tmp_path, objects(row | {"timestamp": 0}))).name == "mooncake-jsonl"
    assert format_of(write(tmp_path, objects(row | {"turn": 1}))).name == "bailian-jsonl"
    assert format_of(write(tmp_path, objects(row))).name == "lengths-jsonl"
    further = row | {"timestamp": 0, "prefix_id": "a", "prefix_tokens": 3}
    assert format_of(write(tmp_path, objects(further))).name == "lengths-jsonl", "none is lost"
    hashed = format_of(write(tmp_path, objects(further | {"hash_ids": [1]})))
    assert hashed.name == "mooncake-jsonl"


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("input_tokens,prompt_len,output_len", "'input_tokens' and 'prompt_len' could both"),
        ("input_len,output_len,Output_Len", "'output_len' and 'Output_Len' could both"),
        ("input_len,input_len,output_len", "'input_len' and 'input_len' could both"),
        ("input_len,output_len,ID,id", "'ID' and 'id' could both be the id"),
    ],
)
def test_two_columns_for_one_thing_are_refused_with_their_names(
    tmp_path: Path, columns: str, words: str
) -> None:
    with pytest.raises(InputError, match=f"log, line 1: columns {words}.*; rename or remove"):
        read(tmp_path, columns + "\n1,2,3,4\n")
    row = dict.fromkeys(columns.split(","), 1)
    if len(row) == len(columns.split(",")):
        with pytest.raises(InputError, match=f"log, line 2: columns {words}.*; rename or remove"):
            read(tmp_path, "\n" + objects(row))


@pytest.mark.parametrize("form", ["lengths-csv", "lengths-jsonl"])
def test_a_forced_format_says_which_column_it_lacks(tmp_path: Path, form: str) -> None:
    text = "input_len,words\n5,6\n" if form == "lengths-csv" else objects({"input_len": 5})
    with pytest.raises(InputError, match="no column is called like the length of the output"):
        read(tmp_path, text, format=form)


def test_the_optional_columns_are_read_whatever_their_case(tmp_path: Path) -> None:
    csv = "ID,input_len,output_len,Is_Known,MAX_TOKENS\na,5,6,true,9\nb,5,6,,\n"
    rows = (
        {"ID": "a", "input_len": 5, "output_len": 6, "Is_Known": True, "MAX_TOKENS": 9},
        {"ID": "b", "input_len": 5, "output_len": 6, "Is_Known": None, "MAX_TOKENS": 0},
    )
    for text in (csv, objects(*rows)):
        workload = read(tmp_path, text)
        assert workload.ids.tolist() == ["a", "b"]
        assert workload.is_known.tolist() == [True, False]
        assert workload.output_limit.tolist() == [9, 0]


GOOD = {"id": "a", "input_len": 5, "output_len": 6, "timestamp": 1, "is_known": 0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "a"}, "line 3, column 'id': 'a' was given before in line 1"),
        ({"id": [1]}, r"line 3, column 'id': \[1\] is not a name; give a text or a number"),
        ({"id": None}, "line 3, column 'id': give all rows an id or none"),
        ({"is_known": "yes"}, "line 3, column 'is_known': 'yes' is neither true nor false"),
        ({"timestamp": None}, "line 3, column 'timestamp' is missing: give all rows a time"),
        ({"timestamp": True}, "line 3, column 'timestamp': True is not a time"),
        ({"timestamp": "\ud800"}, "line 3, column 'timestamp': .* is not a time"),
        ({"timestamp": 1e308}, "line 3, column 'timestamp': 1e.308 is not a time"),
        ({"timestamp": "2024-05-10"}, "column 'timestamp': times are written in different ways"),
        ({"max_tokens": -1}, "line 3, column 'max_tokens': -1 is negative"),
        ({"max_tokens": False}, "line 3, column 'max_tokens': False is not a number"),
        ({"output_len": None}, "line 3, column 'output_len' is missing: give a whole number"),
    ],
)
def test_bad_values_of_json_are_named(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    with pytest.raises(InputError, match=f"log, {words}" if "line" in words else words) as caught:
        read(tmp_path, objects(GOOD) + "\n" + objects(GOOD | {"id": "b"} | change))
    assert "\n" not in str(caught.value)


def in_csv(time: str | None, prompt: int) -> str:
    return f"{time or ''},{prompt},6\n"


def in_json(time: str | None, prompt: int) -> str:
    return objects({"timestamp": time, "input_len": prompt, "output_len": 6})


FORMS = {"csv": ("timestamp,input_len,output_len\n", in_csv), "json": ("", in_json)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("times", "said"),
    [
        (["", ""], "empty"),
        ([None, None], "empty"),
        ([None, ""], "empty"),
        ([None], "empty"),
        (["XXX", "XXX", "XXX"], "'XXX'"),
        (["nan", "nan"], "'nan'"),
    ],
)
def test_times_that_all_say_the_same_nothing_are_none(
    tmp_path: Path, form: str, times: list[str | None], said: str
) -> None:
    head, line = FORMS[form]
    text = head + "".join(line(time, 5 + i) for i, time in enumerate(times))
    workload = read(tmp_path, text)
    assert workload.arrival.tolist() == [0] * len(times)
    assert workload.notes == (
        f"{tmp_path}/log: every timestamp is {said}; all requests arrive at 0",
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("times", "line", "words"),
    [
        (["3", None], 2, "is missing: give all rows a time or none"),
        ([None, "3"], 1, "is missing: give all rows a time or none"),
        (["XXX", "3"], 1, "'XXX' is not a time: give seconds"),
        (["XXX", "YYY"], 1, "'XXX' is not a time: give seconds"),
        (["XXX"], 1, "'XXX' is not a time: give seconds"),
    ],
)
def test_a_time_that_is_missing_or_none_is_named(
    tmp_path: Path, form: str, times: list[str | None], line: int, words: str
) -> None:
    head, write_line = FORMS[form]
    text = head + "".join(write_line(time, 5) for time in times)
    where = f"line {line + (head != '')}, column 'timestamp':? ?('')? ?"
    with pytest.raises(InputError, match=where + words):
        read(tmp_path, text)


def test_half_a_pair_of_surrogates_is_no_time(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 1, column 'timestamp': .* is not a time"):
        read(tmp_path, objects({"timestamp": "\ud800", "input_len": 5, "output_len": 6}))


def test_ids_that_begin_late_are_refused(tmp_path: Path) -> None:
    bare = {"input_len": 5, "output_len": 6}
    with pytest.raises(InputError, match="line 2, column 'id': give all rows an id or none"):
        read(tmp_path, objects(bare, bare | {"id": "b"}))


def test_lengths_alone_share_nothing(tmp_path: Path) -> None:
    row = {"input_len": 5, "output_len": 6}
    workload = read(tmp_path, objects(row, row))
    assert shareable_tokens(workload, sort_prompts(workload)) == 0


def test_block_hashes_need_no_times(tmp_path: Path) -> None:
    row = {"input_length": 600, "output_length": 6, "hash_ids": [1, 2]}
    workload = read(tmp_path, objects(row, row | {"hash_ids": [1, 3]}))
    assert workload.arrival.tolist() == [0, 0]
    assert shareable_tokens(workload, sort_prompts(workload)) == 512
    slow = objects(row | {"input_length": 600.0}, row)
    assert read(tmp_path, slow).arrival.tolist() == [0, 0]
    forced = objects({"input_length": 5, "output_length": 6})
    assert read(tmp_path, forced, format="mooncake-jsonl").prompt_len.tolist() == [5]


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ((None, 5), "line 2, column 'timestamp': 5 is given, but none in the first row"),
        ((5, None), "line 2, column 'timestamp' is missing: give all rows a time or none"),
    ],
)
def test_times_of_block_hashes_are_in_all_rows_or_none(
    tmp_path: Path, times: tuple[int | None, int | None], words: str
) -> None:
    rows = ({"input_length": 5, "output_length": 6, "timestamp": time} for time in times)
    with pytest.raises(InputError, match=words):
        read(tmp_path, objects(*rows))


lengths = st.integers(1, 5000)
times = st.floats(-1e9, 1e9) | st.integers(0, 10**9)
row = st.tuples(lengths, lengths, times, st.booleans() | st.none(), st.none() | lengths)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(row, st.sampled_from(["a", " a", "b", "", None])), min_size=1),
    id_of=st.sampled_from([str, int]),
)
def test_both_ways_of_reading_json_agree(
    tmp_path: Path, rows: list[tuple[tuple[object, ...], str | None]], id_of: type
) -> None:
    keys = ("input_len", "output_len", "arrival", "is_known", "max_tokens")
    made = [
        dict(zip(keys, values, strict=True))
        | {"id": id_of(i), "prefix_id": prefix, "prefix_tokens": 1 if prefix else None}
        for i, (values, prefix) in enumerate(rows)
    ]
    path = write(tmp_path, objects(*made))
    names = find_names(tuple(made[0]), "here")
    fast, slow = _parse(content(path), made[0], names), _walk(path, made[0], names)
    assert fast is not None
    for name in ("prompt", "output", "limit", "known", "arrival", "ids"):
        assert getattr(fast, name).tolist() == getattr(slow, name).tolist()
    by_fast, by_slow = fast.prefixes.codes.tolist(), slow.prefixes.codes.tolist()
    assert len(set(zip(by_fast, by_slow, strict=True))) == len(set(by_fast)) == len(set(by_slow))
    assert [code < 0 for code in by_fast] == [code < 0 for code in by_slow]
