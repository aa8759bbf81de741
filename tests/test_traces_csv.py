"""CSV traces: what each format adds to the contract."""

from pathlib import Path

import numpy as np
import pytest

from blendsim.errors import InputError
from blendsim.prefix import shareable_tokens, sort_prompts
from blendsim.traces import load

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def read(directory: Path, text: str, name: str = "trace.csv"):
    path = directory / name
    path.write_text(text, newline="")
    return load(str(path))


def test_azure_arrivals_count_from_the_earliest_with_seven_digits(tmp_path: Path) -> None:
    rows = "2023-11-16 18:17:04.0319600,5,1\n2023-11-16 18:17:03.9799600,6,2\n"
    workload = read(tmp_path, AZURE + rows)
    assert workload.arrival.tolist() == pytest.approx([0.052, 0.0], abs=1e-9)


def test_azure_2024_zones_with_and_without_fraction_mix(tmp_path: Path) -> None:
    rows = "2024-05-10 00:00:00.250000+00:00,5,1\n2024-05-10 00:00:02+00:00,6,2\n"
    assert read(tmp_path, AZURE + rows).arrival.tolist() == pytest.approx([0, 1.75])


def test_a_placeholder_timestamp_means_all_at_once_and_is_noted(tmp_path: Path) -> None:
    workload = read(tmp_path, AZURE + "XXX,5,1\nXXX,6,2\n")
    assert workload.arrival.tolist() == [0, 0]
    assert len(workload.notes) == 1
    assert "every TIMESTAMP is 'XXX'" in workload.notes[0]


@pytest.mark.parametrize(
    ("time", "words"), [("noon", "is not a time"), ("", "is missing"), ("nan", "is not a time")]
)
def test_one_bad_timestamp_is_named(tmp_path: Path, time: str, words: str) -> None:
    rows = f"2023-11-16 18:17:04,5,1\n\n{time},6,2\n"
    with pytest.raises(InputError, match=rf"line 4, column 'TIMESTAMP': '{time}' {words}"):
        read(tmp_path, AZURE + rows)


def test_times_with_and_without_zone_do_not_mix(tmp_path: Path) -> None:
    rows = "2024-05-10 00:00:00+00:00,5,1\n2024-05-10 00:00:02,6,2\n"
    with pytest.raises(InputError, match="TIMESTAMP values are written in different ways"):
        read(tmp_path, AZURE + rows)


def test_failed_burstgpt_calls_are_dropped_and_counted(tmp_path: Path) -> None:
    head = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    rows = "5,ChatGPT,472,18,490,API log\n45,ChatGPT,1087,0,1087,API log\n118,GPT-4,0,0,0,API log\n"
    workload = read(tmp_path, head + rows)
    assert workload.prompt_len.tolist() == [472]
    assert workload.ids.tolist() == ["0"]
    assert "2 of 3 rows are failed calls" in workload.notes[0]


def test_a_burstgpt_trace_of_failures_only_is_empty(tmp_path: Path) -> None:
    head = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    with pytest.raises(InputError, match="holds no requests"):
        read(tmp_path, head + "5,ChatGPT,472,0,472,API log\n")


def test_a_bad_row_behind_failed_ones_is_found(tmp_path: Path) -> None:
    head = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    rows = "5,ChatGPT,472,0,472,API log\n6,ChatGPT,-2,5,3,API log\n"
    with pytest.raises(InputError, match=r"line 3, column 'Request tokens': '-2' is negative"):
        read(tmp_path, head + rows)


def test_optional_columns_give_id_known_length_and_limit(tmp_path: Path) -> None:
    head = "id,num_prefill_tokens,num_decode_tokens,is_known,max_tokens\n"
    workload = read(tmp_path, head + "clip-1,90,2560,true,4096\nchat-1,40,12,0,\n")
    assert workload.ids.tolist() == ["clip-1", "chat-1"]
    assert workload.is_known.tolist() == [True, False]
    assert workload.output_limit.tolist() == [4096, 0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,1,1,maybe,5", "line 3, column 'is_known': 'maybe' is neither true nor false"),
        ("a,1,1,true,-5", "line 3, column 'max_tokens': '-5' is negative"),
        ("b,1,1,true,5", "line 3, column 'id': 'b' was given before in line 2; ids must be uni"),
        (",1,1,true,5", "line 3, column 'id': give all rows an id or none"),
    ],
)
def test_bad_optional_columns_are_named(tmp_path: Path, row: str, message: str) -> None:
    head = "id,num_prefill_tokens,num_decode_tokens,is_known,max_tokens\n"
    with pytest.raises(InputError, match=message):
        read(tmp_path, head + f"b,1,1,true,5\n{row}\n")


@pytest.mark.parametrize("cell", ["", "0", "0.0", "NA", "null", " nan "])
def test_no_limit_is_not_blamed_for_another_rows_fault(tmp_path: Path, cell: str) -> None:
    head = f"num_prefill_tokens,num_decode_tokens,max_tokens\n1,1,{cell}\n"
    assert read(tmp_path, head + "1,1,5\n").output_limit.tolist() == [0, 5]
    with pytest.raises(InputError, match="line 3, column 'num_prefill_tokens': '-1' is negative"):
        read(tmp_path, head + "-1,1,5\n")


def test_a_byte_order_mark_blank_lines_and_spaces_are_no_content(tmp_path: Path) -> None:
    text = "\ufeff\n prompt_tokens , response_tokens \n\n 5 , 6 \n\n7,8.0\n"
    workload = read(tmp_path, text)
    assert workload.prompt_len.tolist() == [5, 7]
    assert workload.output_len.tolist() == [6, 8]


def test_line_numbers_count_blank_and_quoted_lines(tmp_path: Path) -> None:
    text = "prompt_tokens,response_tokens\n\n\n5,6\n\n7,x\n"
    with pytest.raises(InputError, match="line 6, column 'response_tokens': 'x'"):
        read(tmp_path, text)


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes(b"prompt_tokens,response_tokens\n5,6\n5,\xe9\n")
    with pytest.raises(InputError, match=r"latin\.csv, line 3: byte 0xe9 is not UTF-8"):
        load(str(path))


def test_a_column_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="columns 'prompt_tokens' and 'prompt_tokens' could both be"
    ):
        read(tmp_path, "prompt_tokens,response_tokens,prompt_tokens\n1,2,3\n")


@pytest.mark.parametrize("column", ["arrived_at", "max_tokens", "id", "is_known"])
def test_an_optional_column_given_twice_is_refused(tmp_path: Path, column: str) -> None:
    head = f"num_prefill_tokens,num_decode_tokens,{column},{column}\n"
    with pytest.raises(InputError, match=f"line 1: column '{column}' is twice.*; rename or remov"):
        read(tmp_path, head + "5,6,1,1\n")


def test_ids_that_are_all_empty_are_none(tmp_path: Path) -> None:
    rows = "id,num_prefill_tokens,num_decode_tokens\n,5,6\n,7,8\n"
    assert read(tmp_path, rows).ids.tolist() == ["0", "1"]


def test_a_quote_that_is_not_closed_is_named_where_it_opens(tmp_path: Path) -> None:
    text = 'prompt_tokens,response_tokens\n1,2\n"5,6\n7,8\n9,1\n'
    told = "line 3: has 1 field, as a quote that opens here closes in line 5 only; the header has 2"
    with pytest.raises(InputError, match=told):
        read(tmp_path, text)


def test_a_gap_in_the_header_does_not_shift_columns(tmp_path: Path) -> None:
    workload = read(tmp_path, "prompt_tokens,,,response_tokens\n1,8,9,2\n")
    assert (workload.prompt_len.tolist(), workload.output_len.tolist()) == ([1], [2])


def test_lengths_alone_share_nothing(tmp_path: Path) -> None:
    workload = read(tmp_path, "prompt_tokens,response_tokens\n5,6\n5,6\n")
    assert shareable_tokens(workload, sort_prompts(workload)) == 0


def test_the_source_is_called_like_the_file(tmp_path: Path) -> None:
    workload = read(tmp_path, "prompt_tokens,response_tokens\n5,6\n", "my.trace.csv")
    assert workload.source_names == ("my.trace",)


def test_the_largest_length_that_is_believed_is_ten_million(tmp_path: Path) -> None:
    workload = read(tmp_path, "prompt_tokens,response_tokens\n10000000,1\n")
    assert workload.prompt_len.tolist() == [10_000_000]
    with pytest.raises(InputError, match=r"10000001.* is absurd"):
        read(tmp_path, "prompt_tokens,response_tokens\n10000001,1\n")


def test_four_hundred_thousand_rows_read_in_seconds(tmp_path: Path) -> None:
    import time

    rng = np.random.default_rng(0)
    rows = rng.integers(1, 9000, (400_000, 2)).tolist()
    text = AZURE + "".join(f"2023-11-16 18:17:03.97,{p},{d}\n" for p, d in rows)
    (tmp_path / "big.csv").write_text(text)
    start = time.perf_counter()
    workload = load(str(tmp_path / "big.csv"))
    assert time.perf_counter() - start < 5
    assert workload.prompt_len.sum() == sum(p for p, _ in rows)
