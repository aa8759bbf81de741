"""Oversize requests are refused by name or dropped by count."""

from dataclasses import replace

import numpy as np
import pytest

from blendsim.errors import OversizeError
from blendsim.request import from_lengths
from blendsim.traces import oversize, without_oversize


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
    assert "--skip-oversize" in text


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
