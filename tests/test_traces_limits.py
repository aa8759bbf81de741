"""Oversize requests are refused by name or dropped by count; outputs end at their max_tokens."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_traces_openai import lines

from blendsim.errors import OversizeError
from blendsim.request import from_lengths
from blendsim.traces import (
    ReadOptions,
    load,
    load_pool,
    oversize,
    read_workload,
    without_oversize,
    write_workload,
)


def test_a_request_that_just_fits_is_not_oversize() -> None:
    assert oversize(from_lengths([90, 91, 10], [10, 10, 90]), 100).tolist() == [1]


def test_without_an_output_length_one_token_of_it_counts() -> None:
    workload = from_lengths([99, 100], [1, 1])
    bare = replace(workload, output_len=np.zeros(2, np.int64), has_output=np.zeros(2, np.bool_))
    assert oversize(bare, 100).tolist() == [1]


def test_a_fitting_workload_is_returned_as_it_is() -> None:
    workload = from_lengths([90], [10])
    assert without_oversize(workload, 100, skip=False) is workload


def test_the_error_says_how_many_which_and_by_how_much() -> None:
    workload = from_lengths([90, 95, 50], [10, 10, 1060])
    with pytest.raises(OversizeError) as caught:
        without_oversize(workload, 100, skip=False)
    text = str(caught.value)
    assert text.startswith("2 of 3 requests are longer than the 100 tokens that fit: ")
    assert "1 (5 too many), 2 (1,010 too many);" in text
    assert "--skip-oversize (in Python without_oversize(…, skip=True)" in text


def test_a_long_list_is_cut() -> None:
    with pytest.raises(OversizeError, match=r"4 \(10 too many\) and 7 more; drop"):
        without_oversize(from_lengths([100] * 12, [10] * 12), 100, skip=False)


def test_skipping_drops_them_and_notes_the_count() -> None:
    kept = without_oversize(from_lengths([90, 95], [10, 10]), 100, skip=True)
    assert kept.ids.tolist() == ["0"]
    assert kept.notes[0].startswith("1 of 2 requests were longer than 100 tokens and were left out")


def test_nothing_left_is_an_error_even_when_skipping() -> None:
    with pytest.raises(OversizeError, match="all 2 requests are longer"):
        without_oversize(from_lengths([90, 95], [20, 20]), 100, skip=True)


def test_outputs_beyond_max_tokens_are_cut_and_the_first_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    rows = ("a,5,7,7", "b,5,1200,1000", "c,5,60,", "d,5,9,2")
    path.write_text("\n".join(["id,input_tokens,output_tokens,max_tokens", *rows]))
    workload = load(str(path))
    assert workload.output_len.tolist() == [7, 1000, 60, 2]
    assert workload.output_limit.tolist() == [7, 1000, 0, 2]
    assert workload.notes == (
        f"{path}: 2 of 4 outputs are longer than their request's max_tokens, where an engine "
        "stops, and were cut to it: the first is b (1,200 tokens of 1,000); if the outputs are "
        "right, remove max_tokens",
    )


def test_outputs_end_at_max_tokens_in_every_format_that_has_both(tmp_path: Path) -> None:
    lengths = {"input_tokens": 5, "output_tokens": 9, "max_tokens": 4}
    write_workload(
        replace(from_lengths([5], [9]), output_limit=np.array([4])), tmp_path / "w.parquet"
    )
    (tmp_path / "v.csv").write_text("num_prefill_tokens,num_decode_tokens,max_tokens\n5,9,4\n")
    paths = [
        lines(tmp_path / "a.jsonl", lengths),
        lines(tmp_path / "b.jsonl", {"prompt": "Hi", "output_tokens": 9, "max_tokens": 4}),
        tmp_path / "w.parquet",
        tmp_path / "v.csv",
    ]
    pooled = load_pool([str(path) for path in paths])
    assert pooled.output_len.tolist() == [4] * 4
    told = [note for note in pooled.notes if "were cut to it" in note]
    assert [note.split(": ")[0] for note in told] == [str(path) for path in paths]


def test_results_of_a_run_with_a_larger_limit_end_at_this_one(tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    batch = lines(tmp_path / "b.jsonl", {"custom_id": "a", "url": "/v1/chat", "body": body})
    usage = {"status_code": 200, "body": {"usage": {"completion_tokens": 9}}}
    results = lines(tmp_path / "r.jsonl", {"custom_id": "a", "response": usage})
    workload = load(str(batch), ReadOptions(lengths=results))
    assert workload.output_len.tolist() == [4]
    assert "the first is a (9 tokens of 4)" in workload.notes[-1]


def test_what_was_cut_is_not_told_again(tmp_path: Path) -> None:
    log = lines(tmp_path / "a.jsonl", {"input_len": 5, "output_len": 9, "max_tokens": 4})
    first = load(str(log))
    write_workload(first, tmp_path / "w.parquet")
    again = load(str(tmp_path / "w.parquet"))
    assert again.notes == first.notes
    assert read_workload(tmp_path / "w.parquet").output_len.tolist() == [4]
